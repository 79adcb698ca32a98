"""The parser of the command line: one line for a mistake, texts as they were typed, mappings that are merged.

jsonargparse reads the value of a class's key as YAML, and hands what it has read down to the class's parser in Python's
notation. A text that YAML takes for a list, a mapping or null would arrive changed, so it is marked on its way.
"""

import json
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from lorattt.cli.checks import check_values
from lorattt.cli.errors import condense
from lorattt.errors import UserError

_LOAD = get_loader("yaml")
# Before a value on its way down: no command line and no YAML can have it, so such a value is read where it arrives.
_RAW = "\0"


class Parser(LightningArgumentParser):
    """The parser of a command; jsonargparse makes those of the classes that its keys name, of this kind as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A shortened key would hide a typing error: --run.folde would be --run.folder.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._typed: list[str] = []
        set_loader("yaml", load, (yaml.YAMLError,))
        set_dumper("yaml", dump)

    def parse_args(  # type: ignore[override]  # as jsonargparse's own differs from argparse's
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        """Parse what was typed, or what the parser above hands down."""
        if args is not None:
            self._typed = [word.replace(f"={_RAW}", "=", 1) for word in args]
            namespace, words = self._take_out(self._typed, namespace)
            args = list(self._marked(words))
        return super().parse_args(args, namespace, *rest, **kwargs)

    def _check_value_key(self, action: Action, value: Any, key: str, cfg: Any, append: bool = False) -> Any:
        """Called for each value of a file, and of a class's key that has no keys below it."""
        hints = _hints(action)
        if isinstance(value, str):
            typed, value = value.startswith(_RAW), value.removeprefix(_RAW)
            value = _as_typed(hints, value) if typed else value
            if isinstance(value, str) and _is_text(hints) and not (typed and value == "null"):
                if not append:
                    return value
                value = [value]
        if _takes_mapping(hints):
            value = _read(value) if isinstance(value, str) else value
            value = merged(cfg.get(action.dest), value) if cfg and isinstance(value, Mapping) else value
        return super()._check_value_key(action, value, key, cfg, append)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """The configuration as YAML, checked before it is printed."""
        if self.exit_on_error and args:
            check_values(args[0])
        return str(super().dump(*args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report a mistake as one line; parsers of classes leave that to the outermost one."""
        if not self.exit_on_error:
            super().error(message, ex)
        message = message.replace(_RAW, "").replace(repr(_RAW)[1:-1], "")
        raise UserError(condense(message, self._typed)) from ex

    def _take_out(self, words: Sequence[str], namespace: Namespace | None) -> tuple[Namespace | None, Sequence[str]]:
        """Move what jsonargparse would change (texts, lists of texts, keys below a mapping) into the configuration."""
        others = []
        taken = Namespace() if namespace is None else namespace.clone()  # type: ignore[no-untyped-call]
        for word in words:
            name, equals, text = word.partition("=")
            key, *path = name.removeprefix("--").split(".")
            hints = _hints(self._option_string_actions.get(name))
            if self.exit_on_error or not equals or name.endswith("+"):  # beside -c, the order of words matters
                others.append(word)
            elif path and _takes_mapping(_hints(self._option_string_actions.get(f"--{key}"))):
                value = _read(text)
                for part in reversed(path):
                    value = {part: value}
                taken[key] = merged(taken.get(key), value)
            elif not isinstance(value := _as_typed(hints, text), str) or (_is_text(hints) and value != "null"):
                taken[name.removeprefix("--")] = value
            else:
                others.append(word)
        return taken if len(others) < len(words) else namespace, others

    def _marked(self, words: Sequence[str]) -> Iterator[str]:
        """The words, with a mark before the values that are for a class's parser."""
        left = list(words)
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            below = name.startswith("--") and "." in name and name not in self._option_string_actions
            if not below or name.rsplit(".", 1)[-1] in ("class_path", "help"):
                yield word
            elif not equals and (not left or left[0].startswith("--")):
                yield word  # the parser says that a value is missing
            else:
                yield f"{name}={_RAW}{value if equals else left.pop(0)}"


def _hints(action: Action | None) -> tuple[Any, ...]:
    """What the type of a key is a union of."""
    hint = getattr(action, "_typehint", None)
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_text(hints: Sequence[Any]) -> bool:
    """Whether a text is a value of the key as it is, so that it must not be read as YAML."""
    others = {hint for hint in hints if get_origin(hint) is not Literal} - {str, list[str], type(None)}
    return str in hints and not others


def _takes_mapping(hints: Sequence[Any]) -> bool:
    return any((get_origin(hint) or hint) in (dict, Mapping) for hint in hints)


def _as_typed(hints: Sequence[Any], value: str) -> str | list[str]:
    """``[no, 1e3]`` as a list of what was typed, where all that a list can hold is texts; another value as it is."""
    if list[str] in hints and value.startswith("["):
        for read in (json.loads, partial(yaml.load, Loader=yaml.BaseLoader)):
            with suppress(ValueError, yaml.YAMLError):
                items = read(value)
                if isinstance(items, list) and all(isinstance(item, str) for item in items):
                    return items
    return value


def load(text: str) -> Any:
    """What jsonargparse reads in a text; a ``YAMLError`` where that is no YAML."""
    try:
        return _LOAD(text)
    except (TypeError, ValueError) as error:  # as for ? and ._
        raise yaml.YAMLError(str(error)) from error


def _read(text: str) -> Any:
    """What is read in a text; the text itself where that is no YAML."""
    try:
        return load(text)
    except yaml.YAMLError:
        return text


def merged(earlier: Any, later: Any) -> Any:
    """Two mappings as one, at any depth: the keys that the later one has are as it says."""
    if not (isinstance(earlier, Mapping) and isinstance(later, Mapping)):
        return later
    return {**earlier, **{key: merged(earlier.get(key), value) for key, value in later.items()}}


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML reads as a text and jsonargparse as something else, such as 1e3."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    try:
        style = None if load(text) == text else '"'
    except yaml.YAMLError:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(config: Any) -> str:
    """A configuration as YAML that is read as what it was, texts as texts."""
    text: str = yaml.dump(config, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text
