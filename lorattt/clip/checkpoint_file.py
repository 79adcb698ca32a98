"""Read a checkpoint file of any format people have, without running code that it may hold."""

import argparse
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lorattt.errors import UserError, first_line, listed, quoted, shortened

# Harmless objects that programs put beside the weights, which torch's weights-only loader does not know.
_HARMLESS: list[Any] = [argparse.Namespace]
CONFIG_FILE = "open_clip_config.json"
"""open_clip's file beside the weights of a model that it publishes."""
_WEIGHTS_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")
FAULTS: tuple[type[Exception], ...] = (
    *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError),
    *(LookupError, StopIteration, AttributeError, TypeError, AssertionError),
)
"""Errors of libraries with files that are damaged or another model's."""
_FAULTS_OF_READING: tuple[type[Exception], ...] = (*FAULTS, MemoryError)  # a damaged size asks for any memory
# First bytes of files that are no weights, what they are, and what to do.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself", "run 'git lfs pull'"),
    (b"<", "it is a web page, and no checkpoint of PyTorch", "fetch it again"),
    (b"\x1f\x8b", "it is compressed", "unpack it"),
    (b"\x89HDF", "it is in the format HDF5 of Keras", "name weights of PyTorch"),
    (b"GGUF", "it is in the format GGUF", "name weights of PyTorch"),
)


def find_file(name: str) -> Path | None:
    """The file of that name, ``~`` expanded; None if there is none. It is not empty."""
    try:
        path = Path(name).expanduser()
        if path.is_file():
            if path.stat().st_size == 0:
                raise UserError(f"checkpoint {path} is empty: fetch it again")
            return path
        if path.is_dir():
            inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in _WEIGHTS_ENDINGS)
            hint = f"it has {listed(inside)}" if inside else f"nothing in it ends in {', '.join(_WEIGHTS_ENDINGS)}"
            raise UserError(f"checkpoint {path} is a folder: name the file of the weights ({hint})")
        if path.is_symlink():
            target = shortened(str(path.readlink()))
            raise UserError(f"checkpoint {path} is a link to {target}, which is not there: name the file itself")
    except PermissionError as error:
        raise UserError(f"checkpoint {shortened(name)} cannot be read ({first_line(error)})") from error
    except (OSError, RuntimeError, ValueError):  # no name of a file: too long, a null byte, the home of nobody
        pass
    return None


def activation_of(path: Path) -> bool | None:
    """Whether a checkpoint file needs quick GELU; None where that is unknown.

    OpenAI's archives all need it; other weights have it in the ``open_clip_config.json`` beside them, or nowhere.
    """
    if _is_archive(path):
        return True
    stated = config_beside(path).get("model_cfg")
    return None if stated is None else bool(stated.get("quick_gelu", False))


def config_beside(weights: Path) -> dict[str, dict[str, Any]]:
    """``model_cfg`` and ``preprocess_cfg`` of the configuration file beside the weights, those that it has."""
    path = weights.parent / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: it cannot be read as JSON ({first_line(error, 80)}): fetch it again, or remove it"
        ) from error
    sections = config if isinstance(config, dict) else {}
    found = {key: sections[key] for key in ("model_cfg", "preprocess_cfg") if sections.get(key) is not None}
    for what, value in (("the file", {} if config is None else config), *found.items()):
        if not isinstance(value, dict):
            raise UserError(
                f"{path}: {what} must be a mapping of keys to values, not {quoted(value, 80)}: fetch it again"
            )
    return found


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """What a file holds: tensors by name, or dicts that hold such dicts somewhere.

    Reads safetensors, checkpoints of PyTorch (with its weights-only loader), and OpenAI's TorchScript archives; not
    NumPy's ``.npz``. A UserError if the file is damaged, of another kind, or would run code.
    """
    try:
        _check_kind(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_archive(path):
            with warnings.catch_warnings():
                # TorchScript is deprecated; archives of 2021 stay what they are.
                warnings.simplefilter("ignore", FutureWarning)
                archive: dict[str, Any] = torch.jit.load(path, map_location="cpu").state_dict()
            return archive
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} cannot be read: {_what_is_pickled(path)}") from error
    except _FAULTS_OF_READING as error:
        silent = isinstance(error, AttributeError | LookupError | TypeError | AssertionError)  # about torch's own code
        reason = "it is damaged" if silent else first_line(error)
        raise UserError(f"checkpoint {path} cannot be read ({reason}): fetch it again") from error
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, not weights by name: save a state_dict")
    return content


def _is_archive(path: Path) -> bool:
    """OpenAI published its models as TorchScript archives: zip files that hold code."""
    return zipfile.is_zipfile(path) and any("/code/" in name for name in _names_in(path))


def _names_in(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _check_kind(path: Path) -> None:
    """Reject by its first bytes what is no checkpoint, where the libraries' own message would mislead."""
    with path.open("rb") as file:
        start = file.read(64)
    for beginning, what, fix in _OTHERS:
        if start.startswith(beginning):
            raise UserError(f"checkpoint {path} cannot be read ({what}): {fix}")
    safetensors = start[8:9] == b"{"  # eight bytes of a length, then JSON
    pytorch = start.startswith((b"PK", b"\x80")) and not safetensors  # a zip file, or a pickle where it is old
    if start.lstrip()[:1] in (b"{", b"[") and not safetensors:
        raise UserError(f"checkpoint {path} is {_what_is_json(path)}")
    named = path.suffix == ".safetensors"
    if pytorch and named:
        raise UserError(f"checkpoint {path} is in PyTorch's format: rename it to end in .pt")
    if safetensors and not named:
        raise UserError(f"checkpoint {path} is in the format of safetensors: rename it to end in .safetensors")
    if not (pytorch or named):
        raise UserError(f"checkpoint {path} cannot be read (it is no checkpoint of PyTorch): fetch it again")
    if pytorch and start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise UserError(f"checkpoint {path} cannot be read (it is cut short): fetch it again")
        names = _names_in(path)
        if not any(name.endswith("data.pkl") for name in names):
            raise UserError(f"checkpoint {path} is a zip file, but no checkpoint of PyTorch (it holds {listed(names)})")


def _what_is_json(path: Path) -> str:
    try:
        content = json.loads(path.read_bytes())
        shards = sorted(set(content["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "text (JSON), not weights: name the file of the weights itself"
    return (
        f"the index of weights in {len(shards)} files ({listed(shards)}), which are not read together: name one file "
        "with all weights, such as open_clip_model.safetensors of an open_clip repository"
    )


def _what_is_pickled(path: Path) -> str:
    """Why torch's weights-only loader did not take a file."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError, AttributeError, pickle.UnpicklingError):
        found = []  # an old pickle, or damaged
    again = "save the model's state_dict alone"
    if not found:
        return f"it is damaged, or holds more than weights; fetch it again, or {again}"
    model = any(name.startswith(("torch.nn.modules.", "open_clip.", "clip.model.")) for name in found)
    what = "a whole model as Python objects" if model else "Python objects beside the weights"
    return f"it holds {what} ({listed(found)}), whose loading could run code; {again}"
