"""Load weights into a model: from a checkpoint file, each one checked, or from a tag's file as open_clip does it."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.factory import load_checkpoint
from torch import Tensor, nn

from lorattt.clip.checkpoint_file import FAULTS, activation_of, read_checkpoint
from lorattt.clip.checkpoint_match import (
    Dicts,
    WeightSet,
    dicts_of_tensors,
    explain_misfit,
    fitting_sets,
    is_read,
    plain_name,
    shapes_of,
)
from lorattt.errors import UserError, first_line, listed, quoted

# Parts of a training checkpoint that hold tensors, but no weights.
_TRAINING = ("opt", "sched", "lr_", "scaler", "amp", "rng", "loops", "callbacks")


def load_file(model: nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint file into a model of open_clip, in the model's dtype.

    The file is in safetensors, a checkpoint of PyTorch, OpenAI's archive, or Google's ``.npz`` of SigLIP. Weights may
    lie below keys (``state_dict``, ``model`` and the like), and their names may share a prefix (``module.``,
    ``model.``). Names and shapes have to be the model's; position embeddings are not resized.
    """
    if path.suffix in (".npz", ".npy"):
        _load_big_vision(model, path, name)
    else:
        tensors = _find_weights(model, path, name)
        model.load_state_dict(_state_of(model, tensors, path))
    _check_values(model, f"checkpoint {path}")


def load_tag(model: nn.Module, path: Path, name: str, tag: str) -> None:
    """Load the file that open_clip fetched for a tag; a UserError if it is damaged or its values are not finite."""
    try:
        load_checkpoint(model, str(path))
    except FAULTS as error:
        raise UserError(
            f"the weights {quoted(tag)} of {name} cannot be loaded from {path} ({first_line(error)}): "
            "delete that file to have it fetched again"
        ) from error
    _check_values(model, f"the weights {quoted(tag)} of {name}")


def _check_values(model: nn.Module, what: str) -> None:
    """Require that all loaded weights and the factor on cosines are finite."""
    for name, tensor in model.state_dict().items():
        # A finite sum shows it in a fraction of the time; the sum of large values may overflow.
        if not tensor.is_floating_point() or tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all():
            continue
        fix = "fetch or train them again, or name the model they were made for"
        if tensor.dtype == torch.float16:
            fix = f"try model.clip.dtype bf16, as fp16 ends at 65504; else {fix}"
        raise UserError(f"{what}: {name} has values that are not finite: {fix}")
    scale = model.get_parameter("logit_scale").float()
    if not scale.exp().isfinite().all():
        raise UserError(
            f"{what}: logit_scale is {scale.item():g}, and the factor on cosines is its exponential, which is not "
            "finite: store its logarithm"
        )


def _find_weights(model: nn.Module, path: Path, name: str) -> Mapping[str, Tensor]:
    """The model's weights in a file, by plain name."""
    shapes = shapes_of(model)
    found = dicts_of_tensors(read_checkpoint(path))
    dicts = {keys: _from_apple(model, tensors, path) for keys, tensors in found.items()}
    if not dicts:
        raise UserError(f"checkpoint {path} holds no tensors by name: save the model's state_dict")
    fitting = fitting_sets(dicts, shapes)
    if not fitting:
        reason = explain_misfit(dicts, shapes, name, activation_of(path), [*model.state_dict()])
        raise UserError(f"checkpoint {path} does not fit model {name}: {reason}")
    first, *more = fitting
    read = [name for name in first.tensors if is_read(name)]
    if any(not torch.equal(first.tensors[name], other.tensors[name]) for other in more for name in read):
        raise UserError(
            f"checkpoint {path} holds {len(fitting)} sets of weights that fit model {name} "
            f"({listed([each.where for each in fitting])}): save the one to use as a file of its own"
        )
    _report_unused(dicts, fitting, path)
    return first.tensors


def _from_apple(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """open_clip's names for those of Apple's own MobileCLIP; other tensors as they are."""
    try:
        converted: Mapping[str, Tensor] = convert_state_dict(model, tensors)
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} has the weights of a MobileCLIP, but not of this model ({first_line(error)}): name the "
            "model it was made for"
        ) from error
    return converted


def _report_unused(dicts: Dicts, used: list[WeightSet], path: Path) -> None:
    """Warn of tensors that are not the model's, such as a prompt learner's, but not of an optimiser's."""
    prefixes = {each.keys: tuple(e.prefix for e in used if e.keys == each.keys) for each in used}
    unused = [
        ".".join((*keys, name))
        for keys, tensors in dicts.items()
        if keys in prefixes or not keys or not keys[0].lower().startswith(_TRAINING)
        for name in tensors
        if is_read(name) and not name.startswith(prefixes.get(keys, ()))
    ]
    if unused:
        warnings.warn(
            f"checkpoint {path} has {len(unused)} tensors beside the model's weights, which are not used "
            f"({listed(unused)})",
            stacklevel=2,
        )


def _state_of(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The model's state under its own names: weights by plain name, and its own values for what nothing reads."""
    state: dict[str, Tensor] = {}
    for name, own in model.state_dict().items():
        tensor = tensors.get(plain_name(name), own)
        kind = "no values" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        plain = tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta
        if own.is_floating_point() and not plain:
            raise UserError(f"checkpoint {path}: {name} has {kind}, where plain floats are needed: save it unquantised")
        state[name] = tensor.reshape(own.shape)
    return state


def _load_big_vision(model: nn.Module, path: Path, name: str) -> None:
    """Load Google's own files of SigLIP, which open_clip copies weight by weight."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)  # what the file lacks is found afterwards
    try:
        load_big_vision_weights(model, str(path))
    except FAULTS as error:
        raise UserError(
            f"checkpoint {path} does not fit model {name}, or is damaged ({first_line(error)}): of NumPy's files only "
            "those that Google published of SigLIP are read, for the model of that name"
        ) from error
