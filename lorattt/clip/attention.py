"""One transformer block of open_clip, run on its own weights, with room for per-episode changes.

open_clip's blocks hold q, k and v fused in one matrix inside ``nn.MultiheadAttention``, where nothing
can be added to a single projection. Here the same tensors are used through ``F.linear`` and
scaled-dot-product attention: one GEMM for the frozen weight over all episodes, plus what an adapter adds.
"""

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

Projection = Literal["q", "k", "v", "out"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "out")


class Adapter(Protocol):
    """What is added to the projections of attention; rows are episode-major."""

    def delta(self, block: int, projection: Projection, x: Tensor) -> Tensor | None:
        """What is added to that projection's output for input ``x`` ``(E * n, L, d)``; None adds nothing."""
        ...


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm with one affine pair for all, or one per episode.

    Args:
        x: ``(N, L, d)``; with per-episode parameters N is E * n, episode-major.
        norm: Its weight and bias are ``(d,)``, or ``(E, d)`` while an episode-batched method has put its
            own in their place. Statistics are computed in the weight's dtype, the result is in x's.

    Returns:
        ``(N, L, d)``.
    """
    dtype = norm.weight.dtype
    if norm.weight.dim() == 1:
        return F.layer_norm(x.to(dtype), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)
    normal = F.layer_norm(x.to(dtype), norm.normalized_shape, eps=norm.eps)
    episodes, width = norm.weight.shape
    normal = normal.view(episodes, -1, width)  # (E, n * L, d)
    return (normal * norm.weight.unsqueeze(1) + norm.bias.unsqueeze(1)).view(x.shape).to(x.dtype)


def run_block(
    block: ResidualAttentionBlock,
    x: Tensor,
    *,
    number: int = 0,
    adapter: Adapter | None = None,
    queries: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Pre-norm attention and MLP, each with a residual connection.

    Args:
        block: open_clip's block, whose weights are used.
        x: ``(N, L, d)``.
        number: The block's place in the tower, for the adapter.
        adapter: Adds to the projections.
        queries: Compute only the first so many tokens of the output; all tokens still serve as keys and
            values, so these tokens are what the whole block gives.
        mask: Additive attention mask, ``(L, L)``.

    Returns:
        ``(N, queries or L, d)``.
    """
    attended = _attention(block.attn, layer_norm(x, block.ln_1), number, adapter, queries, mask)
    x = x[:, :queries] + block.ls_1(attended)
    out: Tensor = x + block.ls_2(_mlp(block.mlp, layer_norm(x, block.ln_2)))
    return out


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    """The block's MLP; quick GELU without a graph keeps one temporary of the hidden width instead of three.

    The arithmetic is open_clip's; on a CPU, fresh memory costs more than the arithmetic does.
    """
    if torch.is_grad_enabled() or not isinstance(mlp.gelu, QuickGELU):
        out: Tensor = mlp(x)
        return out
    hidden = mlp.c_fc(x)
    projected: Tensor = mlp.c_proj((1.702 * hidden).sigmoid_().mul_(hidden))
    return projected


def _attention(
    attn: nn.MultiheadAttention,
    x: Tensor,
    number: int,
    adapter: Adapter | None,
    queries: int | None,
    mask: Tensor | None,
) -> Tensor:
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if queries is None:
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
    else:
        width = x.shape[-1]
        q = F.linear(x[:, :queries], weight[:width], bias[:width])
        k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
    if adapter is not None:
        q = _add(q, adapter.delta(number, "q", x[:, :queries]))
        k = _add(k, adapter.delta(number, "k", x))
        v = _add(v, adapter.delta(number, "v", x))
    heads = attn.num_heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (N, heads, L, d / heads)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
    out = F.linear(mixed, attn.out_proj.weight, attn.out_proj.bias)
    return out if adapter is None else _add(out, adapter.delta(number, "out", mixed))


def _add(base: Tensor, delta: Tensor | None) -> Tensor:
    return base if delta is None else base + delta
