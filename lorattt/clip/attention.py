"""One transformer block of open_clip, run on its own weights, with places for adapters.

open_clip's blocks hold q, k and v fused in one matrix inside ``nn.MultiheadAttention``, where nothing can be added to a
single projection. Here the same tensors are used through ``F.linear`` and scaled-dot-product attention: one product
with the frozen weight over all episodes, plus what an adapter adds.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

Projection = Literal["q", "k", "v", "out"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "out")
Norm = Literal["ln_1", "ln_2"]
NORMS: tuple[Norm, ...] = ("ln_1", "ln_2")


class Adapter:
    """What each episode changes in the blocks. This base class changes nothing.

    E episodes of n sequences each are one batch ``(E * n, L, d)``; rows are episode-major.
    """

    def affine(self, block: int, norm: Norm) -> tuple[Tensor, Tensor] | None:
        """Weights and biases ``(E, d)`` to use in place of the norm's own; None to use its own."""
        return None

    def add(self, block: int, projection: Projection, x: Tensor, base: Tensor) -> Tensor:
        """The projection's output ``base`` plus what the adapter adds to it, for input ``x`` ``(E * n, L, d)``."""
        return base


def layer_norm(x: Tensor, norm: nn.LayerNorm, affine: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """LayerNorm of ``(N, L, d)``; with ``affine``, weights and biases ``(E, d)`` per episode in place of its own.

    Statistics are computed in the dtype of the weight that is used; the result is in x's.
    """
    if affine is None:
        dtype = norm.weight.dtype
        return F.layer_norm(x.to(dtype), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)
    weight, bias = affine
    normal = F.layer_norm(x.to(weight.dtype), norm.normalized_shape, eps=norm.eps)
    normal = normal.view(len(weight), -1, x.shape[-1])  # (E, n * L, d)
    return (normal * weight.unsqueeze(1) + bias.unsqueeze(1)).view(x.shape).to(x.dtype)


def run_block(
    block: ResidualAttentionBlock,
    x: Tensor,
    *,
    number: int = 0,
    adapter: Adapter | None = None,
    queries: int | None = None,
) -> Tensor:
    """Pre-norm attention and MLP of ``(N, L, d)`` tokens, each with a residual connection.

    ``number`` is the block's place in the tower, for the adapter. With ``queries``, only that many first tokens of the
    output are computed; all tokens still serve as keys and values, so these tokens are the whole block's.
    """
    adapter = adapter or Adapter()
    first, second = (adapter.affine(number, norm) for norm in NORMS)
    attended = _attention(block.attn, layer_norm(x, block.ln_1, first), number, adapter, queries)
    x = x[:, :queries] + block.ls_1(attended)
    out: Tensor = x + block.ls_2(_mlp(block.mlp, layer_norm(x, block.ln_2, second)))
    return out


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    """The block's MLP; quick GELU without a graph takes one temporary of the hidden width instead of three.

    On a CPU, fresh memory costs more than the arithmetic, which is open_clip's.
    """
    if torch.is_grad_enabled() or not isinstance(mlp.gelu, QuickGELU):
        out: Tensor = mlp(x)
        return out
    hidden = mlp.c_fc(x)
    projected: Tensor = mlp.c_proj((1.702 * hidden).sigmoid_().mul_(hidden))
    return projected


def _attention(attn: nn.MultiheadAttention, x: Tensor, number: int, adapter: Adapter, queries: int | None) -> Tensor:
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if queries is None:
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
    else:
        width = x.shape[-1]
        q = F.linear(x[:, :queries], weight[:width], bias[:width])
        k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
    q = adapter.add(number, "q", x[:, :queries], q)
    k = adapter.add(number, "k", x, k)
    v = adapter.add(number, "v", x, v)
    heads = attn.num_heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (N, heads, L, d / heads)
    if torch.is_grad_enabled() and x.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        # On a CPU the backward pass of fused attention takes up to eight times as long in half precision.
        mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    mixed = mixed.transpose(1, 2).flatten(-2)
    out = F.linear(mixed, attn.out_proj.weight, attn.out_proj.bias)
    return adapter.add(number, "out", mixed, out)
