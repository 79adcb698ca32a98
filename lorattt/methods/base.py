"""What all test-time methods share: the model, the class texts, the agreement with the data, the steps, the metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.text import TemplateSet, check_templates
from lorattt.episodes.clock import StageTimer
from lorattt.errors import UserError
from lorattt.methods.batch import EpisodeBatch, EpisodeOutput, MicroBatcher, Prediction, Predictions
from lorattt.methods.class_texts import ClassTexts, TextSource, agree_on_classes
from lorattt.methods.metrics import EpisodeMetrics
from lorattt.methods.shared_views import Needs, SharedViews, encode_views
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.device import DeviceViews, Normalization
from lorattt.views.render import Views

Templates: TypeAlias = TemplateSet | Literal["dataset"] | list[str] | str
"""A named set, the dataset's own prompt, or one text or several with one ``{}`` each."""


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
        metrics: Of the images since the class texts were encoded last.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = False

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
        self.template: str | None = None
        self._class_texts: ClassTexts | None = None

    def check_options(self) -> None:
        """Validate the options, before the checkpoint is loaded; subclasses set theirs before ``super().__init__``."""
        check_templates(self.templates)
        if self.prompt is not None and self.templates != "single":
            raise UserError("model.prompt and model.templates are both given: a prompt takes the place of templates")

    @property
    def needs(self) -> Needs:
        """What it reads of the views; the features of all views unless a subclass says otherwise."""
        return Needs()

    @property
    def methods(self) -> Mapping[str, "Method"]:
        """The methods of a run by the names of their predictions: itself, by the empty name."""
        return {"": self}

    def kept(self, views: SharedViews) -> Tensor | None:
        """``(E, n)`` int64, the views that the method keeps, in the order of its ranking; None if it ranks none."""
        return None

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Classify E images, at least one, from their encoded views.

        Returns:
            Logits before and after adaptation, ``(E, K)`` float32, and ``(E,)`` bool, true where adaptation was
            not finite and after is before.
        """
        raise NotImplementedError

    # ---- a batch

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> EpisodeOutput:
        """Classify one batch of episodes, labelled or not."""
        if len(batch["index"]):
            with self.clock.stage("adapt"):
                found = self.parts.classify(batch, self.predictions)
        else:
            none = torch.zeros(0, len(self.texts.names), device=self.device)
            empty: Prediction = {"before": none, "after": none, "fallback": none[:, 0].bool()}
            found = dict.fromkeys(self.methods, empty)
        for name, method in self.methods.items():
            method.metrics.update(found[name]["before"], found[name]["after"], batch["label"])
        index, label, path, skipped = batch["index"], batch["label"], batch["path"], batch["skipped"]
        first = next(iter(found.values()))
        return {"index": index, "label": label, "path": path, "skipped": skipped, **first, "methods": found}

    validation_step = predict_step = test_step

    def predictions(self, batch: EpisodeBatch) -> Predictions:
        """Predictions for at least one episode, by method name."""
        views = self.encode_views(batch)
        found = {name: method.prediction_of(views) for name, method in self.methods.items()}
        for method in self.methods.values():
            method.advance()
        return found

    def advance(self) -> None:
        """Called when all methods have classified a part of a batch: a :class:`StreamMethod` keeps its new state."""

    def prediction_of(self, views: SharedViews) -> Prediction:
        """The result of :meth:`classify`, detached; classes of one name get equal logits."""
        before, after, fallback = self.classify(views)
        # Classes with contexts of their own have different texts and keep their logits.
        if self.texts.repeats and (self.prompt is None or not self.learnable()[0].class_specific):
            before, after = self.texts.level(before), self.texts.level(after)
        return {"before": before.detach(), "after": after.detach(), "fallback": fallback}

    def encode_views(self, batch: EpisodeBatch) -> SharedViews:
        """The views of a batch, made here if it has the images themselves, and encoded."""
        with self.clock.stage("views"):
            views = batch["views"] if "views" in batch else self.render(batch)
        return encode_views(self.clip, views, batch["index"], self.seed, self.needs, self.clock)

    def render(self, batch: EpisodeBatch) -> Tensor:
        """``(E, V, 3, S, S)`` normalised views of the images of a batch, where the model is."""
        make, device = DeviceViews(self.make_views()), batch["index"].device
        mean, std = (value.to(device) for value in (self.clip.mean, self.clip.std))
        return make.render(batch["image"], batch["plan"].to(device), Normalization(mean, std, self.clip.vision.dtype))

    # ---- before the first batch

    def setup(self, stage: str) -> None:
        """Agree with the data on class names and views, before anything is computed."""
        kind, stage = type(self).__name__, TrainerFn(stage).value
        if stage == "fit":
            raise UserError(f"{kind} has nothing to fit: use test, validate or predict")
        if self.needs_gradient and getattr(self.trainer, f"{stage}_loop").inference_mode:
            raise UserError(f"{kind} needs gradients at test time: set trainer.inference_mode to false")
        source: Any = getattr(self.trainer, "datamodule", None)
        if source is not None:
            if not hasattr(source, "class_names"):
                raise UserError(
                    f"{type(source).__name__} has no images to classify: use --data ImageFolderData, ImagesData, "
                    "BenchmarkData or DemoData"
                )
            self.class_names = agree_on_classes(self.class_names, source.class_names)
            self.template = getattr(source, "template", None)
            make, on_device = self.make_views(), self.makes_views_on(self.trainer.strategy.root_device)
            source.transform = None if on_device else make
            source.planner = DeviceViews(make).plan if on_device else None
        if not self.class_names:
            raise UserError("no class names: give model.class_names, or a datamodule that knows them")
        self.check_texts()
        for method in self.methods.values():
            method.check_run(self.trainer)

    def check_run(self, trainer: Trainer) -> None:
        """Validate that the method can run with this Trainer; for subclasses."""

    def make_views(self) -> Views:
        """The callable that makes an image's views for this method, in loader workers."""
        return Views(self.views, self.clip.image_size, self.seed, self.clip.plain_view)

    def makes_views_on(self, device: torch.device) -> bool:
        """Whether the method makes the views itself, on that device, from decoded images."""
        return self.views.place == "device" or (self.views.place == "auto" and device.type == "cuda")

    def on_test_start(self) -> None:
        """Encode the class texts."""
        self.clock, self.parts = StageTimer(self.device), MicroBatcher()
        with self.clock.stage("text"):
            self._encode_classes()

    on_validation_start = on_predict_start = on_test_start

    # ---- class texts

    def use_classes(self, names: Sequence[str]) -> None:
        """Set the K class names, in label order, and encode them on the model's device, for use without a Trainer."""
        self.class_names = list(names)
        self._encode_classes()

    @property
    def texts(self) -> ClassTexts:
        """The texts of the class names."""
        names = list(self.class_names or ())
        if self._class_texts is None or self._class_texts.names != names:
            self._class_texts = ClassTexts(self.clip, names, self.seed)
        return self._class_texts

    @property
    def text(self) -> Tensor:
        """``(K, D)`` float32 unit class features, encoded once per list of names."""
        return self.texts.features(self._text_source())

    def learnable(self) -> tuple[ClassPrompts, Tensor]:
        """The class names and the context of the method's prompt, ``(M, d)`` or ``(K, M, d)`` float32."""
        assert self.prompt is not None, "of a method with a prompt"
        return self.texts.prompt(self.prompt)

    def _text_source(self) -> TextSource:
        """The prompt or the templates, with the dataset's own in place of its name."""
        if self.prompt is not None or self.templates != "dataset":
            return self.templates if self.prompt is None else self.prompt
        if self.template is None:
            raise UserError("model.templates dataset: only benchmarks have a prompt of their own: use single")
        return [self.template]

    def check_texts(self) -> None:
        """Validate the templates or the prompt, before anything is encoded."""
        if isinstance(source := self._text_source(), PromptSpec):
            self.texts.prompt(source)

    def _encode_classes(self) -> None:
        """Encode the class names on the model's device, once per list."""
        self.text  # noqa: B018 - kept by the class texts
        self.metrics.reset()
