"""C-TPT (Yoon et al., ICLR 2024, arXiv 2403.14119): TPT that keeps the class texts apart, for calibration.

Tuning the prompt on entropy alone makes predictions overconfident, the more so the closer the class texts lie. The
loss of TPT gets a second term, the mean distance of the texts from their centroid (section 4), at each step:

    loss = H(mean_i p_i) - weight * mean_k |text_k - mean_j text_j|

The authors' scripts use a weight of 50 for the fine-grained sets and of 20 for ImageNet and its variants, with
AugMix for both. One joint step, as their code makes by default, not one for each term.
"""

from typing import ClassVar

from lorattt.clip.load import ClipSpec
from lorattt.episodes.optim import OptimiserSpec
from lorattt.errors import UserError
from lorattt.methods.tpt import OPTIMISER, TPT
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import FlatnessSpec, Rule


class CTPT(TPT):
    """C-TPT as a LightningModule; defaults are those of the authors' script for fine-grained sets.

    Args:
        clip: Which CLIP to use; any image tower.
        class_names: Names in label order; the dataset's where null.
        prompt: Where the context comes from: words, or the file of a learned prompt.
        views: How the views of an image are made.
        dispersion: Weight of the texts' dispersion.
        selection: Fraction of views that take part in the loss, the most confident ones.
        optimiser: Element-wise optimiser of each episode.
        steps: Optimisation steps per image; 0 gives zero-shot predictions.
        rule: Which views these are: the most confident ones, or with ``flatness`` those whose entropy stays low around
            the prompt (STSS of TLLA).
        flatness: How flatness is measured, for ``rule: flatness``.
        seed: Seed of everything random, with each sample's index. ``seed_everything`` on the command line.

    Raises:
        UserError: If the weight is no finite number of at least 0, the selection keeps no view, the rule is of
            another kind, or the text tower takes no prompt.
    """

    name: ClassVar[str] = "ctpt"

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        class_names: list[str] | None = None,
        prompt: PromptSpec = PromptSpec(),
        views: ViewSpec = ViewSpec(augmix=True),
        dispersion: float = 50.0,
        selection: float = 0.1,
        optimiser: OptimiserSpec = OPTIMISER,
        steps: int = 1,
        rule: Rule = "confidence",
        flatness: FlatnessSpec = FlatnessSpec(),
        seed: int = 0,
    ) -> None:
        if not 0 <= dispersion < float("inf"):
            raise UserError(f"dispersion {dispersion}: a weight must be a finite number of at least 0")
        super().__init__(
            clip=clip,
            class_names=class_names,
            prompt=prompt,
            views=views,
            selection=selection,
            optimiser=optimiser,
            steps=steps,
            rule=rule,
            flatness=flatness,
            seed=seed,
        )
        self.dispersion = dispersion
