"""A user's mistake as one line: the key, what is wrong with it, and what is accepted.

jsonargparse reports every type it tried, over many lines, the one that matters deep among them. Nothing
of it is structured, so its text is read here; what is not recognised is passed on as one line.
"""

import dataclasses
import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lorattt.cli.devices import device_mistake
from lorattt.data.datamodule import EpisodeData, ImageData
from lorattt.data.few_shot import ListedSourceData
from lorattt.data.loader import lost_worker
from lorattt.data.training import SourceData
from lorattt.errors import UserError, shortened
from lorattt.methods.base import Method
from lorattt.methods.ranked_views import RankedViews
from lorattt.methods.source import PromptTraining

_TOP = ("seed_everything", "trainer", "model", "data", "run", "profile", "ckpt_path")
_RUN = ("run.root", "run.folder", "run.top_k", "run.resume")
_BELOW = ("model.class_path", "model.init_args", "data.class_path", "data.init_args", *_RUN)
# What classes are derived from, and nobody names.
BASES = (Method, RankedViews, PromptTraining, EpisodeData, ImageData, SourceData, ListedSourceData)
_PLACE = re.compile(r"Parser key \"(?P<key>[^\"]+)\":|Problem with given class_path '(?P<owner>[^']+)':")
_UNKNOWN = re.compile(
    r"Option '(?P<a>[^']+)' is not accepted|Group '(?P<group>[^']+)' does not accept option '(?P<b>[^']+)'"
    r"|Subcommand '\w+' does not accept option '(?P<c>[^']+)'|unrecognized arguments: -*(?P<d>[^\s=]+)"
)
_NO_CLASS = re.compile(
    r"Expected a dot import path string: (?P<a>\S+)|given class_path '(?P<b>[^']+)':\s+(?:No module|module .* has no)"
    r"|Import path (?P<c>\S+) does not correspond to a subclass"
)
_IMPORT_PATH = re.compile(r"(?!.*\.(?:ya?ml|json)$)[^\W\d]\w*(?:\.\w+)+")
# What gloo, NCCL and PyTorch's store say of a process that is no more.
_PEER_LOST = re.compile(
    r"Connection (?:closed|reset) by peer|Connection was likely closed|Broken pipe|remote process exit"
)
_CHOICES = re.compile(r"typing\.Literal\[.*?\]")
_EXPECTED = re.compile(r"Expected an? (?P<kind>.+?)(?:\. Got value: (?P<value>.*))?$", re.MULTILINE)


def explain(error: BaseException) -> str | None:
    """The line for an exception that stands for a user's mistake; None for a defect of the program."""
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, UserError) and (mistake := device_mistake(cause)):
            return mistake
        if isinstance(cause, UserError | MisconfigurationException):
            # From a loader's worker the message comes with the worker's traceback before it.
            return one_line(str(cause).rsplit(f"{type(cause).__name__}: ", 1)[-1])
        cause = cause.__cause__
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the device is out of memory, for one image at a time as well: use a smaller model.views.number, "
            "model.chunk where the method has it, or model.clip.dtype bf16"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"model.clip.compile: compiling failed ({one_line(str(error))[:200]}): leave it false"
    if isinstance(error, RuntimeError) and _PEER_LOST.search(str(error)):
        return "another device's process has ended the run: the message that it left says why"
    if isinstance(error, RuntimeError):
        return lost_worker(error)
    return None


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def condense(message: str) -> str:
    """A report of the parser as one line."""
    path, owner, body = _innermost(message)
    if no_class := _NO_CLASS.search(message):
        name = str(no_class["a"] or no_class["b"] or no_class["c"])
        if (choices := _CHOICES.search(body)) and "." not in name:
            return f"{'.'.join(path)}: expected {_kind(choices[0])} or the import path of a class, got {name}"
        return _unknown_class(".".join(path).removesuffix(".init_args"), name)
    if unknown := _UNKNOWN.search(body):
        group = [unknown["group"]] if unknown["group"] else []
        key = str(unknown["a"] or unknown["b"] or unknown["c"] or unknown["d"])
        return _unknown_key(path, ".".join([*group, key]), owner)
    if "arguments are required:" in body:
        return _required(path, body.split("arguments are required:")[1], owner)
    if '"subcommand"' in body:
        return "name a command: fit, validate, test or predict (lorattt --help tells more)"
    if found := list(_EXPECTED.finditer(body)):
        value = next((m["value"] for m in found if m["value"]), None) or _after(body, "Given value: ")
        kinds, value = dict.fromkeys(_kind(m["kind"]) for m in found), one_line(value)
        if path in (["model"], ["data"]) and _IMPORT_PATH.fullmatch(value) and _import_problem(value):
            return _unknown_class(path[0], value)  # its module raises what the parser takes for another kind of value
        return f"{'.'.join(path)}: expected {' or '.join(kinds)}, got {shortened(value)}"
    body = body.replace("File does not exist:", "no such file")
    return one_line(": ".join([".".join(path), body] if path else [body]))


