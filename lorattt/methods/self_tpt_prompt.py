"""What stage 2 of Self-TPT reads: a context, a projection head, and how stage 1 contrasted the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lorattt import demo
from lorattt.clip.model import Clip
from lorattt.clip.templates import SINGLE
from lorattt.errors import UserError, quoted
from lorattt.methods.class_contrast import PREFIX, ProjectionHead, check_temperature
from lorattt.prompts.class_views import CLASS_VIEWS, ClassView, check_class_views, check_template
from lorattt.prompts.files import Prompt, load_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt

VIEWS_PREFIX = "views."  # of the contexts that views have for themselves, in a prompt's file
TEMPERATURE = 0.07


@dataclass(frozen=True, eq=False)
class SourcePrompt:
    """The result of stage 1.

    Attributes:
        views: The prompts of a class that are contrasted.
        temperature: What similarities are divided by.
        template: The hand-written prompt.
        tensors: What the file holds beside the context.
    """

    views: tuple[ClassView, ...]
    temperature: float
    template: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def separate(self) -> bool:
        """Whether the views have contexts of their own."""
        return any(name.startswith(VIEWS_PREFIX) for name in self.tensors)

    def for_model(self, clip: Clip, spec: PromptSpec, seed: int) -> tuple[Tensor, ProjectionHead | None]:
        """The context, ``(M, d)`` or ``(U, M, d)`` for U learned views, and the head if there is one, on the CPU.

        Args:
            clip: The model.
            spec: Where the prompt comes from.
            seed: The run's seed, for random vectors.

        Raises:
            UserError: If the context or the head does not fit the model, or a view has no context.
        """
        clip.text_tower  # noqa: B018 - rejects a tower that takes no prompt
        prompt = build_prompt(spec, clip, [], seed)
        if prompt.position != "end":
            raise UserError(
                f"the prompt's position is {prompt.position}, and Self-TPT puts one context into every position: give "
                "a prompt of position end"
            )
        context, head = prompt.context, None
        if self.separate:
            context = self._stacked(context, f"prompt.file {spec.file}")
        if any(name.startswith(PREFIX) for name in self.tensors):
            with torch.no_grad():
                width = clip.text_features(["a"], [SINGLE]).shape[1]
            head = ProjectionHead.from_tensors(self.tensors, width, f"prompt.file {spec.file}")
        return context, head

    def _stacked(self, context: Tensor, source: str) -> Tensor:
        parts = []
        for view in self.views:
            if view != "hand":
                part = self.tensors.get(VIEWS_PREFIX + view)
                if part is None:
                    raise UserError(
                        f"{source}: it has separate contexts, and none for the view {view}: leave model.class_views "
                        "null"
                    )
                if part.shape != context.shape or not part.isfinite().all():
                    raise UserError(f"{source} is damaged (its context of the view {view} does not fit): make it again")
                parts.append(part.float())
        return torch.stack(parts)


def read_source_prompt(
    spec: PromptSpec, class_views: Sequence[ClassView] | None, temperature: float | None, *, contrasts: bool
) -> SourcePrompt:
    """Read the settings of the contrast from a prompt's file; arguments override them.

    Args:
        spec: Where the prompt comes from.
        class_views: Which prompts of a class are contrasted; null for the file's.
        temperature: What similarities are divided by; null for the file's.
        contrasts: Whether there is a stage 2, which needs a head.

    Raises:
        UserError: If it needs a head and there is none, every class has a context of its own, or a value is of no use.
    """
    found = _file(spec, contrasts)
    if spec.class_specific or (found is not None and found.context.dim() == 3):
        where = f"prompt.file {spec.file}" if spec.file else "prompt.class_specific"
        raise UserError(
            f"{where}: every class has a context of its own, which other names cannot use: give a prompt of one "
            "context for all classes, or use ZeroShot with the classes it was learned for"
        )
    notes = found.notes if found is not None else {}
    stated = [name.strip() for name in notes.get("class_views", ",".join(CLASS_VIEWS)).split(",")]
    names = stated if class_views is None else list(class_views)
    check_class_views(names, f"prompt.file {spec.file}: class_views" if class_views is None else "model.class_views")
    views: tuple[ClassView, ...] = tuple(view for name in names for view in CLASS_VIEWS if view == name)
    if temperature is None:
        try:
            temperature = float(notes.get("temperature", TEMPERATURE))
            check_temperature(temperature)
        except (ValueError, UserError):
            raise UserError(
                f"prompt.file {spec.file}: its temperature {quoted(notes['temperature'])} is no number above 0: give "
                "model.temperature"
            ) from None
    check_temperature(temperature)
    template = notes.get("template", SINGLE)
    check_template(template, f"prompt.file {spec.file}: template")
    return SourcePrompt(views, temperature, template, found.extras if found is not None else {})


def _file(spec: PromptSpec, contrasts: bool) -> Prompt | None:
    fix = (
        "give model.prompt.file with what SelfTPTTraining learned, or set model.stage2 to false for the prompt as it is"
    )
    if spec.file is None:
        if contrasts:
            raise UserError(f"stage 2 of Self-TPT needs a prompt with a projection head: {fix}")
        return None
    path = demo.PROMPTS.get(spec.file) or Path(spec.file).expanduser()
    found = load_prompt(path)
    if contrasts and not any(name.startswith(PREFIX) for name in found.extras):
        raise UserError(f"prompt.file {path}: it has no projection head, which stage 2 of Self-TPT needs: {fix}")
    return found
