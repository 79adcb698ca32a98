"""Methods by name, built from plain values such as a call's keywords or a configuration's mappings."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal, Union

from jsonargparse import ArgumentParser

from lorattt.errors import UserError, quoted, shortened
from lorattt.inputs import nearest
from lorattt.methods.base import Method
from lorattt.methods.ctpt import CTPT
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.mean_of_views import MeanOfViews
from lorattt.methods.mta import MTA
from lorattt.methods.self_tpt import SelfTPT
from lorattt.methods.tlla import TLLA
from lorattt.methods.tpt import TPT
from lorattt.methods.zero import ZERO
from lorattt.methods.zero_shot import ZeroShot

METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (ZeroShot, LoRATTT, TPT, CTPT, TLLA, SelfTPT, MTA, ZERO, MeanOfViews)
}
"""Methods by name; each gives one prediction for an image."""

_NEVER_OPTIONS = ("clip", "class_names", "seed")


def find_method(name: str, place: str = "method") -> type[Method]:
    """The method of that name; ``place`` is what messages call it."""
    kind = METHODS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = {each.__name__: own for own, each in METHODS.items()} | {own: own for own in METHODS}
        near = nearest(name, known, cutoff=0.8)
        hint = f"did you mean {known[near]}?" if near else f"known are {', '.join(METHODS)}"
        raise UserError(f"{place} {quoted(name)}: {hint}")
    return kind


def read_options(
    name: str, options: Mapping[str, Any], *, prefix: str = "", common: Iterable[str] = ()
) -> dict[str, Any]:
    """A method's options as the types that they are declared to be, for which no model is needed.

    ``prefix`` is put before an option's name in messages; ``common`` are arguments that are no options.
    """
    kind = find_method(name)
    hints = arguments_of(kind)
    accepted = [key for key in hints if key not in {*_NEVER_OPTIONS, *common}]
    for key in options:
        if key not in accepted:
            hint = _did_you_mean(key, accepted) or f"accepted are {', '.join(accepted) or 'none'}"
            raise UserError(f"{prefix}{shortened(str(key))}: {kind.__name__} has no such argument; {hint}")
    return {key: convert(hints[key], f"{prefix}{key}", value) for key, value in options.items()}


def build_method(name: str, options: Mapping[str, Any], *, prefix: str = "", **common: Any) -> Method:
    """A method from its name, its own options, and the ``common`` arguments, of which it gets those that it has."""
    own, kind = read_options(name, options, prefix=prefix, common=common), find_method(name)
    return kind(**{key: value for key, value in common.items() if key in arguments_of(kind)}, **own)


def _did_you_mean(key: Any, known: Iterable[str], prefix: str = "") -> str:
    near = nearest(key, known)
    return f"did you mean {prefix}{near}?" if near else ""


def _arguments_of(kind: Any) -> Mapping[str, Any]:
    """The types of a class's arguments by name, with those that it hands on to its bases by ``**kwargs``."""
    hints: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        with suppress(NameError, TypeError):  # of a user's class: names that exist for type checkers alone
            hints |= typing.get_type_hints(each.__init__)
    return {name: hints.get(name, Any) for name in ArgumentParser().add_class_arguments(kind, fail_untyped=False)}


arguments_of: Callable[[type], Mapping[str, Any]] = cache(_arguments_of)  # its parser takes 10 ms


def convert(hint: Any, key: str, value: Any) -> Any:
    """A plain value as what an argument is declared to be: a mapping as the dataclass, a list as the tuple.

    A ``UserError`` calls the value by its ``key``.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    no_bool = not isinstance(value, bool)  # a bool is a number to Python, and a mistake here
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, key, value)
    if origin in (Union, types.UnionType):
        for option in inner:
            try:
                return convert(option, key, value)
            except UserError:
                if isinstance(value, Mapping) and dataclasses.is_dataclass(option):
                    raise  # it says which of the keys is wrong
    elif origin is Literal:
        if any(isinstance(value, type(known)) and value == known for known in inner):  # an array may not be compared
            return value
    elif origin in (list, tuple):
        variable = origin is list or (len(inner) == 2 and inner[1] is Ellipsis)
        if isinstance(value, list | tuple) and (variable or len(inner) == len(value)):
            items = [convert(inner[0] if variable else inner[i], f"{key}[{i}]", x) for i, x in enumerate(value)]
            return origin(items)
    elif hint is float:
        if isinstance(value, numbers.Real) and no_bool:
            return float(value)
    elif hint is int:
        if isinstance(value, numbers.Integral) and no_bool:
            return int(value)
    elif hint is Any or not isinstance(origin or hint, type) or isinstance(value, origin or hint):
        return value
    raise UserError(f"{key}: {quoted(value)} is not {_named(hint)}")


def _record(hint: Any, key: str, value: Any) -> Any:
    hints = typing.get_type_hints(hint)
    fields = {field.name: field for field in dataclasses.fields(hint)}
    if isinstance(value, hint):  # whose own constructor does not look at types
        for name in fields:
            convert(hints[name], f"{key}.{name}", getattr(value, name))
        return value
    takes = f"{key}: {hint.__name__} takes {', '.join(fields)}; got"
    if not isinstance(value, Mapping):
        raise UserError(f"{takes} {quoted(value)}")
    if unknown := [str(name) for name in value if name not in fields]:
        near = _did_you_mean(unknown[0], fields, f"{key}.")
        raise UserError(f"{takes} {shortened(', '.join(unknown))}{near and f'; {near}'}")
    required = [name for name, each in fields.items() if each.default is each.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in value]:
        raise UserError(f"{key}: {hint.__name__} needs {', '.join(missing)}")
    return hint(**{name: convert(hints[name], f"{key}.{name}", item) for name, item in value.items()})


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_named(option) for option in typing.get_args(hint))
    if isinstance(hint, type) and typing.get_origin(hint) is None and hint not in names:
        return f"an object of class {hint.__name__}"
    return names.get(hint, str(hint).replace("typing.", ""))
