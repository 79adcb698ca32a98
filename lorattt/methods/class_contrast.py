"""The task of Self-TPT that needs class names alone: contrast the views of a class list through a projection head.

Stage 1 learns the head and writes it into the prompt's file, from which stage 2 reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.clip.model import Clip
from lorattt.clip.text import SINGLE
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least
from lorattt.losses.class_texts import class_contrast
from lorattt.prompts.class_views import CLASS_VIEWS, ClassView, ClassViews, check_class_views, check_template
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.rng import Stream, episode_keys, fold, uniform

TEMPERATURE = 0.07
# In a prompt's file, of the head's tensors and of the contexts that views have for themselves.
HEAD, VIEWS = "head.", "views."


@dataclass(frozen=True)
class HeadSpec:
    """The projection head's shape.

    Args:
        hidden: Width between its two layers; that of the text features where null.
        out: Width of the projections.
    """

    hidden: int | None = None
    out: int = 128

    def __post_init__(self) -> None:
        """Require a unit in each layer."""
        at_least(1, head__hidden=self.hidden, head__out=self.out)


class ProjectionHead(nn.Module):
    """Two layers with a ReLU between them; what comes out has unit length.

    The paper does not describe its head; this is the usual one of contrastive learning (SimCLR, SupCon). It is drawn
    from the seed alone, by torch's rule for linear layers. ``width`` is D, that of text features.
    """

    def __init__(self, width: int, spec: HeadSpec = HeadSpec(), *, seed: int = 0) -> None:
        super().__init__()
        hidden = width if spec.hidden is None else spec.hidden
        key = fold(episode_keys(seed, torch.tensor(0)), Stream.HEAD_INIT)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key))
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, spec.out))

    def forward(self, features: Tensor) -> Tensor:
        """``(*, D)`` features to ``(*, P)`` unit projections, of the wider of the two's types."""
        return F.normalize(self.layers(features), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, as a prompt's file has them."""
        return {HEAD + name: value.detach().float().cpu().clone() for name, value in self.layers.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], width: int, source: str) -> "ProjectionHead":
        """The head of a prompt's file, of which ``tensors`` are all but the context; messages call it ``source``."""
        found = {name.removeprefix(HEAD): value for name, value in tensors.items() if name.startswith(HEAD)}
        hidden, out = (found.get(name, torch.empty(1)).shape[:1].numel() for name in ("0.weight", "2.weight"))
        head = cls(width, HeadSpec(max(1, hidden), max(1, out)))
        try:
            head.layers.load_state_dict(found)
        except RuntimeError as error:
            fix = f"does not fit text features of width {width}: use the model it was made for"
            raise UserError(f"{source}: its projection head {fix}") from error
        return head


@torch.no_grad()
def text_width(clip: Clip) -> int:
    """D, the width of the model's text features."""
    return clip.text_features(["a"], [SINGLE]).shape[1]


