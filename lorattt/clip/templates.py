"""Named sets of prompt templates."""

from collections.abc import Sequence
from typing import Literal, get_args

from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

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
    return _filled_with_braces(SIMPLE_IMAGENET_TEMPLATES if templates == "openai-7" else OPENAI_IMAGENET_TEMPLATES)


def _filled_with_braces(functions: Sequence[object]) -> list[str]:
    """open_clip keeps its templates as functions of the class name."""
    return [function("{}") for function in functions if callable(function)]
