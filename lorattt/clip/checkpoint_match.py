"""Find a model's weights among the tensors of a checkpoint, or say which model they are for."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from lorattt.clip.build import build_architecture
from lorattt.errors import listed

Shapes = Mapping[str, torch.Size]
"""By name; a model's by :func:`plain_name`."""
Dicts = Mapping[tuple[str, ...], Mapping[str, Tensor]]
"""Dicts of tensors by name, by the keys that they lie below in a file."""

# Segments that wrappers of parts of a model put into names: compilation, sharding, activation checkpointing.
_WRAPPERS = r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
# Nothing reads these: sizes that OpenAI wrote, counters of libraries. SigLIP's bias is the same for all classes, so
# probabilities do not depend on it: a model may have one that a file lacks, and the other way round.
_UNREAD = ("input_resolution", "context_length", "vocab_size", "n_averaged", "logit_bias")
_UNREAD_ENDINGS = (".position_ids", ".num_batches_tracked")
_DEPTH = 4


@dataclass(frozen=True)
class WeightSet:
    """Tensors of one dict, by :func:`plain_name`, whose names in the file share a prefix such as ``module.``."""

    keys: tuple[str, ...]  # of the dict in the file; none where the file is that dict
    prefix: str  # may be empty
    tensors: Mapping[str, Tensor]

    @property
    def where(self) -> str:
        """Where they are in the file, in words."""
        return ".".join((*self.keys, f"{self.prefix}*" if self.prefix else "")).strip(".") or "the file itself"


def dicts_of_tensors(content: Mapping[Any, Any], keys: tuple[str, ...] = ()) -> Dicts:
    """The dicts in nested dicts that have tensors by name, without their other entries."""
    found: dict[tuple[str, ...], Mapping[str, Tensor]] = {}
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        short = {re.sub(_WRAPPERS, "", name): tensor for name, tensor in tensors.items()}
        found[keys] = short if len(short) == len(tensors) else tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and len(keys) < _DEPTH:
            found |= dicts_of_tensors(value, (*keys, key))
    return found


def plain_name(name: str) -> str:
    """A weight's name whether or not the model keeps its text tower in a module ``text``: open_clip has both."""
    return name.removeprefix("text.")


def shapes_of(model: nn.Module) -> Shapes:
    """The shapes of a model's weights, by plain name."""
    return {plain_name(name): value.shape for name, value in model.state_dict().items()}


def is_read(name: str) -> bool:
    """Whether features depend on the tensor of that plain name."""
    return name not in _UNREAD and not name.endswith(_UNREAD_ENDINGS)


def fitting_sets(dicts: Dicts, shapes: Shapes) -> list[WeightSet]:
    """All sets of tensors in a file that are a model's weights: no name missing or left over, all shapes right."""
    return [
        found
        for keys, tensors in dicts.items()
        if len(tensors) >= sum(map(is_read, shapes))
        for found in _sets(keys, tensors, shapes)
        if all(not is_read(name) or name in found.tensors for name in shapes)
        and all(_fits(name, tensor, shapes.get(name)) for name, tensor in found.tensors.items())
    ]


def _fits(name: str, tensor: Tensor, shape: torch.Size | None) -> bool:
    if name == "logit_scale":  # open_clip has it with and without a dimension
        return tensor.numel() == 1 and shape is not None
    return not is_read(name) or tensor.shape == shape


def _sets(keys: tuple[str, ...], tensors: Mapping[str, Tensor], shapes: Shapes) -> Iterator[WeightSet]:
    """The dict's tensors for each prefix that gives some of them names of the model, the most names first."""
    votes: Counter[str] = Counter({"": 0})
    for name in tensors:
        parts = name.split(".")
        for place in range(len(parts)):
            if plain_name(".".join(parts[place:])) in shapes:
                votes["".join(f"{part}." for part in parts[:place])] += 1
    for prefix, _ in votes.most_common():
        inside = [name for name in tensors if name.startswith(prefix)]
        named = {plain_name(name[len(prefix) :]): tensors[name] for name in inside}
        if len(named) < len(inside):  # a name with and without "text.": neither is known to be the right one
            named = {name[len(prefix) :]: tensors[name] for name in inside}
        yield WeightSet(keys, prefix, named)


