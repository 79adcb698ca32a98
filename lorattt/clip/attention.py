"""Transformer blocks of open_clip, run on their own weights: with places for adapters, frozen in place, and causal.

open_clip's blocks hold q, k and v fused in one matrix inside ``nn.MultiheadAttention``, where nothing can be added to a
single projection. :func:`run_block` uses the same tensors through ``F.linear`` and scaled-dot-product attention: one
product with the frozen weight over all episodes, plus what an adapter adds. :func:`project`, :func:`attend` and
:func:`finish` are the steps of a causal block whose sequences share a prefix: tokens have an episode and a class axis,
``(E, K, S, d)``, and of an episode's prefix there are keys and values only.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

Projection = Literal["q", "k", "v", "out"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "out")
Norm = Literal["ln_1", "ln_2"]
NORMS: tuple[Norm, ...] = ("ln_1", "ln_2")
_QUICK = 1.702  # the factor of quick GELU


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
    return cast("Tensor", x + block.ls_2(_mlp(block.mlp, layer_norm(x, block.ln_2, second))))


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    """The block's MLP; quick GELU without a graph takes one temporary of the hidden width instead of three.

    On a CPU, fresh memory costs more than the arithmetic, which is open_clip's.
    """
    if torch.is_grad_enabled() or not isinstance(mlp.gelu, QuickGELU):
        return cast("Tensor", mlp(x))
    hidden = mlp.c_fc(x)
    return cast("Tensor", mlp.c_proj((_QUICK * hidden).sigmoid_().mul_(hidden)))


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


class Scratch:
    """Temporaries by name, allocated once and used again; what is in one lasts until its next use."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uninitialised memory of that shape, with the dtype and device of ``like``."""
        size, found = math.prod(shape), self._flat.get(name)
        if found is None or found.numel() < size or found.dtype != like.dtype or found.device != like.device:
            found = self._flat[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return found[:size].view(shape)


@torch.no_grad()
def run_frozen_block_(block: ResidualAttentionBlock, x: Tensor, scratch: Scratch) -> Tensor:
    """As :func:`run_block` up to rounding, on contiguous tokens, without adapter or graph; ``x`` may be overwritten.

    On a CPU, fresh memory and passes over it cost about as much as the matrix products: here the products themselves
    accumulate onto the residual stream, and wide temporaries stay in the caches. The result is ``x`` itself, or a new
    tensor where the plain block is used: with layer scale; in half precision, which would round the residual stream
    once more; and under autocast, which chooses dtypes, but not in place.
    """
    plain = isinstance(block.ls_1, nn.Identity) and isinstance(block.ls_2, nn.Identity)
    wide = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
    if not (plain and wide):
        return run_block(block, x)
    rows = x.view(-1, x.shape[-1])  # (N * L, d)
    _add_attention_(block.attn, layer_norm(x, block.ln_1), rows, scratch)
    _add_mlp_(block.mlp, layer_norm(x, block.ln_2), rows, scratch)
    return x


def _add_attention_(attn: nn.MultiheadAttention, y: Tensor, rows: Tensor, scratch: Scratch) -> None:
    count, length, width = y.shape
    qkv = scratch.take("qkv", (count * length, 3 * width), y)
    torch.addmm(attn.in_proj_bias, y.view(-1, width), attn.in_proj_weight.t(), out=qkv)
    q, k, v = qkv.view(count, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, L, d / heads)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width)
    rows.addmm_(mixed, attn.out_proj.weight.t()).add_(attn.out_proj.bias)


def _add_mlp_(mlp: Any, y: Tensor, rows: Tensor, scratch: Scratch) -> None:
    shape = (rows.shape[0], mlp.c_fc.out_features)
    hidden = torch.mm(y.view(rows.shape), mlp.c_fc.weight.t(), out=scratch.take("hidden", shape, y))
    hidden.add_(mlp.c_fc.bias)
    if type(mlp.gelu) is nn.GELU:
        torch.ops.aten.gelu_(hidden, approximate=mlp.gelu.approximate)
    elif isinstance(mlp.gelu, QuickGELU):
        gate = torch.mul(hidden, _QUICK, out=scratch.take("gate", shape, y)).sigmoid_()
        hidden.mul_(gate)
    else:
        hidden = mlp.gelu(hidden)
    rows.addmm_(hidden, mlp.c_proj.weight.t()).add_(mlp.c_proj.bias)


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
    """Attention of queries ``(E, K, Q, heads, c)`` to the shared prefix and to their own sequence.

    Keys and values are ``(E, K, S, heads, c)``, those of the prefix ``(E or 1, heads, P, c)``, or empty. The mask is
    added to the scores against own tokens, ``(E, K, heads, Q, S)`` or what broadcasts to it. The result is
    ``(E, K, Q, heads * c)``. Written out: so the prefix's keys need not be copied for every class, and there is a
    second derivative, which fused attention lacks and gradient matching needs.
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
    return cast("Tensor", x + block.ls_2(_fused_mlp(block.mlp, layer_norm(x, block.ln_2))))


def _fused_mlp(mlp: Any, x: Tensor) -> Tensor:
    """The block's MLP; quick GELU in one pass over the hidden layer, where open_clip takes four.

    x * sigmoid(1.702 x) is silu(1.702 x) / 1.702, and both factors go into the products. Autograd keeps one tensor of
    the hidden width instead of three.
    """
    if not isinstance(mlp.gelu, QuickGELU):
        return cast("Tensor", mlp(x))
    first, second = mlp.c_fc, mlp.c_proj
    rows = x.reshape(-1, x.shape[-1])
    hidden = torch.addmm(first.bias, rows, first.weight.t(), beta=_QUICK, alpha=_QUICK)
    hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
    return torch.addmm(second.bias, hidden, second.weight.t(), alpha=1 / _QUICK).view(x.shape)
