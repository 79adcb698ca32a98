"""What all test-time methods share: the model, the class texts, the handshake with the data, the metrics."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.templates import TemplateSet, check_templates
from lorattt.episodes.clock import StageTimer
from lorattt.errors import UserError, quoted
from lorattt.methods.batch import (
    EpisodeBatch,
    EpisodeOutput,
    EpisodeSource,
    MicroBatcher,
    Prediction,
    Predictions,
    batch_metadata,
)
from lorattt.methods.metrics import EpisodeMetrics
from lorattt.methods.shared_views import SharedViews
from lorattt.positions import are_codes, check_order, pairs
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.views.crops import ViewSpec
from lorattt.views.device import DeviceViews, Normalization
from lorattt.views.render import Views

Templates: TypeAlias = TemplateSet | Literal["dataset"] | list[str] | str
"""A named set, the dataset's own prompt, or one text or several with one ``{}`` each."""


def agree_on_classes(own: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The class names of a run: the model's own, else those that the data knows.

    Where the model's own names differ from the data's, a warning lists the pairs: only their order matches them.

    Raises:
        UserError: If both are known and differ in number or order, or one of the model's own is blank.
    """
    if own is None:
        if are_codes(known):
            rank_zero_warn(
                f"the classes are called {quoted(known[0])} and the like, which says nothing to the model: give names "
                "in data.class_names (imagenet, for folders named by wnid)"
            )
        return list(known)
    if blank := [number for number, name in enumerate(own, 1) if not name.strip()]:
        raise UserError(f"model.class_names: name {blank[0]} is blank: give every class a name")
    if known and len(own) != len(known):
        raise UserError(
            f"model.class_names has {len(own)} names but the dataset has {len(known)} classes: "
            "leave it null to take the dataset's, or give one name per class"
        )
    if known:
        check_order("model.class_names", known, own, "give the names in that order, or leave it null")
        if differing := pairs(known, own):
            rank_zero_warn(f"model.class_names go to the data's classes one by one: {differing}")
    return list(own)


def _first_of_name(names: Sequence[str]) -> Tensor | None:
    """``(K,)`` int64, for each class the first one of its name; None where all names differ."""
    first: dict[str, int] = {}
    numbers = [first.setdefault(name, number) for number, name in enumerate(names)]
    return None if len(first) == len(names) else torch.tensor(numbers)


class Method(LightningModule):
    """Base class: classifies each image of a batch from its own views. Subclasses implement :meth:`classify`.

    Args:
        clip: Which CLIP to use; any image tower.
        class_names: Names in label order; the dataset's where null.
        templates: Prompt templates: ``single``, ``openai-7``, ``openai-80``, ``dataset`` for CoOp's prompt of a
            benchmark, or a text or a list of texts with one ``{}``.
        prompt: A prompt in their place, such as the file that ``fit`` wrote; null for templates.
        views: How the views of an image are made.
        seed: Seed of everything random, with each sample's index. ``seed_everything`` on the command line.

    Attributes:
        name: The method's name in folders and results, and in :data:`lorattt.methods.registry.METHODS`.
        needs_gradient: Whether it takes gradients at test time.
        template: The dataset's own prompt, where it has one.
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
        prompt: PromptSpec | None = None,
        views: ViewSpec = ViewSpec(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.class_names, self.templates, self.prompt = class_names, templates, prompt
        self.views, self.seed = views, seed
        self.check_options()
        self.clip = load_clip(clip)
        self.metrics = EpisodeMetrics()
        self.clock = StageTimer()
        self.parts = MicroBatcher()
        self.register_buffer("text", torch.empty(0), persistent=False)
        self.template: str | None = None
        self._text_of: tuple[list[str], str | list[str] | PromptSpec] | None = None
        self._learnable: tuple[ClassPrompts, Tensor] | None = None
        self._first_of_name: Tensor | None = None

    def check_options(self) -> None:
        """Validate the options, before the checkpoint is loaded.

        A subclass that has options of its own sets them before ``super().__init__``, checks them here and then calls
        ``super().check_options()``.

        Raises:
            UserError: If an option cannot be used.
        """
        check_templates(self.templates)
        if self.prompt is not None and self.templates != "single":
            raise UserError("model.prompt and model.templates are both given: a prompt takes the place of templates")

    @property
    def trunk(self) -> int | None:
        """The first block that it adapts, for :meth:`SharedViews.encoded`; None if it adapts none."""
        return None

    @property
    def view_chunk(self) -> int | None:
        """Views encoded at a time; None for the default."""
        return None

    @property
    def plain_view_alone(self) -> bool:
        """Whether it reads view 0 and no other."""
        return False

    @property
    def takes_gradients(self) -> bool:
        """Whether the method, with its options, takes gradients at test time."""
        return self.needs_gradient

    def kept(self, views: SharedViews) -> Tensor | None:
        """``(E, n)`` int64, the views that the method keeps, in the order of its ranking; None if it ranks none."""
        return None

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Classify E images, at least one, from their views.

        Args:
            views: Their views, encoded on first use and cached across methods.

        Returns:
            Logits before and after adaptation, ``(E, K)`` float32, and ``(E,)`` bool, true where adaptation was
            not finite and after is before.
        """
        raise NotImplementedError

    def classify_views(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Classify a batch of at least one episode."""
        found = self.prediction_of(self.share(batch))
        return found["before"], found["after"], found["fallback"]

    def prediction_of(self, views: SharedViews) -> Prediction:
        """The result of :meth:`classify`, detached, with no class above the first class of the same name.

        Classes of one name have the same text, but their logits may differ in the last bit, and do so in a batch of
        one image: the predicted class would then depend on the batch. Classes with contexts of their own have
        different texts and keep their logits.
        """
        before, after, fallback = self.classify(views)
        first = self._first_of_name
        if first is not None and not (self._learnable is not None and self._learnable[0].class_specific):
            before, after = before.minimum(before[:, first]), after.minimum(after[:, first])
        return {"before": before.detach(), "after": after.detach(), "fallback": fallback}

    def share(self, batch: EpisodeBatch) -> SharedViews:
        """The views of a batch, for :meth:`classify`."""
        trunks = set() if self.trunk is None else {self.trunk}
        return self.shared_views(batch, trunks, self.view_chunk)

    def shared_views(self, batch: EpisodeBatch, trunks: set[int], chunk: int | None) -> SharedViews:
        """The views of a batch, made here if it has the images themselves."""
        with self.clock.stage("views"):
            views = batch["views"] if "views" in batch else self._render(batch)
        return SharedViews(self.clip, views, batch["index"], self.seed, trunks=trunks, chunk=chunk, clock=self.clock)

    def _render(self, batch: EpisodeBatch) -> Tensor:
        """``(E, V, 3, S, S)`` normalised views of the images of a batch, where the model is."""
        make, device = DeviceViews(self.make_views()), batch["index"].device
        mean, std = (value.to(device) for value in (self.clip.mean, self.clip.std))
        return make.render(batch["image"], batch["plan"].to(device), Normalization(mean, std, self.clip.vision.dtype))

    def setup(self, stage: str) -> None:
        """Agree with the data on class names and views, before anything is computed.

        Raises:
            UserError: If the method cannot do this stage, the data has no images to classify, the class lists differ in
                length, or gradients are needed and the Trainer forbids them.
        """
        if stage == TrainerFn.FITTING:
            raise UserError(f"{type(self).__name__} has nothing to fit: use test, validate or predict")
        loop: Any = {
            TrainerFn.VALIDATING: self.trainer.validate_loop,
            TrainerFn.TESTING: self.trainer.test_loop,
            TrainerFn.PREDICTING: self.trainer.predict_loop,
        }[TrainerFn(stage)]
        if self.takes_gradients and loop.inference_mode:
            raise UserError(f"{type(self).__name__} needs gradients at test time: set trainer.inference_mode to false")
        source = cast("EpisodeSource | None", getattr(self.trainer, "datamodule", None))
        if source is not None:
            if not hasattr(source, "class_names"):
                raise UserError(
                    f"{type(source).__name__} has no images to classify: use --data ImageFolderData, ImagesData, "
                    "BenchmarkData or DemoData"
                )
            self.class_names = agree_on_classes(self.class_names, source.class_names)
            self.template = getattr(source, "template", None)
            make = self.make_views()
            on_device = self.makes_views_on(self.trainer.strategy.root_device)
            source.transform = None if on_device else make
            source.planner = DeviceViews(make).plan if on_device else None
        if not self.class_names:
            raise UserError("no class names: give model.class_names, or a datamodule that knows them")
        self.check_texts()

    def make_views(self) -> Views:
        """The callable that makes an image's views for this method, in loader workers."""
        return Views(self.views, self.clip.image_size, self.seed, self.clip.plain_view)

    def makes_views_on(self, device: torch.device) -> bool:
        """Whether the method makes the views itself, on that device, from decoded images."""
        place = self.views.place
        return place == "device" or (place == "auto" and device.type == "cuda")

    def use_classes(self, names: Sequence[str]) -> None:
        """Set the class names and encode them on the model's device, for use without a Trainer.

        Args:
            names: K names, in label order; K columns of logits are theirs.

        Raises:
            UserError: If there is no name.
        """
        self.class_names = list(names)
        self._encode_classes()

    def _templates(self) -> str | list[str]:
        """The templates, with the dataset's own in place of its name."""
        if self.templates != "dataset":
            return self.templates
        if self.template is None:
            raise UserError("model.templates dataset: only benchmarks have a prompt of their own: use single")
        return [self.template]

    def check_texts(self) -> None:
        """Validate the templates or the prompt, before anything is encoded.

        Raises:
            UserError: If the dataset's own prompt is asked for and it has none, or a prompt does not fit the model
                or the class names.
        """
        if self.prompt is None:
            self._templates()
        else:
            self._build_prompts(self.prompt)

    def learnable(self) -> tuple[ClassPrompts, Tensor]:
        """The class names and the context of the method's prompt, ``(M, d)`` or ``(K, M, d)`` float32."""
        assert self._learnable is not None, "the class list is encoded first"
        return self._learnable

    def _build_prompts(self, spec: PromptSpec) -> tuple[ClassPrompts, Tensor]:
        names = list(self.class_names or ())
        prompt = build_prompt(spec, self.clip, names, self.seed)
        specific = prompt.class_specific
        prompts = ClassPrompts(self.clip, names, prompt.position, prompt.tokens, class_specific=specific)
        return prompts, prompt.context.to(self.clip.text_tower.device)

    def _encode_classes(self) -> None:
        """Encode the class names on the model's device, once per list."""
        names = list(self.class_names or ())
        source = self._templates() if self.prompt is None else self.prompt
        if (names, source) != self._text_of:
            if isinstance(source, PromptSpec):
                self._learnable = prompts, context = self._build_prompts(source)
                with torch.no_grad():
                    self.text = prompts.features(context)
            else:
                self.text = self.clip.text_features(names, source)
            self._text_of = (names, source)
        first = _first_of_name(names)
        self._first_of_name = None if first is None else first.to(self.text.device)
        self.metrics.reset()

    def copy_class_texts(self, other: "Method") -> None:
        """Copy the class names and encoded texts of another method of the same model; reset the metrics."""
        self.class_names, self.template = other.class_names, other.template
        if (self.templates, self.prompt) == (other.templates, other.prompt):
            self.text, self._text_of, self._learnable = other.text, other._text_of, other._learnable
        self._encode_classes()

    def on_test_start(self) -> None:
        """Encode the class texts."""
        self.clock, self.parts = StageTimer(self.device), MicroBatcher()
        with self.clock.stage("text"):
            self._encode_classes()

    on_validation_start = on_predict_start = on_test_start

    def answers(self, batch: EpisodeBatch) -> Predictions:
        """Predictions for at least one episode, by method name."""
        before, after, fallback = self.classify_views(batch)
        return {"": {"before": before, "after": after, "fallback": fallback}}

    def empty_prediction(self) -> Prediction:
        """The prediction for a batch without images."""
        none = torch.zeros(0, self.text.shape[0], device=self.device)
        return {"before": none, "after": none, "fallback": torch.zeros(0, dtype=torch.bool, device=self.device)}

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> EpisodeOutput:
        """Classify one batch of episodes, labelled or not."""
        if len(batch["index"]):
            with self.clock.stage("adapt"):
                answer = self.parts.classify(batch, self.answers)[""]
        else:
            answer = self.empty_prediction()
        self.metrics.update(answer["before"], answer["after"], batch["label"])
        return {**batch_metadata(batch), **answer}

    validation_step = predict_step = test_step
