"""LoRA-TTT (Kojima et al., 2025, arXiv 2502.02069): low-rank adapters in the image encoder, one set per image.

For each test image: select the most confident views, make one or a few optimiser steps on the adapters with the
marginal entropy of those views (MEM) and the distance of a masked view's class token to the whole view's
(reconstruction), classify the plain view, and discard the adapters.

    loss = w_mem * H(mean_i p_i) + w_mae * mean_i |z~_i - sg(z_i)|^2 / (d * mask_ratio),  i in the selected views

The authors' loop runs one image at a time through the whole encoder. Here E images run at once::

    V views of each of E images (E, V, 3, S, S); view 0 is the plain one
        |
    trunk: the frozen blocks below the first adapted one              once, without a graph
        |
    trunk outputs (E, V, L, d), kept ----------------------------------------------------+
        |                                           | n selected views                   | view 0
    last blocks, frozen, without a graph            | (E, n, L, d)                       |
        |                                           |                                    |
    class tokens (E, V, d)                          |         selected views with        |
        |                                           |         patches dropped, through   |
        +--> logits, entropy: select n of V         |         the trunk without a graph  |
        +--> view 0: logits before (E, K)           |               |                    |
                                             adapted blocks, with a graph         adapted blocks after
                                                    |               |             the last step
                                                    z_i ------->    z~_i                 |
                                                    |  (no gradient)|             logits after (E, K)
                                                   MEM       reconstruction
                                                    |               |
                                              loss (E,): a step on the adapters (E, ...)

Further steps select again, from the class tokens of all views with the adapters as they then are.

The gradient goes through the selected views only: the selection is piecewise constant, so the gradient through the
other views is zero. The last block computes the class token only. The whole views' class tokens z_i, already computed,
are the reconstruction target. All of this is exact. One deviation: with more than one step, LoRA dropout is off in the
pass that selects views.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.adapters.tuner import Tuner
from lorattt.clip.attention import Adapter, Scratch
from lorattt.clip.vision import VisionTower
from lorattt.episodes.engine import Observer, adapt, fall_back
from lorattt.episodes.optim import OptimiserSpec
from lorattt.errors import UserError
from lorattt.inputs import at_least, finite
from lorattt.losses.entropy import marginal_entropy
from lorattt.losses.reconstruction import class_token_reconstruction
from lorattt.methods.shared_views import encode_tokens, views_at_once
from lorattt.rng import Stream, fold
from lorattt.views.selection import (
    ViewScores,
    gather_views,
    kept_count,
    random_kept_patches,
    select_views,
    selection_size,
)


@dataclass(frozen=True)
class LossSpec:
    """The objective of LoRA-TTT.

    Args:
        mem: Weight of the marginal entropy; 0 leaves it out.
        reconstruction: Weight of the masked class-token reconstruction; 0 leaves it out.
        mask_ratio: Fraction of patches dropped from a masked view.
        selection: Fraction of views that take part, the most confident ones.
    """

    mem: float = 1.0
    reconstruction: float = 16.0
    mask_ratio: float = 0.75
    selection: float = 0.1

    def __post_init__(self) -> None:
        """Validate that the weights are finite and one is positive."""
        finite(loss__mem=self.mem, loss__reconstruction=self.reconstruction)
        if self.mem == self.reconstruction == 0:
            raise UserError("loss.mem and loss.reconstruction are both 0: give at least one a weight")


class EncodedViews(NamedTuple):
    """All views of E images through the frozen model."""

    trunk: Tensor  # (E, V, L, d) tokens as the first adapted block reads them
    tokens: Tensor  # (E, V, d) class tokens, before the projection
    features: Tensor  # (E, V, D) unit image features, float32 or wider


@dataclass(frozen=True)
class Outcome:
    """The result of adapting to E episodes."""

    before: Tensor  # (E, K) float32 logits of the plain view before adaptation
    after: Tensor  # (E, K) float32 logits of the plain view after it; before where it was not finite
    fallback: Tensor  # (E,) bool, true where it was not
    losses: Tensor  # (steps, E)
    selected: Tensor  # (E, n) int64, the views of the first step, most confident first; empty without steps
    view_logits: Tensor  # (E, V, K) float32 logits of all views before adaptation
    parameters: dict[str, Tensor]  # the adapted parameters, each (E, *)


@dataclass
class LoRATTTEngine:
    """The method on a frozen ViT, without Lightning; see :class:`lorattt.methods.lora_ttt.LoRATTT`."""

    tower: VisionTower
    tuner: Tuner
    loss: LossSpec
    optimiser: OptimiserSpec
    steps: int = 1
    reset_every_step: bool = False
    chunk: int | None = None

    def __post_init__(self) -> None:
        """Validate the numbers."""
        at_least(0, steps=self.steps)
        at_least(1, chunk=self.chunk)
        self.first = self.tuner.blocks[0]
        self.kept = kept_count(self.tower.patches, self.loss.mask_ratio) if self.loss.reconstruction else 0

    def run(
        self,
        pixels: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        keys: Tensor,
        *,
        encoded: EncodedViews | None = None,
        masks: Callable[[int, Tensor], Tensor] | None = None,
        scores: ViewScores | None = None,
        observer: Observer | None = None,
    ) -> Outcome:
        """Adapt to E images and classify them.

        Args:
            pixels: ``(E, V, 3, S, S)`` normalised views of the tower's dtype; view 0 is the plain one.
            text: ``(K, D)`` float32 unit class features.
            logit_scale: Scalar factor on cosines.
            keys: ``(E,)`` int64 episode keys: they decide masks and dropout.
            encoded: The output of :meth:`encode` for ``pixels``, to compute it once for several methods.
            masks: Step and view numbers ``(E, n)`` to the patches to keep ``(E, n, P')``, instead of random ones.
            scores: Ranks views, lowest score first; None for the entropy of their logits.
            observer: Called at each step with losses and gradients.
        """
        episodes, count = pixels.shape[0], selection_size(pixels.shape[1], self.loss.selection)
        chosen: list[Tensor] = []
        trunk, tokens, features = encoded or self.encode(pixels)
        features = features.to(torch.promote_types(features.dtype, text.dtype))
        view_logits = logit_scale * features @ text.T
        parameters = self.tuner.init_parameters(episodes, pixels.device)

        def objective(step: int) -> Tensor:
            step_keys = fold(keys, step)
            adapter = self.tuner.adapter(parameters, step_keys, at_init=step == 0)
            whole, seen, logits = tokens, features, view_logits
            if step > 0 or not self.tuner.is_identity_at_init:
                # The adapters have moved: select anew, as the authors' loop does.
                whole = self._class_tokens(trunk, self.tuner.adapter(parameters))
                seen = self._features(whole, text)
                logits = logit_scale * seen @ text.T
            selected = select_views(logits, count, scores and scores(seen, logits))
            chosen.append(selected)
            target = gather_views(whole, selected)
            total = torch.zeros(episodes, device=pixels.device)
            if self.loss.mem:
                target = self._head(gather_views(trunk, selected), adapter)
                total = total + self.loss.mem * marginal_entropy(self._logits(target, text, logit_scale))
            if self.loss.reconstruction:
                if masks:
                    kept = masks(step, selected)
                else:
                    key = fold(step_keys, Stream.PATCH_MASKS)
                    kept = random_kept_patches(key, selected, self.tower.patches, self.kept)
                masked = self._head(self._masked_trunk(gather_views(pixels, selected), kept), adapter)
                part = class_token_reconstruction(masked, target, self.loss.mask_ratio)
                total = total + self.loss.reconstruction * part
            return total

        adaptation = adapt(
            parameters,
            objective,
            episodes=episodes,
            steps=self.steps,
            optimiser=self.optimiser,
            reset_every_step=self.reset_every_step,
            observer=observer,
        )
        with torch.no_grad():
            plain = self._head(trunk[:, :1], self.tuner.adapter(parameters))
            after = self._logits(plain, text, logit_scale).squeeze(1)
        selected = chosen[0] if chosen else torch.empty(episodes, 0, dtype=torch.long, device=pixels.device)
        before, after, fallback = fall_back(view_logits[:, 0], after, adaptation.finite)
        losses = adaptation.losses
        return Outcome(before, after, fallback, losses, selected, view_logits=view_logits, parameters=parameters)

    def encode(self, pixels: Tensor) -> EncodedViews:
        """All views ``(E, V, 3, S, S)`` through the frozen model, each block once, without a graph."""
        trunks, flat = encode_tokens(self.tower, pixels.flatten(0, 1), [self.first], chunk=self.chunk)
        tokens = flat.unflatten(0, pixels.shape[:2])
        return EncodedViews(trunks[self.first].unflatten(0, pixels.shape[:2]), tokens, self._features(tokens))

    @torch.no_grad()
    def _class_tokens(self, trunk: Tensor, adapter: Adapter) -> Tensor:
        """Class tokens ``(E, V, d)`` of all views with the adapters as they are now."""
        # Every part holds all episodes: the adapters' rows are episode-major.
        chunk = self.chunk or views_at_once(self.tower, trunk.device)
        parts = trunk.split(max(1, chunk // trunk.shape[0]), dim=1)
        return torch.cat([self._head(part, adapter) for part in parts], dim=1)

    def _head(self, trunk: Tensor, adapter: Adapter) -> Tensor:
        """Trunk outputs ``(E, n, L, d)`` to class tokens ``(E, n, d)``."""
        tokens = self.tower.adapted_class_token(trunk.flatten(0, 1), self.first, adapter)
        return tokens.view(*trunk.shape[:2], -1)

    @torch.no_grad()
    def _masked_trunk(self, pixels: Tensor, kept: Tensor) -> Tensor:
        """Views ``(E, n, 3, S, S)`` with only the kept patches ``(E, n, P')`` through the trunk."""
        x = self.tower.embed(pixels.flatten(0, 1), kept.flatten(0, 1))
        x = self.tower.frozen_blocks_(x, 0, self.first, Scratch())
        return x.view(*pixels.shape[:2], *x.shape[1:])

    def _logits(self, class_tokens: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """``(*, d)`` class tokens to ``(*, K)`` logits, float32 or wider from the projection on."""
        return logit_scale * self._features(class_tokens, text) @ text.T

    def _features(self, class_tokens: Tensor, text: Tensor | None = None) -> Tensor:
        """``(*, d)`` class tokens to ``(*, D)`` unit features, as wide as the texts (float32) or wider."""
        features = self.tower.project(class_tokens)
        width = torch.float32 if text is None else text.dtype
        return F.normalize(features.to(torch.promote_types(features.dtype, width)), dim=-1)
