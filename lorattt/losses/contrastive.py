"""Contrast of classes by their texts: the views of one class attract, those of other classes repel."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Similarities of so many anchors at a time are kept for the backward pass; beyond, they are computed again.
_ANCHORS = 4096


def class_contrast(projections: Tensor, temperature: float, *, anchors: int = _ANCHORS) -> Tensor:
    """Contrastive loss over several views of each class.

    Every view is an anchor; its positives are the other views of its class, its negatives all views of the other
    classes. The form is that of SupCon (Khosla et al., NeurIPS 2020, eq. 2): the mean over positives is outside
    the logarithm. Self-TPT's contrastive prompt tuning; the paper's own formula is not known.

    Args:
        projections: ``(N, V, P)`` unit vectors of V views, at least 2, of N classes.
        temperature: What similarities are divided by.
        anchors: Anchors compared at a time where there are more of them. The result is the same.

    Returns:
        A scalar in nats of at least float32: the mean over anchors. It can be differentiated twice.
    """
    z = projections.to(torch.promote_types(projections.dtype, torch.float32))
    views = z.shape[1]
    within = z @ z.transpose(1, 2) / temperature  # (N, V, V)
    itself = torch.eye(views, dtype=torch.bool, device=z.device)
    positives = within.masked_fill(itself, 0).sum(-1).flatten() / (views - 1)
    rows = z.flatten(0, 1)
    normalisers = []
    for first in range(0, len(rows), anchors):
        part = rows[first : first + anchors]
        if len(rows) <= anchors:
            normalisers.append(_others(part, rows, first, temperature))
        else:
            again = checkpoint(_others, part, rows, first, temperature, use_reentrant=False, preserve_rng_state=False)
            normalisers.append(again)
    return (torch.cat(normalisers) - positives).mean()


def _others(part: Tensor, rows: Tensor, first: int, temperature: float) -> Tensor:
    """Logarithm of the summed similarities of each anchor with all rows but itself."""
    similarity = part @ rows.T / temperature
    own = torch.arange(len(part), device=part.device)
    itself = torch.zeros_like(similarity, dtype=torch.bool)
    itself[own, first + own] = True
    return similarity.masked_fill(itself, float("-inf")).logsumexp(-1)
