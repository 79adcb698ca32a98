"""Named sets of prompt templates."""

from collections.abc import Sequence
from typing import Literal, get_args

from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from lorattt.errors import UserError, quoted
from lorattt.inputs import nearest

TemplateSet = Literal["single", "openai-7", "openai-80"]

SINGLE = "a photo of a {}."


def resolve_templates(templates: TemplateSet | Sequence[str]) -> list[str]:
    """A named set, one text or several, as a list of texts with one ``{}`` each."""
    if not isinstance(templates, str):
        return list(templates)
    if templates not in get_args(TemplateSet):
        return [templates]
    if templates == "single":
        return [SINGLE]
    functions = SIMPLE_IMAGENET_TEMPLATES if templates == "openai-7" else OPENAI_IMAGENET_TEMPLATES
    return [function("{}") for function in functions]  # open_clip has functions of the class name


def check_templates(templates: str | Sequence[str]) -> None:
    """Require that a single text is a template or the name of a set; a UserError for a misspelled name."""
    known = [*get_args(TemplateSet), "dataset"]
    if isinstance(templates, str) and templates not in known and templates.count("{}") != 1:
        near = nearest(templates, known)
        hint = f"did you mean {near}? " if near else ""
        raise UserError(
            f"model.templates {quoted(templates)}: {hint}use {', '.join(known)}, or texts that contain {{}} exactly "
            "once, for the class name"
        )
