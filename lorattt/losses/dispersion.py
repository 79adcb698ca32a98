"""How far the class texts lie apart."""

import torch
from torch import Tensor


def text_dispersion(text: Tensor) -> Tensor:
    """Mean distance of the class features from their centroid, per episode.

    The average text feature dispersion of C-TPT (Yoon et al., ICLR 2024, section 4): texts that lie apart go with
    small calibration errors. ``(*episode, K, D)`` unit class features to ``(*episode,)`` of at least float32.
    """
    text = text.to(torch.promote_types(text.dtype, torch.float32))
    distance: Tensor = torch.linalg.vector_norm(text - text.mean(dim=-2, keepdim=True), dim=-1)
    return distance.mean(dim=-1)