def _innermost(message: str) -> tuple[list[str], str | None, str]:
    """Follow the report down: the key's path, the class it belongs to, and what is said of it."""
    path: list[str] = []
    owner: str | None = None
    lines, depth, start, first = message.splitlines(), -1, 0, ""
    for number, line in enumerate(lines):
        place, indent = _PLACE.search(line), _indent(line)
        if place is None or indent <= depth:
            continue
        depth, start, first = indent, number + 1, line[place.end() :]
        if place["owner"]:
            owner = place["owner"]
            path.append("init_args")
        else:
            path += place["key"].split(".")
    body = [first]
    for line in lines[start:]:
        if line.strip() and _indent(line) <= depth:
            break
        body.append(line)
    return path, owner, "\n".join(body).strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _after(text: str, mark: str) -> str:
    return text.rsplit(mark, 1)[-1] if mark in text else "another value"


def _kind(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text.strip())
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", text):
        return "one of " + choices[1].replace("'", "")
    return {"NoneType": "null", "list": "a list, such as '[a, b]'", "tuple": "a list, such as '[a, b]'"}.get(text, text)


def _unknown_key(path: list[str], key: str, owner: str | None) -> str:
    prefix = ".".join(path) + "." if path else ""
    known = (
        list(_keys_of(import_class(owner))) if owner else [*_TOP, *_BELOW, *(f"trainer.{k}" for k in _keys_of(Trainer))]
    )
    if owner and key == "seed":
        return f"{prefix}seed: no such key; the seed of a run is seed_everything"
    first, _, rest = key.partition(".")
    if not owner and rest and first not in _TOP and (top := difflib.get_close_matches(first, _TOP, n=1)):
        return f"{prefix}{key}: no such key; did you mean {prefix}{top[0]}.{rest}?"
    if key.rpartition(".")[2] == "class_path":
        return f"{prefix}{key}: no such key; beside class_path, the keys of a class stand below init_args"
    if owner and owner.startswith("lightning."):
        return f"{path[0]}.{key}: name the class before its keys, with --{path[0]} CLASS or -c FILE"
    leaves = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    near = near or [leaves[k] for k in difflib.get_close_matches(key.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.7)]
    if near:
        return f"{prefix}{key}: no such key; did you mean {prefix}{near[0]}?"
    level = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == level]
    return f"{prefix}{key}: no such key; accepted are {', '.join(siblings or _TOP)}"


def _unknown_class(place: str, name: str) -> str:
    if re.search(r"\.(ya?ml|json)$", name):
        return f"{place}: no such file {name}"
    known = known_classes(place.removesuffix(".class_path"))
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    accepted = f"known are {', '.join(known)}" if known else "give the import path of a class"
    where = f"{place}: " if place else ""
    return f"{where}unknown class {name}; {hint}{accepted}{_import_problem(name)}"


def known_classes(place: str) -> list[str]:
    """The names of the package's classes for ``model`` or ``data``; of none for another place."""
    base = {"model": LightningModule, "data": LightningDataModule}.get(place)
    return sorted(c.__name__ for c in _subclasses(base)) if base else []


def _import_problem(name: str) -> str:
    """Why a class that is named with its module cannot be had; nothing for a name alone."""
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


def _required(path: list[str], names: str, owner: str | None) -> str:
    missing = [name.strip().removeprefix("test.") for name in names.split(",")]
    if owner:
        return f"{'.'.join([*path, missing[0]])}: {owner.rsplit('.', 1)[-1]} needs it"
    short = " and ".join(sorted((name.rsplit(".", 1)[-1] for name in missing), reverse=True))
    return (
        f"no {short}: name a configuration (-c lightning_configs/demo/lora_ttt.yaml), "
        "or give --model LoRATTT --data DemoData"
    )


def import_class(path: str) -> type:
    """The class of an import path that is known to be right."""
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _keys_of(thing: type) -> Iterator[str]:
    """The parameters of a class, with the fields of those that are dataclasses."""
    hints = hints_of(thing) if thing is not Trainer else {}
    known = inspect.signature(thing).parameters if thing is Trainer else ArgumentParser().add_class_arguments(thing)
    for name in known:
        if name == "seed":
            continue
        yield name
        if dataclasses.is_dataclass(hint := hints.get(name)):
            yield from (f"{name}.{field.name}" for field in dataclasses.fields(hint))


def hints_of(kind: type) -> dict[str, Any]:
    """The types of a class's arguments, with those that it may hand on to the classes that it is made of."""
    hints: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        with suppress(NameError, TypeError):  # of a user's class: names that are there for type checkers alone
            hints |= typing.get_type_hints(each.__init__)  # type: ignore[misc]  # a class's, not an instance's
    return hints


def _subclasses(base: type) -> Iterable[type]:
    """Our own classes below a base, those excepted that only serve others."""
    found: type
    for found in base.__subclasses__():
        if found.__module__.startswith("lorattt.") and found not in BASES:
            yield found
        yield from _subclasses(found)
