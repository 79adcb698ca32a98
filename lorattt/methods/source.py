"""Base class of methods that learn a prompt from source images: set-up with the data, validation, the prompt's file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.errors import UserError, shortened
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.class_texts import agree_on_classes
from lorattt.prompts.context import Prompt
from lorattt.prompts.files import save_prompt
from lorattt.prompts.learner import ClassPrompts
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.ranking import is_right
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views
from lorattt.views.training import TrainingCrop, TrainingViews


class SourceImages(Protocol):
    """What such a method reads from a datamodule and sets on it."""

    name: str
    class_names: list[str]
    train_transform: TrainingViews | None
    transform: Views | None
    seed: int


class PromptTraining(LightningModule):
    """Learns the context of a prompt, by CoOp's cross-entropy; subclasses define the recipe.

    Everything but the context is frozen. The optimiser is CoOp's: SGD, a first part of the epochs at a small constant
    rate, then a cosine, a step of it after each epoch. A checkpoint holds what is learned and the optimiser's state;
    :meth:`save_prompt` writes the prompt alone.

    Args:
        clip: Which CLIP to use; any image tower.
        class_names: Names in label order; the dataset's where null.
        prompt: Where the context begins: words, a file, or random vectors; one for all classes, or one each.
        crop: How training images are cut.
        lr: Learning rate.
        momentum: SGD's.
        weight_decay: SGD's.
        warmup_epochs: Epochs at ``warmup_lr``, before the cosine begins.
        warmup_lr: Learning rate of these.
        seed: Seed of everything random, with each sample's index. ``seed_everything`` on the command line.

    Attributes:
        context: ``(M, d)`` float32, ``(K, M, d)`` if class-specific; made in ``setup``, which knows the classes.

    Raises:
        UserError: If a number is out of range, or the text tower takes no prompt.
    """

    name: ClassVar[str]
    context: nn.Parameter

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        class_names: list[str] | None = None,
        prompt: PromptSpec = PromptSpec(),
        crop: TrainingCrop = TrainingCrop(),
        lr: float = 2e-3,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup_epochs: int = 1,
        warmup_lr: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.class_names, self.spec, self.crop, self.seed = class_names, prompt, crop, seed
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.warmup_epochs, self.warmup_lr = warmup_epochs, warmup_lr
        self.check_options()
        self.clip = load_clip(clip)
        self.clip.text_tower  # noqa: B018 - rejects a tower that takes no prompt, before any data is read
        # Checkpoints hold what is learned; the frozen CLIP is loaded from its own file.
        self.strict_loading = False
        self._hits: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._last_top1: float | None = None
        self._last_loss: float | None = None

    def check_options(self) -> None:
        """Validate the options, before the checkpoint is loaded; as :meth:`lorattt.methods.base.Method.check_options`.

        Raises:
            UserError: If an option cannot be used.
        """
        self.require_finite("lr", "momentum", "weight_decay", "warmup_lr", "warmup_epochs")

    def require_finite(self, *keys: str) -> None:
        """Require finite numbers of at least 0."""
        for key in keys:
            if not 0 <= getattr(self, key) < float("inf"):
                raise UserError(f"model.{key} {getattr(self, key)}: must be a finite number of at least 0")

    def source_loss(self, features: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of image features against all class texts, the mean over the batch: a scalar.

        Args:
            features: ``(B, D)`` float32 unit image features, without a graph.
            label: ``(B,)`` int64.
        """
        return F.cross_entropy(self.logits(features, self.text_features()), label)

    def text_features(self) -> Tensor:
        """``(K, D)`` unit class features with the prompt as it is now: what images are compared with."""
        return self.prompts.features(self.context)

    def setup(self, stage: str) -> None:
        """Agree with the data on class names and views; make the context.

        Raises:
            UserError: If the command is not ``fit``, there are no epochs to plan for, the data is not made for
                training, or the prompt does not fit the model or the classes.
        """
        kind = type(self).__name__
        if stage != TrainerFn.FITTING:
            raise UserError(
                f"{kind} learns a prompt: use fit, then {stage} with --model ZeroShot --model.prompt.file PROMPT"
            )
        if not self.trainer.max_epochs or self.trainer.max_epochs < 1:
            raise UserError("trainer.max_epochs: give the number of epochs, which the learning rate's cosine needs")
        source = cast("SourceImages | None", getattr(self.trainer, "datamodule", None))
        if source is None or not hasattr(source, "train_transform"):
            raise UserError(f"{kind} needs images to train on: use --data FewShotData or DemoSourceData")
        self.class_names = names = agree_on_classes(self.class_names or None, source.class_names)
        size = self.clip.image_size
        source.train_transform = TrainingViews(self.crop, size, self.seed)
        source.transform = Views(ViewSpec(number=1), size, self.seed, self.clip.plain_view)
        source.seed = self.seed
        started = build_prompt(self.spec, self.clip, names, self.seed)
        self.started = started
        self.prompts = ClassPrompts(
            self.clip, names, started.position, started.tokens, class_specific=started.class_specific
        )
        self.context = nn.Parameter(started.context.clone())

    def prompt(self) -> Prompt:
        """The prompt as it is now."""
        started = self.started
        context = self.context.detach().float().cpu().clone()
        return Prompt(context, started.position, started.words, started.model, started.class_names)

    def save_prompt(self, path: Path) -> None:
        """Write the prompt as it is now, with how it was made in the file's metadata."""
        notes = {
            **self.extra_notes(),
            "method": self.name,
            "data": str(getattr(getattr(self.trainer, "datamodule", None), "name", "unknown")),
            "epochs": str(self.trainer.current_epoch),
            "seed": str(self.seed),
        }
        if self._last_top1 is not None:
            notes["validation_top1"] = f"{self._last_top1:.6f}"
            notes["validation_loss"] = f"{self._last_loss:.6f}"
        save_prompt(self.prompt(), path, notes=notes, extras=self.extra_tensors())

    def extra_notes(self) -> dict[str, str]:
        """Further metadata of the prompt's file."""
        return {}

    def extra_tensors(self) -> dict[str, Tensor]:
        """Further tensors of the prompt's file, by name."""
        return {}

    @torch.no_grad()
    def image_features(self, views: Tensor) -> Tensor:
        """``(B, 1, 3, S, S)`` uint8 to ``(B, D)`` float32 unit features, without a graph."""
        return self.clip.image_features(views[:, 0])

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """``(B, D)`` image and ``(K, D)`` text features to ``(B, K)`` float32 logits, also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return self.clip.logit_scale * features.float() @ text.float().T

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """The loss of one batch; zero for a batch of which no image could be read, so that no device waits for it."""
        if not len(batch["label"]):
            return 0 * self.context.sum()
        loss = self.source_loss(self.image_features(batch["views"]), batch["label"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Encode the class texts with the prompt as it is now."""
        with torch.no_grad():
            self._text = self.text_features()

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Classify plain views."""
        if len(batch["label"]):
            logits = self.logits(self.image_features(batch["views"]), self._text)
            self._hits.append(is_right(logits, batch["label"]))
            self._losses.append(F.cross_entropy(logits, batch["label"], reduction="none"))

    def on_validation_epoch_end(self) -> None:
        """Log top-1 in percent and the mean cross-entropy, over all devices."""
        hits, losses = (torch.cat(x).double() if x else torch.zeros(0) for x in (self._hits, self._losses))
        self._hits.clear()
        self._losses.clear()
        counts = torch.tensor([float(hits.sum()), float(losses.sum()), len(hits)], device=self.device)
        right, loss, count = self.trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        if count:
            known = not self.trainer.sanity_checking
            self._last_top1, self._last_loss = (right / count, loss / count) if known else (None, None)
            self.log("val/top1", 100 * right / count, prog_bar=True)
            self.log("val/loss", loss / count)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups, with a rate of their own where it is not ``lr``."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD over what is learned; the rate changes after each epoch."""
        groups = self.parameter_groups()
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        epochs = int(self.trainer.max_epochs or 1)
        # With a rate of 0 every factor gives 0.
        warm = self.warmup_lr / self.lr if self.lr else 0.0

        def factor(epoch: int) -> float:
            if epoch < self.warmup_epochs:
                return warm
            # The cosine spans all epochs but begins behind the warm-up, so it does not quite come to its end.
            return 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / epochs))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def state_names(self) -> set[str]:
        """Names of the learned parameters, which a checkpoint holds."""
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is learned, and nothing of the frozen CLIP."""
        kept = self.state_names()
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in kept}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what is learned.

        Raises:
            UserError: If the checkpoint is of another training.
        """
        own = {name: value.shape for name, value in self.state_dict().items()}
        given = {name: value.shape for name, value in state_dict.items()}
        if own != given:
            raise UserError(
                f"ckpt_path: it holds {shortened(_shapes(given))}, this training has {shortened(_shapes(own))}: "
                "give the configuration of the run that wrote it"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def _shapes(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()) or "nothing that is learned"
