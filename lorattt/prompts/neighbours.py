"""A prompt's neighbours: its context, moved by a fixed length in random directions, and the class texts they give."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.rng import Stream, episode_keys, fold, uniform

# Where every class's sequence holds a neighbour's own vectors, so many are embedded at a time: 85 MB of ViT-B/16's.
_SEQUENCES = 4096


def random_directions(seed: int, count: int, tokens: int, width: int) -> Tensor:
    """R directions of unit length, uniform on the sphere: ``(R, M, d)`` float64 on the CPU, an L2 norm of 1 each.

    A direction is a function of the seed and its own number: not of the count, the classes or the device.
    """
    keys = fold(episode_keys(seed, torch.arange(count)), Stream.PROMPT_NEIGHBOURS)
    radius, angle = uniform(keys, (2, tokens, width), torch.float64).unbind(1)
    # Box and Muller: two uniform numbers make a normal one.
    normal = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
    unit: Tensor = normal / torch.linalg.vector_norm(normal, dim=(1, 2), keepdim=True)
    return unit


def neighbours(context: Tensor, directions: Tensor, radius: float) -> Tensor:
    """The context moved by ``radius`` in each of R directions ``(R, M, d)``: by that L2 length, if they are units.

    A context ``(M, d)`` gives ``(R, M, d)``. A class-specific one ``(K, M, d)`` gives ``(R, K, M, d)``: every class's
    own block takes the same step. Dtype and device are the context's.
    """
    steps = (radius * directions).to(context)
    return context + (steps if context.dim() == 2 else steps.unsqueeze(1))


@torch.no_grad()
def neighbour_features(prompts: ClassPrompts, context: Tensor, *, directions: int, radius: float, seed: int) -> Tensor:
    """``(R, K, D)`` unit class features of a prompt's R neighbours, see :func:`neighbours`, without a graph."""
    contexts = neighbours(context, random_directions(seed, directions, *context.shape[-2:]), radius)
    return torch.cat(list(features_in_parts(prompts, contexts)))


@torch.no_grad()
def features_in_parts(prompts: ClassPrompts, contexts: Tensor) -> Iterator[Tensor]:
    """Class features of R contexts ``(R, M, d)`` or ``(R, K, M, d)``, without a graph: ``(r, K, D)``, r at a time."""
    for part in contexts.split(max(1, _SEQUENCES // prompts.count)):
        yield prompts.features(part)
