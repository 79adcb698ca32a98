"""LoRA-TTT the plain way, as the authors' loop does it: the yardstick for exactness and for speed.

One image at a time; the adapters as layers beside the projections, with dropout; the gradient through all
views; frozen blocks recomputed in every pass; the reconstruction target from a pass of its own; a whole
forward for the prediction; the whole image tower reloaded from a saved copy before each image. It shares
no attention, adapter, loss or selection code with the product.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ReferenceSettings:
    """What the loop needs to know.

    Args:
        multiplier: Factor on B A.
        dropout: Of the adapters' input, during the update.
        mem: Weight of the marginal entropy.
        reconstruction: Weight of the class-token reconstruction.
        mask_ratio: Fraction of patches dropped.
        selected: How many views are kept.
        lr: AdamW's learning rate.
        weight_decay: AdamW's weight decay.
        steps: Steps per image.
    """

    multiplier: float
    dropout: float = 0.01
    mem: float = 1.0
    reconstruction: float = 16.0
    mask_ratio: float = 0.75
    selected: int = 6
    lr: float = 1e-3
    weight_decay: float = 0.2
    steps: int = 1


def half_precision(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast around an episode, with float32 weights, as the authors' programs use half precision.

    Without autocast's cache of casts: that would give the last pass the adapters as they were before the step.

    Args:
        device: Where it runs.
        dtype: bfloat16 or float16; None for float32 throughout.
    """
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


class _LoRALinear(nn.Module):
    """W x + b + g B A dropout(x)."""

    def __init__(self, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, settings: ReferenceSettings) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.A, self.B = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.dropout, self.multiplier = nn.Dropout(settings.dropout), settings.multiplier

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(self.dropout(x), self.A), self.B)
        return F.linear(x, self.weight, self.bias) + self.multiplier * low


class _LoRAAttention(nn.Module):
    """Stands in for ``nn.MultiheadAttention`` with four separate projections."""

    def __init__(self, attn: Any, block: str, adapters: Mapping[str, Tensor], settings: ReferenceSettings) -> None:
        super().__init__()
        self.heads = attn.num_heads
        weights = [*attn.in_proj_weight.chunk(3), attn.out_proj.weight]
        biases = [*attn.in_proj_bias.chunk(3), attn.out_proj.bias]
        self.projections = nn.ModuleDict()
        for name, weight, bias in zip(("q", "k", "v", "out"), weights, biases, strict=True):
            a, b = adapters[f"{block}.{name}.A"], adapters[f"{block}.{name}.B"]
            self.projections[name] = _LoRALinear(weight.detach(), bias.detach(), a, b, settings)

    def forward(self, x: Tensor, *_: Tensor, **__: object) -> tuple[Tensor]:
        n, length, width = x.shape
        q, k, v = (
            self.projections[name](x).view(n, length, self.heads, -1).transpose(1, 2) for name in ("q", "k", "v")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        return (self.projections["out"](mixed),)


class ReferenceLoop:
    """The authors' loop on one image tower.

    Args:
        visual: open_clip's VisionTransformer; it is copied.
        initial: Initial adapters ``{block}.{q|k|v|out}.{A|B}``, un-batched, for all four projections.
        settings: See there.
    """

    def __init__(self, visual: Any, initial: Mapping[str, Tensor], settings: ReferenceSettings) -> None:
        self.visual: Any = deepcopy(visual).requires_grad_(False)
        self.settings = settings
        self._adapters: dict[str, nn.Parameter] = {}
        for block in sorted({name.split(".")[0] for name in initial}):
            layer: Any = self.visual.transformer.resblocks[int(block)]
            layer.attn = _LoRAAttention(layer.attn, block, initial, settings)
            for name, projection in layer.attn.projections.items():
                self._adapters |= {f"{block}.{name}.A": projection.A, f"{block}.{name}.B": projection.B}
        self._saved = {name: value.clone() for name, value in self.visual.state_dict().items()}

    def episode(
        self, pixels: Tensor, text: Tensor, logit_scale: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, list[float]]:
        """Adapt to one image and classify it.

        Args:
            pixels: ``(V, 3, S, S)`` normalised views; view 0 is the plain one.
            text: ``(K, D)`` unit class features.
            logit_scale: Factor on cosines.
            kept: ``(steps, V, P')`` patches to keep of each view, by view number.

        Returns:
            Logits ``(K,)`` before and after, and the loss at each step.
        """
        s = self.settings
        self.visual.load_state_dict(self._saved)
        self.visual.train()
        optimiser = torch.optim.AdamW(self._adapters.values(), lr=s.lr, weight_decay=s.weight_decay)
        before, history = torch.empty(0), []
        for step in range(s.steps):
            scores = self._logits(self._tokens(pixels), text, logit_scale)
            if step == 0:
                before = scores[0].detach()
            p = scores.softmax(-1)
            order = (-(p * p.clamp(min=1e-30).log()).sum(-1)).argsort(stable=True)[: s.selected]
            loss = torch.zeros((), device=pixels.device)
            if s.mem:
                mean = p[order].mean(0)
                loss = loss - s.mem * (mean * mean.clamp(min=1e-30).log()).sum()
            if s.reconstruction:
                with torch.no_grad():
                    target = self._tokens(pixels[order])
                masked = self._tokens(pixels[order], kept[step, order])
                loss = loss + s.reconstruction * ((masked - target) ** 2).mean() / s.mask_ratio
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            history.append(loss.item())
        self.visual.eval()
        with torch.no_grad():
            after = self._logits(self._tokens(pixels[:1]), text, logit_scale)[0]
        return before, after, history

    def _tokens(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """Class tokens ``(N, d)`` after the final LayerNorm, before the projection."""
        v = self.visual
        x = v.conv1(pixels).flatten(2).permute(0, 2, 1) + v.positional_embedding[1:]
        if kept is not None:
            x = torch.stack([row[places] for row, places in zip(x, kept, strict=True)])
        first = (v.class_embedding + v.positional_embedding[0]).expand(len(x), 1, -1)
        x = v.transformer(v.ln_pre(torch.cat([first, x], dim=1)))
        token: Tensor = v.ln_post(x)[:, 0]
        return token

    def _logits(self, tokens: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        return logit_scale * F.normalize(tokens @ self.visual.proj, dim=-1) @ text.T
