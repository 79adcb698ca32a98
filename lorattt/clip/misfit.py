"""Say why the weights of a file are not a model's, and which model they are for."""

from collections.abc import Mapping

import torch

from lorattt.clip.architectures import fitting_architectures
from lorattt.clip.checkpoint_names import Dicts, Shapes, closest_set, fitting_sets, is_read, plain_name
from lorattt.errors import listed


def explain_misfit(dicts: Dicts, shapes: Shapes, model: str, quick_gelu: bool | None) -> str:
    """What a file has instead of a model's weights, and what to do; one sentence without a full stop.

    Args:
        dicts: What the file holds, at least one dict; no set in it fits the model.
        shapes: The model's, by its names.
        model: The model's name.
        quick_gelu: The activation that the file is known to need; None where it does not say.
    """
    names = [name for tensors in dicts.values() for name in tensors]
    if any("vision_model.encoder." in name or "text_model.encoder." in name for name in names):
        return (
            "its names are those of Hugging Face's CLIPModel: take the file in open_clip's layout, which the same "
            "repository or one of open_clip's often has (open_clip_model.safetensors, open_clip_pytorch_model.bin)"
        )
    found = {name: tensor.shape for tensors in dicts.values() for name, tensor in tensors.items()}
    others = fitting_architectures(found, lambda other: bool(fitting_sets(dicts, other)), model, quick_gelu)
    if others:
        which = others[0] if len(others) == 1 else "the one they were trained as"
        return f"its weights are those of {' or '.join(others[:3])}: set model.clip.model to {which}"
    closest = max(
        (closest_set(*entry, shapes) for entry in dicts.items()), key=lambda each: _shared(each.tensors, shapes)
    )
    if not _shared(closest.tensors, shapes) and any(name.rpartition(".")[2] in ("ctx", "context") for name in names):
        return "it holds a learned prompt, which goes in model.prompt.file: name the model's own weights here"
    tower = _lone_tower(names)
    if tower:
        return f"it has {tower}: name a file with the weights of both towers"
    return f"{_differences(closest.tensors, shapes)}: name the model it was made for"


def _shared(tensors: Mapping[str, torch.Tensor], shapes: Shapes) -> int:
    return len({plain_name(name) for name in shapes} & tensors.keys())


def _lone_tower(names: list[str]) -> str | None:
    """A tower that stands alone in a file, in words."""
    text = any(name.endswith(("token_embedding.weight", "word_embeddings.weight")) for name in names)
    image = any(name.endswith(("conv1.weight", "patch_embed.proj.weight")) or "visual." in name for name in names)
    if text == image:
        return None
    return "an image tower, but no text tower" if image else "a text tower, but no image tower"


def _differences(tensors: Mapping[str, torch.Tensor], shapes: Shapes) -> str:
    """Names that are missing and left over, or else the shapes that differ."""
    wanted = {plain_name(name): (name, shape) for name, shape in shapes.items()}
    missing = [name for plain, (name, _) in wanted.items() if is_read(plain) and plain not in tensors]
    left = [name for name in tensors if is_read(name) and name not in wanted]
    if len(missing) == len(wanted):
        return f"it has none of the model's {len(wanted)} weights, but {listed(left)}"
    said = [f"it lacks {len(missing)} of the model's weights ({listed(missing)})"] * bool(missing)
    said += [f"{'has' if said else 'it has'} {len(left)} that the model lacks ({listed(left)})"] * bool(left)
    if said:
        return " and ".join(said)
    other = [(name, tensors[plain].shape, shape) for plain, (name, shape) in wanted.items() if plain in tensors]
    other = [(name, theirs, ours) for name, theirs, ours in other if is_read(plain_name(name)) and theirs != ours]
    name, theirs, ours = other[0]
    more = f", and {len(other) - 1} more shapes differ" if len(other) > 1 else ""
    return f"{name} is {_size(theirs)} in it and {_size(ours)} in the model{_meaning(name)}{more}"


def _meaning(name: str) -> str:
    """What it means that a weight has another shape, where that is not plain."""
    if not name.endswith(("positional_embedding", "pos_embed")):
        return ""
    what = "images" if name.startswith("visual.") else "texts"
    return f" (the weights are for {what} of another size, and position embeddings are not resized)"


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"
