"""Frozen transformer blocks: no graph, no adapter, in place, in memory that is used again.

The same as :func:`lorattt.clip.attention.run_block` up to rounding. On a CPU, fresh memory and passes over it cost
about as much as the matrix products: here the products themselves accumulate onto the residual stream, and wide
temporaries stay in the caches.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from lorattt.clip.attention import layer_norm, run_block


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
    """Pre-norm attention and MLP of contiguous ``(N, L, d)`` tokens, without a graph; ``x`` may be overwritten.

    The result is ``x`` itself, or a new tensor where the plain block is used: with layer scale; in half precision,
    which would round the residual stream once more; and under autocast, which chooses dtypes, but not in place.
    """
    plain = isinstance(block.ls_1, nn.Identity) and isinstance(block.ls_2, nn.Identity)
    wide = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
    if not (plain and wide):
        return run_block(block, x)
    rows = x.view(-1, x.shape[-1])  # (N * L, d)
    _add_attention(block.attn, layer_norm(x, block.ln_1), rows, scratch)
    _add_mlp(block.mlp, layer_norm(x, block.ln_2), rows, scratch)
    return x


def _add_attention(attn: nn.MultiheadAttention, y: Tensor, rows: Tensor, scratch: Scratch) -> None:
    count, length, width = y.shape
    qkv = scratch.take("qkv", (count * length, 3 * width), y)
    torch.addmm(attn.in_proj_bias, y.view(-1, width), attn.in_proj_weight.t(), out=qkv)
    q, k, v = qkv.view(count, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, L, d / heads)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width)
    rows.addmm_(mixed, attn.out_proj.weight.t()).add_(attn.out_proj.bias)


def _add_mlp(mlp: Any, y: Tensor, rows: Tensor, scratch: Scratch) -> None:
    shape = (rows.shape[0], mlp.c_fc.out_features)
    hidden = torch.mm(y.view(rows.shape), mlp.c_fc.weight.t(), out=scratch.take("hidden", shape, y))
    hidden.add_(mlp.c_fc.bias)
    if type(mlp.gelu) is nn.GELU:
        torch.ops.aten.gelu_(hidden, approximate=mlp.gelu.approximate)
    elif isinstance(mlp.gelu, QuickGELU):
        gate = torch.mul(hidden, 1.702, out=scratch.take("gate", shape, y)).sigmoid_()
        hidden.mul_(gate)
    else:
        hidden = mlp.gelu(hidden)
    rows.addmm_(hidden, mlp.c_proj.weight.t()).add_(mlp.c_proj.bias)