def explain_misfit(dicts: Dicts, shapes: Shapes, model: str, quick_gelu: bool | None, own: Sequence[str] = ()) -> str:
    """Why no set of tensors in a file fits the model, and what to do; ``own`` are the model's names for its weights."""
    names = [name for tensors in dicts.values() for name in tensors]
    if any("vision_model.encoder." in name or "text_model.encoder." in name for name in names):
        return (
            "its names are those of Hugging Face's CLIPModel: take the file in open_clip's layout, which the same "
            "repository or one of open_clip's often has (open_clip_model.safetensors, open_clip_pytorch_model.bin)"
        )
    if others := _fitting_architectures(dicts, model, quick_gelu):
        which = others[0] if len(others) == 1 else "the one they were trained as"
        return f"its weights are those of {' or '.join(others[:3])}: set model.clip.model to {which}"
    named = [next(_sets(keys, tensors, shapes)).tensors for keys, tensors in dicts.items()]
    closest = max(named, key=lambda tensors: len(shapes.keys() & tensors.keys()))
    if not shapes.keys() & closest.keys() and any(name.rpartition(".")[2] in ("ctx", "context") for name in names):
        return "it holds a learned prompt, which goes in model.prompt.file: name the model's own weights here"
    text = any(name.endswith(("token_embedding.weight", "word_embeddings.weight")) for name in names)
    image = any(name.endswith(("conv1.weight", "patch_embed.proj.weight")) or "visual." in name for name in names)
    if text != image:
        towers = "an image tower, but no text tower" if image else "a text tower, but no image tower"
        return f"it has {towers}: name a file with the weights of both towers"
    differences = _differences(closest, shapes, {plain_name(name): name for name in own})
    return f"{differences}: name the model it was made for"


def _differences(tensors: Mapping[str, Tensor], shapes: Shapes, own: Mapping[str, str]) -> str:
    """Names that are missing and left over, or else the shapes that differ."""
    missing = [name for name in shapes if is_read(name) and name not in tensors]
    left = [name for name in tensors if is_read(name) and name not in shapes]
    if len(missing) == len(shapes):
        return f"it has none of the model's {len(shapes)} weights, but {listed(left)}"
    said = [f"it lacks {len(missing)} of the model's weights ({listed(own.get(x, x) for x in missing)})"] * bool(
        missing
    )
    said += [f"{'has' if said else 'it has'} {len(left)} that the model lacks ({listed(left)})"] * bool(left)
    if said:
        return " and ".join(said)
    other = [name for name, shape in shapes.items() if is_read(name) and tensors[name].shape != shape]
    name, meaning = other[0], ""
    if name.endswith(("positional_embedding", "pos_embed")):
        what = "images" if name.startswith("visual.") else "texts"
        meaning = f" (the weights are for {what} of another size, and position embeddings are not resized)"
    more = f", and {len(other) - 1} more shapes differ" if len(other) > 1 else ""
    sizes = f"{_size(tensors[name].shape)} in it and {_size(shapes[name])} in the model"
    return f"{own.get(name, name)} is {sizes}{meaning}{more}"


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _fitting_architectures(dicts: Dicts, model: str, quick_gelu: bool | None) -> list[str]:
    """Names of open_clip's architectures that a file fits, those of the model's activation first.

    None of those whose sizes are on a hub (Hugging Face's text towers).
    """
    own = bool((open_clip.get_model_config(model.replace("/", "-")) or {}).get("quick_gelu", False))
    found = {name: tensor.shape for tensors in dicts.values() for name, tensor in tensors.items()}
    names: list[tuple[bool, str]] = []
    for name in open_clip.list_models():
        config: dict[str, Any] = open_clip.get_model_config(name)
        quick = bool(config.get("quick_gelu", False))
        if quick_gelu not in (None, quick) or not _may_fit(config, found):
            continue
        try:
            with torch.device("meta"):  # shapes without memory
                shapes = shapes_of(build_architecture(config))
        except Exception:  # what a library cannot build is no candidate
            continue
        if fitting_sets(dicts, shapes):
            names.append((quick != own, name))
    return [name for _, name in sorted(names, key=lambda pair: pair[0])]


def _may_fit(config: Mapping[str, Any], found: Shapes) -> bool:
    """Whether a file has the sizes that a configuration states: to build all of them takes half a minute."""

    def has(ending: str, *sizes: int) -> bool:
        return any(name.endswith(ending) and tuple(shape) == sizes for name, shape in found.items())

    vision, text = config["vision_cfg"], config["text_cfg"]
    if text.get("hf_model_name"):
        return False
    if not has("token_embedding.weight", text.get("vocab_size", 49408), text.get("width", 512)):
        return False
    if vision.get("timm_model_name"):
        return any("visual.trunk." in name for name in found)
    if isinstance(vision.get("layers", 12), list):
        return any("visual.layer1." in name for name in found)
    patch = vision.get("patch_size", 16)
    return has("visual.conv1.weight", vision.get("width", 768), 3, patch, patch)
