"""A method from a configuration file, without Lightning's parser."""

from pathlib import Path
from typing import Any, TypeVar

import yaml

from lorattt.methods.base import Method
from lorattt.methods.registry import arguments_of, convert

_Kind = TypeVar("_Kind", bound=Method)


def configured(kind: type[_Kind], config: Path, seed: int, **changes: dict[str, Any]) -> _Kind:
    """The method of that class with the arguments that a configuration file gives its model.

    Args:
        kind: The class.
        config: The file.
        seed: The run's seed.
        changes: By argument, keys of it that are other than in the file.
    """
    given: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]
    given |= {key: {**given.get(key, {}), **values} for key, values in changes.items()}
    hints = arguments_of(kind)
    return kind(**{key: convert(hints[key], key, value) for key, value in given.items()}, seed=seed)
