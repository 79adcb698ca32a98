"""A method from a configuration file, without Lightning's parser."""

import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lorattt.methods.base import Method
from lorattt.methods.registry import convert

_Kind = TypeVar("_Kind", bound=Method)


def configured(kind: type[_Kind], config: Path, seed: int) -> _Kind:
    """The method of that class with the arguments that a configuration file gives its model."""
    given: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]
    hints = typing.get_type_hints(kind.__init__)
    return kind(**{key: convert(hints[key], key, value) for key, value in given.items()}, seed=seed)
