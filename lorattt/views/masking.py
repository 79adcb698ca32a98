"""Random patch masks: which patches of a view the image encoder sees."""

import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.rng import fold, uniform


def kept_count(patches: int, mask_ratio: float) -> int:
    """How many patches stay: ``int(patches * (1 - mask_ratio))``, 49 of 196 for 0.75; a UserError if none."""
    if not 0 < mask_ratio < 1:
        raise UserError(f"mask_ratio {mask_ratio}: must be between 0 and 1, both excluded")
    count = int(patches * (1 - mask_ratio))
    if count == 0:
        raise UserError(f"mask_ratio {mask_ratio} keeps none of {patches} patches: lower it")
    return count


def random_kept_patches(keys: Tensor, views: Tensor, patches: int, count: int) -> Tensor:
    """A uniformly random subset of patch positions for each view, its own draw per view.

    A function of (key, view number) alone: a view's mask does not depend on its place in the selection.

    Episode keys ``(E,)`` int64 and view numbers ``(E, n)`` int64 give ``(E, n, count)`` int64, in random order.
    """
    draws = uniform(fold(keys.unsqueeze(-1).expand_as(views), views), (patches,))
    return torch.argsort(draws, dim=-1, stable=True)[..., :count]
