"""Files that hold a prompt: our own (safetensors), and the checkpoints that CoOp's program writes.

A checkpoint of CoOp is a pickle, and a pickle can name any function to be called. It is read by torch's
weights-only loader alone; the few classes such checkpoints name beside tensors (an optimiser, a schedule)
are replaced by inert ones, and a file that names any other is refused.
"""

import json
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorattt.errors import UserError, first_line, quoted
from lorattt.prompts.context import POSITIONS, Position, Prompt

FORMAT, VERSION = "lorattt-prompt", 1
# Classes below these that an optimiser's or a schedule's state names: nothing of them is needed.
_INERT_BELOW = ("torch.optim.", "torch.nn.", "collections.", "dassl.", "numpy.dtypes.")
_INERT = {
    *(f"{room}.multiarray.{name}" for room in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "float64", "float32")),
    *(f"builtins.{name}" for name in ("dict", "list")),
}
# What torch's loader may know to be harmless; it judges these itself, and refuses what it does not know.
_LEFT_TO_TORCH = ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.Parameter")
_KNOWN = {"collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.set", "builtins.bytearray"}
_KNOWN |= {"torch.serialization._get_layout"}
_LEGACY_PICKLES = 4  # magic number, protocol, system, object
_EXPORT = "export the context alone, as a dict {'state_dict': {'ctx': tensor}}, with the program that made it"


@dataclass(frozen=True, eq=False)
class PromptFile:
    """What a file says; None for what it does not say.

    Attributes:
        context: ``(M, d)`` or ``(K, M, d)`` float32.
        position: Where the class name stands.
        words: The words the context began as.
        model: The model it was made for.
        class_names: The classes of a class-specific context.
        notes: What the writer added.
        extras: Other tensors that belong to it, such as a projection head's, by name.
    """

    context: Tensor
    position: Position | None = None
    words: str | None = None
    model: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def save_prompt(
    prompt: Prompt,
    path: Path | str,
    *,
    notes: Mapping[str, str] | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a prompt as safetensors; folders are made as needed.

    Args:
        prompt: What to write.
        path: A name that ends in ``.safetensors``.
        notes: Anything else worth keeping, such as how it was trained.
        extras: Tensors that belong to it, by names other than ``context``.

    Raises:
        UserError: If the name ends otherwise: the ending tells the reader the format.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"prompt file {path}: the name must end in .safetensors")
    says: dict[str, Any] = {"position": prompt.position, "words": prompt.words, "model": prompt.model}
    says |= {"class_names": prompt.class_names, "notes": dict(notes or {})}
    metadata = {"format": FORMAT, "version": str(VERSION), "prompt": json.dumps(says, ensure_ascii=False)}
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {**(extras or {}), "context": prompt.context}
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)


