"""What a learned prompt is like on images of the domain that it was fitted on: how flat, and whether its losses agree.

Images are plain views of split ``val``, base compositions, which no fit has seen; each seed has scenes of its own.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.behaviour_tables import COSINE
from lorattt import demo
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.data.demo import DemoImages
from lorattt.losses.gradients import ascent_step, gradient_cosine
from lorattt.methods.class_contrast import ContrastiveTask, read_source_prompt
from lorattt.prompts.class_prompts import ClassPrompts, features_in_parts, neighbours, random_directions
from lorattt.prompts.class_views import ClassViews
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views

_SHARES: Final = {"rho": 1.0, "rho/2": 0.5}
RISES: Final = tuple(f"rise of CE, {kind}, {share}" for kind in ("random", "worst") for share in _SHARES)
"""Nats by which the cross-entropy rises when the prompt is moved by rho of ``demo/sapt.yaml``, or by half of it."""
_DIRECTIONS, _BATCH = 10, 32
_SAPT = Path(__file__).parent.parent / "lightning_configs" / "demo" / "sapt.yaml"


def prompt_values(file: Path, images: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Values of a prompt by measure: of each image for :data:`RISES`; for the cosine, of each batch of 32 images.

    The cosine is that of the cross-entropy's gradient and the contrast's, by the prompt.
    Prompts have the same random directions and images if they have the same seed.

    Args:
        file: The prompt's file; only one with a projection head has a cosine.
        images: How many images.
        seed: Which scenes and directions.
    """
    rho = float(yaml.safe_load(_SAPT.read_text(encoding="utf-8"))["model"]["init_args"]["rho"])
    spec, task = PromptSpec(file=str(file)), _fitted_domain(images, seed)
    found = {name: rise.double().numpy() for name, rise in task.rises(spec, rho).items()}
    if spec.content.extras:
        found[COSINE] = task.cosines(spec).double().numpy()
    return found


@cache
def _clip() -> Clip:
    return load_clip(ClipSpec(demo.MODEL_NAME, "demo"))


class FittedDomain:
    """The images, encoded, and losses on them."""

    def __init__(self, images: int, seed: int) -> None:
        self.clip, self.seed = _clip(), seed
        source = DemoImages("source", 3, images, "val", "base", seed)
        self.names = source.class_names
        batches = list(episode_batches(source, Views(ViewSpec(1), self.clip.image_size, 0, self.clip.plain_view), 128))
        with torch.no_grad():
            self.features = torch.cat([self.clip.image_features(batch["views"][:, 0]) for batch in batches])
        self.labels = torch.cat([batch["label"] for batch in batches])

    def losses(self, text: Tensor, some: Any = slice(None)) -> Tensor:
        """``(n,)`` cross-entropies of some images, with class features ``(K, D)``."""
        logits = self.clip.logit_scale * self.features[some] @ text.T
        return F.cross_entropy(logits, self.labels[some], reduction="none")

    def rises(self, spec: PromptSpec, rho: float) -> dict[str, Tensor]:
        """``(N,)`` for each of :data:`RISES`: the mean over random directions, and along the gradient, the worst."""
        prompt = build_prompt(spec, self.clip, self.names, 0)
        joined = ClassPrompts(self.clip, self.names, prompt.position, prompt.tokens)
        context = prompt.context.clone().requires_grad_()
        loss = self.losses(joined.features(context))
        (gradient,) = torch.autograd.grad(loss.mean(), context)
        directions = random_directions(self.seed, _DIRECTIONS, *prompt.context.shape)
        moved = {}
        for share, part in _SHARES.items():
            moved["random", share] = neighbours(prompt.context, directions, rho * part)
            moved["worst", share] = (prompt.context + ascent_step(gradient, rho * part)).unsqueeze(0)
        found = {}
        for (kind, share), contexts in moved.items():
            texts = torch.cat(list(features_in_parts(joined, contexts)))
            rise = torch.stack([self.losses(text) for text in texts]).mean(0) - loss.detach()
            found[f"rise of CE, {kind}, {share}"] = rise
        return found

    def cosines(self, spec: PromptSpec) -> Tensor:
        """``(batches,)``, with all base names contrasted, as in a step of Self-TPT's fit."""
        source = read_source_prompt(spec, None, None, contrasts=True)
        context, head = source.for_model(self.clip, spec, 0)
        assert head is not None  # a prompt without one is rejected above
        context.requires_grad_()
        views = ClassViews(self.clip, self.names, context.shape[-2], views=source.views, template=source.template)
        (second,) = torch.autograd.grad(ContrastiveTask(views, head, source.temperature).loss(context), context)
        found = []
        for some in torch.arange(len(self.labels)).split(_BATCH):
            loss = self.losses(views.classifier(context, "end")[0], some).mean()
            found.append(gradient_cosine(torch.autograd.grad(loss, context)[0], second))
        return torch.stack(found)


_fitted_domain = cache(FittedDomain)  # encoded once for all prompts of a seed
