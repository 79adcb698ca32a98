"""Small CLIPs with random weights, for tests that need no file."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch

from lorattt.clip.model import Clip

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 4, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def tiny_clip(seed: int = 0, **vision: object) -> open_clip.CLIP:
    """A frozen double-precision CLIP whose norms are not at their trivial initial values."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(embed_dim=24, vision_cfg={**VISION, **vision}, text_cfg=TEXT, quick_gelu=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().requires_grad_(False).eval()


def add_models(folder: Path, configs: Mapping[str, Any]) -> None:
    """Let open_clip know architectures by name, from files in that folder."""
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@cache
def tokenizer() -> Any:
    """CLIP's own, which takes a tenth of a second to make."""
    return open_clip.get_tokenizer("ViT-B-32")


def wrapped(model: open_clip.CLIP, name: str = "tiny") -> Clip:
    """The model as the package has it: with CLIP's tokenizer, and 0.5 as mean and deviation of each colour."""
    preprocess = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return Clip(model, tokenizer(), name, preprocess)