@dataclass(frozen=True)
class ContrastiveTask:
    """Contrastive prompt tuning (CPT) on a list of at least two classes; ``temperature`` divides similarities."""

    views: ClassViews
    head: ProjectionHead
    temperature: float

    def __post_init__(self) -> None:
        """Require at least two classes."""
        check_temperature(self.temperature)
        if self.views.count < 2:
            raise UserError(
                f"the class list has {self.views.count} class: contrasting class names needs at least two; "
                "give more names, or a method that leaves the prompt alone"
            )

    def loss(
        self,
        context: Tensor,
        *,
        classes: Tensor | None = None,
        known: Mapping[ClassView, Tensor] | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """The contrastive loss, in nats, twice differentiable; arguments as those of :meth:`ClassViews.features`."""
        features = self.views.features(context, classes=classes, known=known, chunk=chunk)
        return class_contrast(self.head(features), self.temperature)


def choose_classes(present: Tensor, count: int, seed: int, step: int) -> Tensor:
    """The classes that are contrasted in a step of training: those of its images, and others up to ``count``.

    ``present``, ``(K,)`` bool, says which classes have an image in the step, on any device. Returns ``(n,)`` int64,
    rising, a function of the arguments alone.
    """
    key = fold(episode_keys(seed, torch.tensor([step], device=present.device)), Stream.CONTRASTED_CLASSES)
    rank = uniform(key, (len(present),), torch.float64)[0] - present.double()  # below 0: present
    return rank.argsort(stable=True)[: max(count, int(present.sum()))].sort().values


def check_temperature(temperature: float) -> None:
    """Validate that the temperature is positive and finite."""
    if not 0 < temperature < float("inf"):
        raise UserError(f"model.temperature {temperature}: must be a finite number above 0")


@dataclass(frozen=True, eq=False)
class SourcePrompt:
    """What stage 1 left beside the context, and how it contrasted the classes."""

    views: tuple[ClassView, ...]
    temperature: float
    template: str
    tensors: Mapping[str, Tensor]  # the head's, and a context for each view where they are separate

    @property
    def separate(self) -> bool:
        """Whether the views have contexts of their own."""
        return any(name.startswith(VIEWS) for name in self.tensors)

    def for_model(self, clip: Clip, spec: PromptSpec, seed: int) -> tuple[Tensor, ProjectionHead | None]:
        """The context, ``(M, d)`` or ``(U, M, d)`` for U learned views, and the head if there is one, on the CPU."""
        prompt, source = build_prompt(spec, clip, [], seed), f"prompt.file {spec.file}"
        if prompt.position != "end":
            raise UserError(
                f"the prompt's position is {prompt.position}, and Self-TPT puts one context into every position: give "
                "a prompt of position end"
            )
        context, head = prompt.context, None
        if self.separate:
            learned = [view for view in self.views if view != "hand"]
            context = torch.stack([self._context_of(view, context.shape, source) for view in learned])
        if any(name.startswith(HEAD) for name in self.tensors):
            head = ProjectionHead.from_tensors(self.tensors, text_width(clip), source)
        return context, head

    def _context_of(self, view: ClassView, shape: torch.Size, source: str) -> Tensor:
        context = self.tensors.get(VIEWS + view)
        if context is None:
            raise UserError(
                f"{source}: it has separate contexts, and none for the view {view}: leave model.class_views null"
            )
        if context.shape != shape or not context.isfinite().all():
            raise UserError(f"{source} is damaged (its context of the view {view} does not fit): make it again")
        return context.float()


def read_source_prompt(
    spec: PromptSpec, class_views: Sequence[ClassView] | None, temperature: float | None, *, contrasts: bool
) -> SourcePrompt:
    """The settings of the contrast, from a prompt's file unless given; with a stage 2, it ``contrasts`` with a head."""
    source, found = f"prompt.file {spec.file}", None if spec.file is None else spec.content
    notes: Mapping[str, str] = {} if found is None else found.notes
    tensors: Mapping[str, Tensor] = {} if found is None else found.extras
    if contrasts and not any(name.startswith(HEAD) for name in tensors):
        lacks = "stage 2 of Self-TPT needs a prompt with a projection head"
        if found is not None:
            lacks = f"prompt.file {spec.path}: it has no projection head, which stage 2 of Self-TPT needs"
        raise UserError(
            f"{lacks}: give model.prompt.file with what SelfTPTTraining learned, or set model.stage2 to false for the "
            "prompt as it is"
        )
    if spec.class_specific or (found is not None and found.class_specific):
        raise UserError(
            f"{source if spec.file else 'prompt.class_specific'}: every class has a context of its own, which other "
            "names cannot use: give a prompt of one context for all classes, or use ZeroShot with the classes it was "
            "learned for"
        )
    names = class_views
    if names is None:
        stated = notes.get("class_views", ",".join(CLASS_VIEWS))
        names = cast(list[ClassView], [name.strip() for name in stated.split(",")])
    check_class_views(names, f"{source}: class_views" if class_views is None else "model.class_views")
    if temperature is None:
        try:
            temperature = float(notes.get("temperature", TEMPERATURE))
            check_temperature(temperature)
        except (ValueError, UserError):
            raise UserError(
                f"{source}: its temperature {quoted(notes['temperature'])} is no number above 0: give model.temperature"
            ) from None
    check_temperature(temperature)
    template = notes.get("template", SINGLE)
    check_template(template, f"{source}: template")
    return SourcePrompt(tuple(names), temperature, template, tensors)
