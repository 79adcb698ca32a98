"""Which of open_clip's architectures some weights are for."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import open_clip
import torch
from torch import nn

from lorattt.clip.checkpoint_names import Shapes


def fitting_architectures(
    found: Shapes, fits: Callable[[Shapes], bool], model: str, quick_gelu: bool | None
) -> list[str]:
    """Names of the architectures that some weights fit.

    Args:
        found: Names and shapes in the file; names may have anything in front.
        fits: Whether the file has a model's weights, given the model's names and shapes.
        model: The architecture that was asked for; those with its activation come first.
        quick_gelu: The activation that the file needs, which its weights do not tell; None where it is not known.

    Returns:
        Names of open_clip's architectures; none where its sizes are on a hub (Hugging Face's text towers).
    """
    own = bool((open_clip.get_model_config(model.replace("/", "-")) or {}).get("quick_gelu", False))
    names: list[tuple[bool, str]] = []
    for name in open_clip.list_models():
        config: dict[str, Any] = open_clip.get_model_config(name)
        quick = bool(config.get("quick_gelu", False))
        if quick_gelu not in (None, quick) or not _may_fit(config, found):
            continue
        try:
            with torch.device("meta"):  # shapes without memory
                shapes = {key: value.shape for key, value in build_architecture(config).state_dict().items()}
        except Exception:  # what a library cannot build is no candidate
            continue
        if fits(shapes):
            names.append((quick != own, name))
    return [name for _, name in sorted(names, key=lambda pair: pair[0])]


def build_architecture(config: Mapping[str, Any]) -> nn.Module:
    """The model of one of open_clip's configurations, as its factory makes it, with random weights."""
    settings = deepcopy(dict(config))
    settings["vision_cfg"]["timm_model_pretrained"] = False
    kind = open_clip.CLIP
    if settings.pop("custom_text", False):
        kind = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    model: nn.Module = kind(**settings)
    return model


def _may_fit(config: Mapping[str, Any], found: Shapes) -> bool:
    """Whether the file has the sizes that a configuration states: to build all of them takes half a minute."""

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
