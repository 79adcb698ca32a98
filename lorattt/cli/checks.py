"""Which classes and keys the command line has, and checks of what the parser accepts and no run can use."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lorattt.data.datamodule import EpisodeData, ImageData
from lorattt.data.few_shot import ListedSourceData
from lorattt.data.training import SourceData
from lorattt.errors import UserError
from lorattt.inputs import nearest
from lorattt.methods.base import Method
from lorattt.methods.coop import PromptTraining
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.registry import arguments_of
from lorattt.methods.several import Several, members_options
from lorattt.yaml_files import read_yaml

# What classes are derived from, and nobody names.
_BASES = (Method, RankedViews, PromptTraining, EpisodeData, ImageData, SourceData, ListedSourceData)
_COMMANDS = ("fit", "validate", "test", "predict")
_CONFIG = ("-c", "--config")
_SEEDS = 2**32
_SEED = "no such key; the seed of a run is seed_everything"
# Whole modules in another dtype: what must stay in float32, such as the sums behind results, would be in it as well.
_REFUSED_PRECISIONS = ("16-true", "bf16-true", "64-true", "64")


def check_config_files(args: Sequence[object]) -> None:
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
            kind, arguments = resolve_name(path), given.get("init_args")
            if kind in _BASES:
                known = ", ".join(known_classes(place))
                raise UserError(f"{place}: {kind.__name__} is an abstract base class; known are {known}")
            if isinstance(arguments, Namespace):
                _check_groups(place, kind, arguments)
            if issubclass(kind, Several):
                members_options(given.get("init_args.methods") or [], given.get("init_args.options") or {})


def _check_groups(place: str, kind: type, given: Namespace) -> None:
    """Keys that are dataclasses have keys of their own; the parser accepts null for them, their classes do not."""
    for name, group in arguments_of(kind).items():
        if name in given and isinstance(group, type) and dataclasses.is_dataclass(group):
            value = given.get(name)
            if not isinstance(value, Namespace | dict | group):
                keys = ", ".join(field.name for field in dataclasses.fields(group))
                shown = "null" if value is None else value
                raise UserError(
                    f"{place}.{name}: expected keys below it ({keys}), got {shown}; leave it out for the defaults"
                )


def known_classes(place: str) -> dict[str, type]:
    """The package's classes for ``model`` or ``data`` by their names; none for another place."""
    base = {"model": LightningModule, "data": LightningDataModule}.get(place)
    own = {c.__name__: c for c in _subclasses(base) if c.__module__.startswith("lorattt.") and c not in _BASES}
    return dict(sorted(own.items()))


def _subclasses(base: type | None) -> Iterator[type]:
    found: type
    for found in base.__subclasses__() if base else ():
        yield found
        yield from _subclasses(found)


def found_class(path: str | None) -> type | None:
    """The class of an import path; None where there is none."""
    with suppress(Exception):  # whatever a user's module does when it is imported
        found: type = resolve_name(path or "")
        return found
    return None


def import_problem(name: str) -> str:
    """Why a class that is named with its module cannot be imported; nothing for a name alone."""
    module, _, kind = name.rpartition(".")
    if not module:
        return ""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.split(".")[0]:
            return f"; there is no module {error.name}: put its folder on PYTHONPATH"
        return f"; its module cannot be imported ({error})"
    except Exception as error:  # whatever a user's module does when it is imported
        return f"; its module cannot be imported ({type(error).__name__}: {error})"
    return "" if hasattr(found, kind) else f"; the module {module} has no {kind}"


def keys_of(thing: type) -> Iterator[str]:
    """The parameters of a class, with the fields of those that are dataclasses."""
    arguments = arguments_of(thing) if thing is not Trainer else dict.fromkeys(inspect.signature(Trainer).parameters)
    for name, kind in arguments.items():
        if name == "seed":
            continue
        yield name
        for hint in (kind, *typing.get_args(kind)):  # alone, or one that may be null
            if isinstance(hint, type) and dataclasses.is_dataclass(hint):
                yield from (f"{name}.{field.name}" for field in dataclasses.fields(hint))


def near_key(key: str, known: Sequence[str]) -> str | None:
    """The key that was probably meant: the nearest one, or one that ends as it does; None where none is near."""
    first, _, rest = key.partition(".")
    tops = [name for name in known if "." not in name]
    if rest and first not in tops and (top := nearest(first, tops)):
        return f"{top}.{rest}"
    level, _, last = key.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == level}
    leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
    return next((names[near] for names in (beside, leaves) if (near := nearest(last, names, cutoff=0.7))), None)
