"""Entropy of class distributions, per view and of their mean."""

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of ``softmax(logits)`` in nats: ``(*, K)`` to ``(*,)`` of at least float32."""
    log_p = _log_softmax(logits)
    return -(log_p.exp() * log_p).sum(-1)


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean class distribution of an episode's views, in nats.

    MEM of TPT (Shu et al., NeurIPS 2022, eq. 2) and of LoRA-TTT. Computed in log space: the
    log-mean-exp over views stays finite where the mean of probabilities would underflow. Logits ``(*episode, n, K)``
    of the n selected views to ``(*episode,)`` of at least float32.
    """
    log_p = _log_softmax(logits)
    log_mean = log_p.logsumexp(-2) - torch.log(torch.tensor(float(logits.shape[-2]), device=logits.device))
    return -(log_mean.exp() * log_mean).sum(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    # A class of logit -inf adds 0 to the entropy and gets no gradient; its own logarithm, -inf, times 0 is NaN.
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)
