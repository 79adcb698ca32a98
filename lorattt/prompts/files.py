"""A prompt, and the files that hold one: our own (safetensors), and the checkpoints that CoOp's program writes.

A checkpoint of CoOp is a pickle, which can name any function to be called. It is read by torch's weights-only loader
alone; the few classes that such checkpoints name beside tensors (an optimiser, a schedule) are replaced by inert ones,
and a file that names any other is rejected.
"""

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorattt.errors import UserError, first_line, quoted

Position = Literal["end", "middle", "front"]
POSITIONS: tuple[Position, ...] = ("end", "middle", "front")
FORMAT, VERSION = "lorattt-prompt", 1
# Classes below these that an optimiser's or a schedule's state names: nothing of them is needed.
_INERT = (
    *("torch.optim.", "torch.nn.", "collections.", "dassl.", "builtins.dict", "builtins.list", "numpy.dtype"),
    *("numpy.core.multiarray.", "numpy._core.multiarray.", "numpy.ndarray", "numpy.float64", "numpy.float32"),
)
_EXPORT = "export the context alone, as a dict {'state_dict': {'ctx': tensor}}, with the program that made it"


@dataclass(frozen=True, eq=False)
class Prompt:
    """A context that any list of classes can be joined with."""

    context: Tensor  # (M, d) float32 vectors in the place of words; (K, M, d) if every class has its own
    position: Position  # where the class name is: behind the context, in its middle, or before it
    words: str | None = None  # the words the context began as; None if it began otherwise
    model: str | None = None  # the model it was made for; None for a checkpoint of CoOp, which lacks the position too
    class_names: tuple[str, ...] | None = None  # K names where every class has its own context, in its order
    notes: Mapping[str, str] = field(default_factory=dict)  # what else its file says, such as how it was trained
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # other tensors of its file, such as a projection head's

    @property
    def class_specific(self) -> bool:
        """Whether every class has a context of its own."""
        return self.context.dim() == 3

    @property
    def tokens(self) -> int:
        """M, the number of context vectors."""
        return int(self.context.shape[-2])


def save_prompt(prompt: Prompt, path: Path | str) -> None:
    """Write a prompt as safetensors; folders are made as needed."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"prompt file {path}: the name must end in .safetensors")
    says: dict[str, Any] = {"position": prompt.position, "words": prompt.words, "model": prompt.model}
    says |= {"class_names": prompt.class_names, "notes": dict(prompt.notes)}
    metadata = {"format": FORMAT, "version": str(VERSION), "prompt": json.dumps(says, ensure_ascii=False)}
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {**prompt.extras, "context": prompt.context}
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)


def load_prompt(path: Path | str) -> Prompt:
    """Read a prompt: ours by the ending ``.safetensors``, else a checkpoint of CoOp's program. It runs no code."""
    path = Path(path).expanduser()
    file = f"prompt file {path}"
    if not path.is_file():
        raise UserError(f"{file}: no such file")
    found = _read_ours(path, file) if path.suffix == ".safetensors" else Prompt(_read_checkpoint(path, file), "end")
    context = found.context
    if context.dim() not in (2, 3) or 0 in context.shape or not context.is_floating_point():
        raise UserError(
            f"{file}: its context has shape {tuple(context.shape)} and dtype {context.dtype}; it must be "
            "(tokens, width) or (classes, tokens, width) of floats"
        )
    if not context.isfinite().all():
        raise UserError(f"{file}: its context has values that are not finite: train it again")
    return replace(found, context=context.float())


def _read_ours(path: Path, file: str) -> Prompt:
    try:
        with safe_open(path, "pt") as opened:
            metadata, tensors = opened.metadata() or {}, opened.keys()
            if metadata.get("format") != FORMAT or "context" not in tensors:
                raise UserError(f"{file}: these are tensors, but not a prompt: give a file that lorattt saved as one")
            extras = {name: opened.get_tensor(name) for name in tensors}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}): copy or make it again") from error
    context = extras.pop("context")
    try:
        version, says = int(metadata["version"]), json.loads(metadata["prompt"])
        position, words, model, names = (says[key] for key in ("position", "words", "model", "class_names"))
        names = None if names is None else tuple(map(str, names))
        notes = {str(key): str(value) for key, value in says["notes"].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged (its description does not read): make it again") from error
    if version > VERSION:
        raise UserError(f"{file} has format version {version}, this lorattt reads {VERSION}: upgrade it")
    if position not in POSITIONS:
        raise UserError(f"{file}: position {quoted(position)} is none of {', '.join(POSITIONS)}")
    if (context.dim() == 3) != (names is not None) or (names is not None and len(names) != len(context)):
        raise UserError(f"{file} is damaged (class names do not fit the context): make it again")
    return Prompt(context, position, words, model, names, notes, extras)


def _stand_in(full_name: str) -> Any:
    """An inert object for torch's loader, which goes by the module and the name that the object has."""
    module, _, name = full_name.rpartition(".")
    if full_name != "collections.defaultdict":
        nothing = {"__init__": lambda self, *args, **options: None, "__setstate__": lambda self, state: None}
        return type(name, (), {**nothing, "__module__": module, "__qualname__": name})

    def empty(*args: Any) -> dict[Any, Any]:
        """The loader fills only dicts, and no factory may be called."""
        return {}

    empty.__module__, empty.__qualname__, empty.__name__ = module, name, name
    return empty


def _load(path: Path, file: str) -> Any:
    """What torch's weights-only loader reads, with a stand-in for each inert class that it stops at."""
    stand_ins: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(stand_ins.values())), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*pickle protocol")  # torch warns of those other than 2
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            if named is None:
                raise
            name = named[1] if "." in named[1] else f"builtins.{named[1]}"
            if name in stand_ins or not name.startswith(_INERT):
                raise UserError(
                    f"{file}: the file would run {name} when loaded; only tensors are read: {_EXPORT}"
                ) from error
            stand_ins[name] = _stand_in(name)


def _read_checkpoint(path: Path, file: str) -> Tensor:
    try:
        loaded = _load(path, file)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise UserError(
            f"{file} is neither a prompt that lorattt saved (.safetensors) nor a whole checkpoint of CoOp "
            f"({first_line(error)}): copy it again, or {_EXPORT}"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    state = {str(key): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    for prefix in ("", "module.", "prompt_learner.", "module.prompt_learner."):
        context = state.get(f"{prefix}ctx")
        if isinstance(context, Tensor):
            # A context that another module changes (CoCoOp, MaPLe) is wrong alone, and would only lose accuracy.
            others = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
            if learned := sorted(others - {"ctx", "token_prefix", "token_suffix"}):
                raise UserError(
                    f"{file}: its context belongs to another method than CoOp, with {learned[0]} beside it: without "
                    "that the context means nothing; give a checkpoint of CoOp"
                )
            return context.detach()
    has = ", ".join(sorted(state)[:5]) or "nothing"
    lacks = f"no tensor 'ctx' in its state_dict; it has {has}"
    raise UserError(f"{file}: it is no checkpoint of CoOp ({lacks}): give the file of the prompt learner")