def load_prompt(path: Path | str) -> PromptFile:
    """Read a prompt: ours by the ending ``.safetensors``, else a checkpoint of CoOp's program.

    No code that a file may hold is run.

    Raises:
        UserError: If the file is missing, damaged, not a prompt, or would run code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"prompt file {path}: no such file")
    found = _read_ours(path) if path.suffix == ".safetensors" else PromptFile(_read_checkpoint(path))
    context = found.context
    if context.dim() not in (2, 3) or 0 in context.shape or not context.is_floating_point():
        raise UserError(
            f"prompt file {path}: its context has shape {tuple(context.shape)} and dtype {context.dtype}; it must be "
            "(tokens, width) or (classes, tokens, width) of floats"
        )
    if not context.isfinite().all():
        raise UserError(f"prompt file {path}: its context has values that are not finite: train it again")
    return replace(found, context=context.float())


def _read_ours(path: Path) -> PromptFile:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or "context" not in file.keys():  # noqa: SIM118 (no mapping)
                raise UserError(
                    f"prompt file {path}: these are tensors, but not a prompt: give a file that lorattt saved as one"
                )
            context = file.get_tensor("context")
            extras = {name: file.get_tensor(name) for name in file.keys() if name != "context"}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"prompt file {path} cannot be read ({first_line(error)}): copy or make it again") from error
    try:
        version, says = int(metadata["version"]), json.loads(metadata["prompt"])
        names = says["class_names"]
        found = PromptFile(
            context,
            says["position"],
            says["words"],
            says["model"],
            None if names is None else tuple(map(str, names)),
            {str(key): str(value) for key, value in says["notes"].items()},
            extras,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"prompt file {path} is damaged (its description does not read): make it again") from error
    if version > VERSION:
        raise UserError(f"prompt file {path} has format version {version}, this lorattt reads {VERSION}: upgrade it")
    if found.position not in POSITIONS:
        raise UserError(f"prompt file {path}: position {quoted(found.position)} is none of {', '.join(POSITIONS)}")
    if (context.dim() == 3) != (names is not None) or (names is not None and len(names) != len(context)):
        raise UserError(f"prompt file {path} is damaged (class names do not fit the context): make it again")
    return found


class _Inert:
    """In the place of a class whose objects are not needed: takes anything, does and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _stand_in(full_name: str) -> Any:
    """What the loader shall find under that name; it goes by the module and the name that the object tells."""
    module, _, name = full_name.rpartition(".")
    if full_name != "collections.defaultdict":
        return type(name, (_Inert,), {"__module__": module, "__qualname__": name})

    def empty(*args: Any) -> dict[Any, Any]:
        """The loader fills dicts only, and no factory shall be called."""
        return {}

    empty.__module__, empty.__qualname__, empty.__name__ = module, name, name
    return empty


def _read_checkpoint(path: Path) -> Tensor:
    try:
        names = _named_globals(path)
        stand_ins: list[Any] = []
        for name in sorted(names):
            # torch.FloatStorage, torch.Size and their like stand in torch itself.
            if (
                name in _KNOWN
                or name.startswith(_LEFT_TO_TORCH)
                or (name.startswith("torch.") and name.count(".") == 1)
            ):
                continue
            if name not in _INERT and not name.startswith(_INERT_BELOW):
                raise UserError(
                    f"prompt file {path}: the file would run {name} when loaded; only tensors are read: {_EXPORT}"
                )
            stand_ins.append(_stand_in(name))
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
        raise UserError(
            f"prompt file {path} is neither a prompt that lorattt saved (.safetensors) nor a whole checkpoint of CoOp "
            f"({first_line(error)}): copy it again, or {_EXPORT}"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    state = {str(key): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    for prefix in ("", "module.", "prompt_learner.", "module.prompt_learner."):
        context = state.get(f"{prefix}ctx")
        if isinstance(context, Tensor):
            others = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
            _refuse_other_methods(path, others)
            return context.detach()
    raise UserError(
        f"prompt file {path}: it is no checkpoint of CoOp (no tensor 'ctx' in its state_dict; it has "
        f"{', '.join(sorted(state)[:5]) or 'nothing'}): give the file of the prompt learner"
    )


def _refuse_other_methods(path: Path, keys: set[str]) -> None:
    """A context that another module changes (CoCoOp, MaPLe) is wrong alone, and would only lose accuracy."""
    learned = sorted(keys - {"ctx", "token_prefix", "token_suffix"})
    if learned:
        raise UserError(
            f"prompt file {path}: its context belongs to another method than CoOp, with {learned[0]} beside it: "
            "without that the context means nothing; give a checkpoint of CoOp"
        )


def _named_globals(path: Path) -> set[str]:
    """Classes and functions that a file of ``torch.save`` names, without loading it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(pickles) != 1:
                raise pickle.UnpicklingError("a zip file that torch did not save")
            with archive.open(pickles[0]) as file:
                return _globals_of(file)
    with path.open("rb") as legacy:
        found: set[str] = set()
        for _ in range(_LEGACY_PICKLES):
            found |= _globals_of(legacy)
        return found


def _globals_of(file: IO[bytes]) -> set[str]:
    """One pickle's. ``STACK_GLOBAL`` needs no care: torch's loader has no such instruction."""
    found = set()
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST"):
            module, name = str(argument).split(" ", 1)
            module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
            found.add(f"{module}.{name}")
    return found
