"""Find a model's weights among the tensors of a checkpoint, whatever they are wrapped in."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Shapes = Mapping[str, torch.Size]
Dicts = Mapping[tuple[str, ...], Mapping[str, Tensor]]
"""Dicts of tensors by name, by the keys that they lie below in a file."""

# Segments that wrappers of parts of a model put into names: compilation, sharding, activation checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Nothing reads these: sizes that OpenAI wrote, counters of libraries. SigLIP's bias is the same for all classes, so
# probabilities do not depend on it: whether a model has one or a file does need not agree.
_UNREAD = ("input_resolution", "context_length", "vocab_size", "n_averaged", "logit_bias")
_UNREAD_ENDINGS = (".position_ids", ".num_batches_tracked")
_DEPTH = 4


@dataclass(frozen=True)
class WeightSet:
    """Tensors of one dict whose names begin alike.

    Attributes:
        keys: Of the dict in the file; none where the file is that dict.
        beginning: What their names begin with, such as ``module.``; may be empty.
        tensors: By :func:`plain_name`, without their beginning.
    """

    keys: tuple[str, ...]
    beginning: str
    tensors: Mapping[str, Tensor]

    @property
    def where(self) -> str:
        """Where they are in the file, in words."""
        return ".".join((*self.keys, f"{self.beginning}*" if self.beginning else "")).strip(".") or "the file itself"


def dicts_of_tensors(
    content: Mapping[Any, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    """Each dict in nested dicts that has tensors by name, without its other entries, and the keys it lies below."""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        short = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
        yield keys, short if len(short) == len(tensors) else tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and len(keys) < _DEPTH:
            yield from dicts_of_tensors(value, (*keys, key))


def plain_name(name: str) -> str:
    """A weight's name whether or not the model keeps its text tower in a module ``text``: open_clip has both."""
    return name.removeprefix("text.")


def is_read(name: str) -> bool:
    """Whether features depend on the tensor of that plain name."""
    return name not in _UNREAD and not name.endswith(_UNREAD_ENDINGS)


def closest_set(keys: tuple[str, ...], tensors: Mapping[str, Tensor], shapes: Shapes) -> WeightSet:
    """The tensors of a dict that have most names of a model, with the beginning that gives them these."""
    return next(_sets(keys, tensors, shapes))


def fitting_sets(dicts: Dicts, shapes: Shapes) -> list[WeightSet]:
    """All sets of tensors that are a model's weights: no name missing or left over, all shapes right.

    Args:
        dicts: What a file holds.
        shapes: Of the model, by its names.
    """
    wanted = {plain_name(name): shape for name, shape in shapes.items()}
    return [
        found
        for keys, tensors in dicts.items()
        if len(tensors) >= sum(map(is_read, wanted))
        for found in _sets(keys, tensors, shapes)
        if all(not is_read(name) or name in found.tensors for name in wanted)
        and all(_fits(name, tensor, wanted.get(name)) for name, tensor in found.tensors.items())
    ]


def _fits(name: str, tensor: Tensor, shape: torch.Size | None) -> bool:
    if name == "logit_scale":  # open_clip has it with and without a dimension
        return tensor.numel() == 1 and shape is not None
    return not is_read(name) or tensor.shape == shape


def _sets(keys: tuple[str, ...], tensors: Mapping[str, Tensor], shapes: Shapes) -> Iterator[WeightSet]:
    """The dict's tensors for each beginning that gives some of them names of the model, the most names first."""
    wanted = {plain_name(name) for name in shapes}
    votes: Counter[str] = Counter({"": 0})
    for name in tensors:
        parts = name.split(".")
        for place in range(len(parts)):
            if plain_name(".".join(parts[place:])) in wanted:
                votes["".join(f"{part}." for part in parts[:place])] += 1
    for beginning, _ in votes.most_common():
        inside = [name for name in tensors if name.startswith(beginning)]
        named = {plain_name(name[len(beginning) :]): tensors[name] for name in inside}
        if len(named) < len(inside):  # a name with and without "text.": neither is known to be the right one
            named = {name[len(beginning) :]: tensors[name] for name in inside}
        yield WeightSet(keys, beginning, named)


def _without_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
