"""One block of a causal tower, for sequences that share a prefix.

open_clip's weights are used as in :mod:`lorattt.clip.attention`. Tokens have an episode and a class axis,
``(E, K, S, d)``; of an episode's prefix there are keys and values only.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from lorattt.clip.attention import layer_norm

_QUICK = 1.702  # the factor of quick GELU


def widen(x: Tensor) -> Tensor:
    """Float32 or wider."""
    return x if x.dtype == torch.float64 else x.float()


def causal_mask(length: int, like: Tensor) -> Tensor:
    """``(L, L)`` of the tensor's dtype, minus infinity above the diagonal."""
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def project(attn: nn.MultiheadAttention, y: Tensor, first: int = 0, last: int = 3) -> tuple[Tensor, ...]:
    """Those of q, k and v, numbered ``first`` to ``last - 1``, of tokens ``(E, K, S, d)``: ``(E, K, S, heads, c)``."""
    rows = slice(first * y.shape[-1], last * y.shape[-1])
    fused = F.linear(y, attn.in_proj_weight[rows], attn.in_proj_bias[rows])
    parts: tuple[Tensor, ...] = fused.unflatten(-1, (last - first, attn.num_heads, -1)).unbind(-3)
    return parts


def attend(q: Tensor, k: Tensor, v: Tensor, shared: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Attention of a sequence to the shared prefix and to itself.

    Written out: so the prefix's keys need not be copied for every class, and there is a second derivative, which fused
    attention lacks and gradient matching needs.

    Args:
        q: ``(E, K, Q, heads, c)``.
        k: ``(E, K, S, heads, c)``.
        v: As ``k``.
        shared: Keys and values of the prefix, ``(E or 1, heads, P, c)`` each, or empty.
        mask: Added to the scores against own tokens, ``(E, K, heads, Q, S)`` or what broadcasts to it.

    Returns:
        ``(E, K, Q, heads * c)``.
    """
    classes, queries = q.shape[1:3]
    q = q * q.shape[-1] ** -0.5
    scores = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (E, K, heads, Q, S)
    if mask is not None:
        scores = scores + mask
    if not shared:
        alone: Tensor = _softmax(scores) @ v.transpose(2, 3)
        return alone.transpose(2, 3).flatten(-2)
    keys, values = shared
    # One product for all classes: (E, heads, K * Q, c) @ (E, heads, c, P).
    past = q.flatten(1, 2).transpose(1, 2) @ keys.transpose(-1, -2)
    past = past.unflatten(2, (classes, queries)).transpose(1, 2)  # (E, K, heads, Q, P)
    past, own = _softmax(torch.cat([past, scores], dim=-1)).split([past.shape[-1], scores.shape[-1]], dim=-1)
    mixed: Tensor = (own @ v.transpose(2, 3)).transpose(2, 3)  # (E, K, Q, heads, c)
    begun = past.transpose(1, 2).flatten(2, 3) @ values  # (E, heads, K * Q, c)
    mixed = mixed + begun.transpose(1, 2).unflatten(1, (classes, queries))
    return mixed.flatten(-2)


def _softmax(scores: Tensor) -> Tensor:
    return widen(scores).softmax(dim=-1).to(scores.dtype)


def finish(block: ResidualAttentionBlock, x: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a block after attention: output projection and MLP, each with its residual."""
    attn = block.attn
    x = x + block.ls_1(F.linear(mixed, attn.out_proj.weight, attn.out_proj.bias))
    out: Tensor = x + block.ls_2(_mlp(block.mlp, layer_norm(x, block.ln_2)))
    return out


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    """The block's MLP; quick GELU in one pass over the hidden layer, where open_clip takes four.

    x * sigmoid(1.702 x) is silu(1.702 x) / 1.702, and both factors go into the products. Autograd keeps one tensor of
    the hidden width instead of three.
    """
    if not isinstance(mlp.gelu, QuickGELU):
        out: Tensor = mlp(x)
        return out
    first, second = mlp.c_fc, mlp.c_proj
    rows = x.reshape(-1, x.shape[-1])
    hidden = torch.addmm(first.bias, rows, first.weight.t(), beta=_QUICK, alpha=_QUICK)
    hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
    return torch.addmm(second.bias, hidden, second.weight.t(), alpha=1 / _QUICK).view(x.shape)
