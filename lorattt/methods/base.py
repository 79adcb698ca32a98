"""What all test-time methods share: the model, the class texts, the handshake with the data, the metrics."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypedDict, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.templates import TemplateSet
from lorattt.errors import UserError
from lorattt.methods.metrics import EpisodeMetrics
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views

Templates: TypeAlias = TemplateSet | Literal["dataset"] | list[str]
"""A named set, the dataset's own prompt, or texts with one ``{}`` each."""


class EpisodeBatch(TypedDict):
    """A batch of E episodes.

    Attributes:
        views: ``(E, V, 3, S, S)`` uint8; view 0 is the plain one.
        label: ``(E,)`` int64, -1 where unknown.
        index: ``(E,)`` int64, dataset-wide.
        path: E names of the images.
        skipped: Images of this batch that could not be read, each with ``index``, ``path``, ``reason``.
    """

    views: Tensor
    label: Tensor
    index: Tensor
    path: list[str]
    skipped: list[dict[str, Any]]


class EpisodeOutput(TypedDict):
    """What a step gives to the callbacks; tensors are detached.

    Attributes:
        index: ``(E,)`` int64, dataset-wide.
        label: ``(E,)`` int64, -1 where unknown.
        path: E names of the images.
        before: ``(E, K)`` float32 logits of the same model and text without adaptation.
        after: ``(E, K)`` float32 logits of the method.
        fallback: ``(E,)`` bool, true where adaptation was not finite and ``after`` is ``before``.
        skipped: Images that could not be read.
    """

    index: Tensor
    label: Tensor
    path: list[str]
    before: Tensor
    after: Tensor
    fallback: Tensor
    skipped: list[dict[str, Any]]


class EpisodeSource(Protocol):
    """What a method asks of the data: its class names; and it tells the data how to make views."""

    class_names: list[str]
    transform: Views | None


class Method(LightningModule):
    """A way to classify the images of a batch, each from its own views; subclasses say which.

    Args:
        clip: Which CLIP to use.
        class_names: Names in label order; the dataset's where null.
        templates: Prompt templates: ``single``, ``openai-7``, ``openai-80``, ``dataset`` for CoOp's prompt of a
            benchmark, or a list of texts with one ``{}``.
        views: How the views of an image are made.
        seed: Seed of everything random, with each sample's index. ``seed_everything`` on the command line.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = False
    text: Tensor

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        class_names: list[str] | None = None,
        templates: Templates = "single",
        views: ViewSpec = ViewSpec(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip = load_clip(clip)
        self.class_names = class_names
        self.templates = templates
        self.views = views
        self.seed = seed
        self.metrics = EpisodeMetrics()
        self.register_buffer("text", torch.empty(0), persistent=False)
        self._text_of: tuple[list[str], TemplateSet | list[str]] | None = None
        self._template: str | None = None

    def classify_views(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits before and after, ``(E, K)`` float32, and fallbacks ``(E,)`` bool, for at least one episode."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Agree with the data on class names and views, before anything is computed.

        Raises:
            UserError: If the method cannot do this stage, the class lists differ in length, or gradients
                are needed and the Trainer forbids them.
        """
        if stage == TrainerFn.FITTING:
            raise UserError(f"{type(self).__name__} has nothing to fit: use test, validate or predict")
        loop: Any = {
            TrainerFn.VALIDATING: self.trainer.validate_loop,
            TrainerFn.TESTING: self.trainer.test_loop,
            TrainerFn.PREDICTING: self.trainer.predict_loop,
        }[TrainerFn(stage)]
        if self.needs_gradient and loop.inference_mode:
            raise UserError(f"{type(self).__name__} needs gradients at test time: set trainer.inference_mode to false")
        source = cast("EpisodeSource | None", getattr(self.trainer, "datamodule", None))
        if source is not None:
            self._agree_on_classes(source.class_names)
            self._template = getattr(source, "template", None)
            source.transform = self.make_views()
        if not self.class_names:
            raise UserError("no class names: give model.class_names, or a datamodule that knows them")
        self._templates()

    def make_views(self) -> Views:
        """What makes the views of an image as this method wants them, for loader workers."""
        return Views(self.views, self.clip.image_size, self.seed, self.clip.plain_view)

    def use_classes(self, names: Sequence[str]) -> None:
        """Take these class names and encode them, where the model now is: for use without a Trainer.

        Args:
            names: K names, in label order; K columns of logits are theirs.

        Raises:
            UserError: If there is no name.
        """
        self.class_names = list(names)
        self._prepare()

    def _agree_on_classes(self, names: Sequence[str]) -> None:
        if self.class_names is None:
            self.class_names = list(names)
        elif names and len(self.class_names) != len(names):
            raise UserError(
                f"model.class_names has {len(self.class_names)} names but the dataset has {len(names)} classes: "
                "leave it null to take the dataset's, or give one name per class"
            )

    def _templates(self) -> TemplateSet | list[str]:
        """The templates, with the dataset's own in place of its name."""
        if self.templates != "dataset":
            return self.templates
        if self._template is None:
            raise UserError("model.templates dataset: only benchmarks have a prompt of their own: use single")
        return [self._template]

    def _prepare(self) -> None:
        """Encode the class list, once per list, where the model now is."""
        names, templates = list(self.class_names or ()), self._templates()
        if (names, templates) != self._text_of:
            self.text = self.clip.text_features(names, templates)
            self._text_of = (names, templates)
        self.metrics.reset()

    def on_test_start(self) -> None:
        """Encode the class texts."""
        self._prepare()

    def on_validation_start(self) -> None:
        """Encode the class texts."""
        self._prepare()

    def on_predict_start(self) -> None:
        """Encode the class texts."""
        self._prepare()

    def _step(self, batch: EpisodeBatch) -> EpisodeOutput:
        episodes, classes = len(batch["index"]), self.text.shape[0]
        if episodes:
            before, after, fallback = self.classify_views(batch)
        else:
            before = after = torch.zeros(0, classes, device=self.device)
            fallback = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.metrics.update(before, after, batch["label"])
        return {
            "index": batch["index"],
            "label": batch["label"],
            "path": batch["path"],
            "before": before.detach(),
            "after": after.detach(),
            "fallback": fallback,
            "skipped": batch["skipped"],
        }

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> EpisodeOutput:
        """Classify one batch of episodes."""
        return self._step(batch)

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> EpisodeOutput:
        """Classify one batch of episodes."""
        return self._step(batch)

    def predict_step(self, batch: EpisodeBatch, batch_idx: int) -> EpisodeOutput:
        """Classify one batch of episodes, labelled or not."""
        return self._step(batch)
