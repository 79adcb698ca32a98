"""Which classes can be named on the command line, and which keys they have."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lorattt.data.datamodule import EpisodeData, ImageData
from lorattt.data.few_shot import ListedSourceData
from lorattt.data.training import SourceData
from lorattt.inputs import nearest
from lorattt.methods.base import Method
from lorattt.methods.coop import PromptTraining
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.registry import arguments_of

# What classes are derived from, and nobody names.
BASES = (Method, RankedViews, PromptTraining, EpisodeData, ImageData, SourceData, ListedSourceData)


def known_classes(place: str) -> dict[str, type]:
    """The package's classes for ``model`` or ``data`` by their names; none for another place."""
    base = {"model": LightningModule, "data": LightningDataModule}.get(place)
    return {c.__name__: c for c in sorted(_subclasses(base), key=lambda c: c.__name__)} if base else {}


def _subclasses(base: type) -> Iterable[type]:
    """Our own classes below a base, without those that only serve others."""
    found: type
    for found in base.__subclasses__():
        if found.__module__.startswith("lorattt.") and found not in BASES:
            yield found
        yield from _subclasses(found)


def import_class(path: str) -> type:
    """The class of an import path that is known to be right."""
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def found_class(path: str) -> type | None:
    """The class of an import path; None where there is none."""
    with suppress(Exception):  # whatever a user's module does when it is imported
        return import_class(path)
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
