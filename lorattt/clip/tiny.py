"""Making and training a small CLIP: the parts of open_clip that pretraining needs."""

from collections.abc import Mapping
from typing import Any

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout
from torch import Tensor


def build_clip(config: Mapping[str, Any]) -> CLIP:
    """An untrained CLIP of that configuration (keyword arguments of ``open_clip.model.CLIP``)."""
    model = CLIP(**config)
    visual = model.visual
    with torch.no_grad():
        visual.positional_embedding.copy_(sincos_positions(visual.grid_size[0], visual.class_embedding.shape[0]))
    return model


def sincos_positions(grid: int, width: int) -> Tensor:
    """Position embeddings that tell neighbours apart from the first step: ``(1 + grid^2, width)``.

    A quarter of the channels each holds sines and cosines of the column and of the row; the class
    token's row is zero. With CLIP's small random ones a tiny model learns colours at once but needs
    thousands of steps to relate patches to each other, hence to see shapes.
    """
    frequency = 1.0 / 100.0 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width / 2)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    patches = torch.cat([wave[columns.flatten()], wave[rows.flatten()]], dim=1)
    return torch.cat([torch.zeros(1, width), patches])


def drop_patches(model: CLIP, share: float) -> None:
    """Let the image tower drop that share of its patches, at random, whenever it is in training mode."""
    # The layer has no parameters: the names in the state dict stay those of a model without it.
    model.visual.patch_dropout = PatchDropout(share)


def normalise(images: Tensor) -> Tensor:
    """``(N, 3, H, W)`` floats in [0, 1] to what CLIP expects: minus the mean, over the deviation."""
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(OPENAI_DATASET_STD, device=images.device).view(3, 1, 1)
    return (images - mean) / std
