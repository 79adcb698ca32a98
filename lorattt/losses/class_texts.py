"""Losses of class texts: contrast, in which views of one class attract and those of others repel; dispersion."""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Similarities of so many anchors at a time are kept for the backward pass; beyond, they are computed again.
_ANCHORS = 4096


def class_contrast(projections: Tensor, temperature: float) -> Tensor:
    """Contrastive loss over several views of each class: a scalar in nats, the mean over anchors.

    Projections ``(N, V, P)`` are unit vectors of V views, at least 2, of N classes; similarities are divided by the
    temperature. Every view is an anchor; its positives are the other views of its class, its negatives all views of the
    other classes. The form is that of SupCon (Khosla et al., NeurIPS 2020, eq. 2): the mean over positives is outside
    the logarithm. Self-TPT's contrastive prompt tuning; the paper's own formula is not known. The result is of at least
    float32 and can be differentiated twice.
    """
    z = projections.to(torch.promote_types(projections.dtype, torch.float32))
    views = z.shape[1]
    within = z @ z.transpose(1, 2) / temperature  # (N, V, V)
    itself = torch.eye(views, dtype=torch.bool, device=z.device)
    positives = within.masked_fill(itself, 0).sum(-1).flatten() / (views - 1)
    rows = z.flatten(0, 1)
    again = partial(checkpoint, _others, use_reentrant=False, preserve_rng_state=False)
    run = _others if len(rows) <= _ANCHORS else again
    starts = range(0, len(rows), _ANCHORS)
    normalisers = [run(rows[first : first + _ANCHORS], rows, first, temperature) for first in starts]
    return (torch.cat(normalisers) - positives).mean()


def _others(part: Tensor, rows: Tensor, first: int, temperature: float) -> Tensor:
    """Logarithm of the summed similarities of each anchor with all rows but itself."""
    own = first + torch.arange(len(part), device=part.device)
    itself = own.unsqueeze(1) == torch.arange(len(rows), device=part.device)
    return (part @ rows.T / temperature).masked_fill(itself, float("-inf")).logsumexp(-1)


def text_dispersion(text: Tensor) -> Tensor:
    """Mean distance of the class features from their centroid, per episode.

    The average text feature dispersion of C-TPT (Yoon et al., ICLR 2024, section 4): texts that lie apart go with
    small calibration errors. ``(*episode, K, D)`` unit class features to ``(*episode,)`` of at least float32.
    """
    text = text.to(torch.promote_types(text.dtype, torch.float32))
    distance: Tensor = torch.linalg.vector_norm(text - text.mean(dim=-2, keepdim=True), dim=-1)
    return distance.mean(dim=-1)
