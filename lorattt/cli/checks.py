"""Checks of what the parser accepts and no run can use: files that are no text, groups without keys, values."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lorattt.cli.keys import BASES, import_class, known_classes
from lorattt.errors import UserError
from lorattt.methods.registry import arguments_of
from lorattt.methods.several import Several, members_options
from lorattt.yaml_files import read_yaml

_COMMANDS = ("fit", "validate", "test", "predict")
_CONFIG = ("-c", "--config")
_SEEDS = 2**32
_SEED = "no such key; the seed of a run is seed_everything"
# Whole modules in another dtype: what must stay in float32, such as the sums behind results, would be in it as well.
_REFUSED_PRECISIONS = ("16-true", "bf16-true", "64-true", "64")


def check_config_files(args: Sequence[Any]) -> None:
    """Reject configuration files without ``-c``, that are empty or no text, or that give a key twice.

    A seed elsewhere than in ``seed_everything``, which would win without a word, is rejected as well.
    """
    words = [str(word) for word in args]
    if seeds := [word for word in words if word.split("=")[0] in ("--model.seed", "--model.init_args.seed")]:
        raise UserError(f"{seeds[0].split('=')[0].removeprefix('--')}: {_SEED}")
    if len(words) > 1 and words[0] in _COMMANDS and words[1].endswith((".yaml", ".yml")):
        raise UserError(f"{words[1]}: put -c before a configuration: lorattt {words[0]} -c {words[1]}")
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.partition("=")
        path = Path(word if before in _CONFIG else value)
        if (before in _CONFIG or option in _CONFIG) and path.is_file():
            _check_config_file(path)


def _check_config_file(path: Path) -> None:
    contents = read_yaml(path, strict=True, what=f"config {path}")
    if contents is None:
        raise UserError(f"config {path} is empty: name a YAML file with keys, or leave it out")
    model = contents.get("model") if isinstance(contents, dict) else None
    given = model.get("init_args") if isinstance(model, dict) else None
    if isinstance(given, dict) and "seed" in given:
        raise UserError(f"config {path}: model.init_args.seed: {_SEED}")


def check_values(config: Namespace) -> None:
    """Reject values of a parsed command that no run can use, before anything is made of them."""
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not 0 <= seed < _SEEDS:
        raise UserError(f"seed_everything {seed}: it must be from 0 to {_SEEDS - 1}")
    precision = str(config.get("trainer.precision"))
    if precision in _REFUSED_PRECISIONS:
        raise UserError(
            f"trainer.precision {precision}: leave it at its default; model.clip.dtype bf16 or fp16 puts the frozen "
            "towers in half precision"
        )
    for place in ("model", "data"):
        given = config.get(place)
        if isinstance(given, Namespace) and (path := given.get("class_path")):
            kind, arguments = import_class(path), given.get("init_args")
            if kind in BASES:
                known = ", ".join(known_classes(place))
                raise UserError(f"{place}: {kind.__name__} is an abstract base class; known are {known}")
            if isinstance(arguments, Namespace):
                _check_groups(place, kind, arguments)
            if issubclass(kind, Several):
                members_options(given.get("init_args.methods") or [], given.get("init_args.options") or {})


def _check_groups(place: str, kind: type, given: Namespace) -> None:
    """Keys that are dataclasses have keys of their own; the parser accepts null for them, their classes do not."""
    for name, group in arguments_of(kind).items():
        if name in given and isinstance(group, type) and is_dataclass(group):
            value = given.get(name)
            if not isinstance(value, Namespace | dict | group):
                keys = ", ".join(field.name for field in fields(group))
                shown = "null" if value is None else value
                raise UserError(
                    f"{place}.{name}: expected keys below it ({keys}), got {shown}; leave it out for the defaults"
                )
