"""CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134): the words of a prompt learned from a few images of each class.

The context vectors in front of, around or behind the class names are trained with the cross-entropy of augmented
images against all class texts (section 3.2); both towers are frozen.

    loss = - log softmax(scale * image . text(context))[label]

The authors' recipe: 16 images a class, SGD with rate 0.002, momentum 0.9 and weight decay 5e-4, batches of 32, one
epoch at rate 1e-5, then a cosine; 50 epochs on ImageNet, up to 200 on smaller sets; the last epoch counts.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.errors import UserError, shortened
from lorattt.inputs import finite
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.class_texts import agree_on_classes
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.files import Prompt, save_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.ranking import is_right
from lorattt.views.crops import ViewSpec
from lorattt.views.render import TrainingCrop, TrainingViews, Views


class PromptTraining(LightningModule):
    """Base class of methods that learn a prompt from source images, by CoOp's cross-entropy unless they change it.

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
        initial: The prompt where training begins; made in ``setup``, which knows the classes.
        context: ``(M, d)`` float32, ``(K, M, d)`` if class-specific.
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
        self._validated: list[Tensor] = []  # (2, B) each: right or not, cross-entropy
        self._last_validation: dict[str, str] = {}

    def check_options(self) -> None:
        """Validate the options, before the checkpoint is loaded; subclasses set theirs before ``super().__init__``."""
        finite(model__lr=self.lr, model__momentum=self.momentum, model__weight_decay=self.weight_decay)
        finite(model__warmup_lr=self.warmup_lr, model__warmup_epochs=self.warmup_epochs)

    def source_loss(self, features: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy of ``(B, D)`` float32 unit image features, which have no graph, and ``(B,)`` labels."""
        return F.cross_entropy(self.logits(features, self.text_features()), label)

    def text_features(self) -> Tensor:
        """``(K, D)`` unit class features with the prompt as it is now: what images are compared with."""
        return self.prompts.features(self.context)

    def setup(self, stage: str) -> None:
        """Agree with the data on class names and views; make the context."""
        kind = type(self).__name__
        if stage != TrainerFn.FITTING:
            raise UserError(
                f"{kind} learns a prompt: use fit, then {stage} with --model ZeroShot --model.prompt.file PROMPT"
            )
        if not self.trainer.max_epochs or self.trainer.max_epochs < 1:
            raise UserError("trainer.max_epochs: give the number of epochs, which the learning rate's cosine needs")
        source: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(source, "train_transform"):
            raise UserError(f"{kind} needs images to train on: use --data FewShotData or DemoSourceData")
        self.class_names = names = agree_on_classes(self.class_names or None, source.class_names)
        size = self.clip.image_size
        source.train_transform = TrainingViews(self.crop, size, self.seed)
        source.transform = Views(ViewSpec(number=1), size, self.seed, self.clip.plain_view)
        source.seed = self.seed
        self.initial = initial = build_prompt(self.spec, self.clip, names, self.seed)
        self.prompts = ClassPrompts(
            self.clip, names, initial.position, initial.tokens, class_specific=initial.class_specific
        )
        self.context = nn.Parameter(initial.context.clone())

    def prompt(self) -> Prompt:
        """The prompt as it is now, with what else its file holds."""
        return replace(self.initial, context=self.context.detach().float().cpu().clone(), notes={}, extras={})

    def save_prompt(self, path: Path) -> None:
        """Write the prompt as it is now, with how it was made in the file's metadata."""
        prompt, data = self.prompt(), getattr(self.trainer, "datamodule", None)
        notes = {
            **prompt.notes,
            "method": self.name,
            "data": str(getattr(data, "name", "unknown")),
            "epochs": str(self.trainer.current_epoch),
            "seed": str(self.seed),
            **self._last_validation,
        }
        save_prompt(replace(prompt, notes=notes), path)

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
            losses = F.cross_entropy(logits, batch["label"], reduction="none")
            self._validated.append(torch.stack([is_right(logits, batch["label"]), losses]))

    def on_validation_epoch_end(self) -> None:
        """Log top-1 in percent and the mean cross-entropy, over all devices."""
        rows = torch.cat([torch.zeros(2, 0, device=self.device), *self._validated], dim=1).double()
        self._validated.clear()
        counts = torch.tensor([*rows.sum(1).tolist(), rows.shape[1]], device=self.device)
        right, loss, count = self.trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        if count:
            notes = {"validation_top1": f"{right / count:.6f}", "validation_loss": f"{loss / count:.6f}"}
            self._last_validation = {} if self.trainer.sanity_checking else notes
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

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is learned, and nothing of the frozen CLIP."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("clip.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what is learned; a checkpoint of another training is rejected."""
        states: tuple[Mapping[str, Any], ...] = self.state_dict(), state_dict
        own, given = ({name: tuple(value.shape) for name, value in state.items()} for state in states)
        if own != given:
            ours, theirs = (", ".join(f"{name} {shape}" for name, shape in each.items()) for each in (own, given))
            raise UserError(
                f"ckpt_path: it holds {shortened(theirs or 'nothing that is learned')}, this training has "
                f"{shortened(ours)}: give the configuration of the run that wrote it"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)


class CoOp(PromptTraining):
    """CoOp as a LightningModule, for ``fit``; its prompt is for ``prompt.file`` of any method."""

    name: ClassVar[str] = "coop"
