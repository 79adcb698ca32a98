"""Masked class-token reconstruction: a masked view must give the class token of the whole view."""

import torch
from torch import Tensor


def class_token_reconstruction(masked: Tensor, target: Tensor, mask_ratio: float) -> Tensor:
    """Squared distance of class tokens, ``(*episode,)`` of at least float32 (the "MAE" loss of LoRA-TTT).

    Mean over the token's width, divided by the mask ratio in ``(0, 1)``, mean over views. The division is in the
    authors' code; whether it is in the paper's formula is not known to us. Tokens ``(*episode, n, d)`` of the n masked
    views are those after the final LayerNorm and before the projection; ``target`` has those of the same views, whole,
    and no gradient flows into it.
    """
    dtype = torch.promote_types(masked.dtype, torch.float32)
    difference = masked.to(dtype) - target.detach().to(dtype)
    return difference.square().mean(-1).mean(-1) / mask_ratio
