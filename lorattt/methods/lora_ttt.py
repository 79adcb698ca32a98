"""LoRA-TTT as a LightningModule; the method itself is in :mod:`lorattt.methods.lora_ttt_engine`."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from lorattt.adapters.layernorm import LayerNormSpec
from lorattt.adapters.lora import LoRASpec
from lorattt.adapters.tuner import AdapterSpec
from lorattt.clip.load import ClipSpec
from lorattt.episodes.optim import OptimiserSpec
from lorattt.methods.lora_ttt_engine import EncodedViews, LoRATTTEngine, LossSpec
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.shared_views import Needs, SharedViews


class LoRATTT(RankedViews):
    """LoRA-TTT as a LightningModule; defaults are the paper's setting for the ImageNet variants.

    Args:
        clip: Which CLIP to use; its image tower must be a ViT.
        tune: What is adapted: LoRA on the attention projections, or the weights and biases of LayerNorm; or an
            adapter of your own, by class path.
        lora: The adapters, for ``tune: lora``.
        layernorm: The norms, for ``tune: layernorm``.
        loss: The objective.
        optimiser: Element-wise optimiser of each episode.
        steps: Optimisation steps per image; 0 gives zero-shot predictions.
        reset_every_step: Clear the optimiser's state before each step, as the authors' loop does.
        chunk: Views encoded at a time: bounds memory, changes nothing else. Null: few enough for a CPU's caches,
            256 on other devices.
        **kwargs: See :class:`RankedViews`.
    """

    name: ClassVar[str] = "lora_ttt"
    needs_gradient: ClassVar[bool] = True

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        tune: Literal["lora", "layernorm"] | AdapterSpec = "lora",
        lora: LoRASpec = LoRASpec(),
        layernorm: LayerNormSpec = LayerNormSpec(),
        loss: LossSpec = LossSpec(),
        optimiser: OptimiserSpec = OptimiserSpec(),
        steps: int = 1,
        reset_every_step: bool = False,
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.selection = loss.selection
        super().__init__(clip=clip, **kwargs)
        adapters: dict[str, LoRASpec | LayerNormSpec] = {"lora": lora, "layernorm": layernorm}
        spec = tune if isinstance(tune, AdapterSpec) else adapters[tune]
        self.engine = LoRATTTEngine(
            self.clip.vit,
            spec.build(self.clip.vit, self.seed),
            loss=loss,
            optimiser=optimiser,
            steps=steps,
            reset_every_step=reset_every_step,
            chunk=chunk,
        )

    @property
    def needs(self) -> Needs:
        """The features of all views, and their inputs of the first adapted block."""
        return Needs(trunks=frozenset([self.engine.first]), chunk=self.engine.chunk)

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` before and after adaptation, and fallbacks ``(E,)``."""
        assert views.pixels is not None
        assert views.tokens is not None
        encoded = EncodedViews(views.trunks[self.engine.first], views.tokens, views.features)
        scale, scores = self.clip.logit_scale, self.view_scores
        outcome = self.engine.run(views.pixels, self.text, scale, views.keys, encoded=encoded, scores=scores)
        return outcome.before, outcome.after, outcome.fallback
