"""A prompt's neighbours: its context, moved by a fixed length in random directions, and the texts they give."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.rng import Stream, episode_keys, fold, uniform

# Where every class's sequence holds a neighbour's own vectors, so many are embedded at a time: 85 MB of ViT-B/16's.
_SEQUENCES = 4096


def random_directions(seed: int, count: int, tokens: int, width: int) -> Tensor:
    """Directions of unit length, uniform on the sphere.

    A direction is a function of the seed and its own number: not of the count, the classes or the device.

    Args:
        seed: The run's seed.
        count: R, how many.
        tokens: M, the number of context vectors.
        width: d, their width.

    Returns:
        ``(R, M, d)`` float64 on the CPU; each block ``(M, d)`` has an L2 norm of 1.
    """
    keys = fold(episode_keys(seed, torch.arange(count)), Stream.PROMPT_NEIGHBOURS)
    radius, angle = uniform(keys, (2, tokens, width), torch.float64).unbind(1)
    # Box and Muller: two uniform numbers make a normal one.
    normal = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
    unit: Tensor = normal / torch.linalg.vector_norm(normal, dim=(1, 2), keepdim=True)
    return unit


def neighbours(context: Tensor, directions: Tensor, radius: float) -> Tensor:
    """The context moved by ``radius`` in each direction.

    Args:
        context: ``(M, d)``; ``(K, M, d)`` if class-specific, and then every class's own block takes the same step.
        directions: ``(R, M, d)``, of unit length where ``radius`` is to be the length of a step.
        radius: L2 length of a step over the whole block ``(M, d)``.

    Returns:
        ``(R, M, d)`` or ``(R, K, M, d)``, of the context's dtype and on its device.
    """
    steps = (radius * directions).to(context)
    return context + (steps if context.dim() == 2 else steps.unsqueeze(1))


@torch.no_grad()
def neighbour_features(prompts: ClassPrompts, context: Tensor, *, directions: int, radius: float, seed: int) -> Tensor:
    """Class features of a prompt's neighbours, without a graph.

    Args:
        prompts: The class names.
        context: ``(M, d)``, or ``(K, M, d)`` if class-specific.
        directions: R, the number of neighbours.
        radius: Their L2 distance from the context, over the whole block ``(M, d)``.
        seed: The run's seed.

    Returns:
        ``(R, K, D)`` unit vectors on the model's device, float32, or float64 if the context or the tower is.
    """
    contexts = neighbours(context, random_directions(seed, directions, *context.shape[-2:]), radius)
    return torch.cat(list(features_in_parts(prompts, contexts)))


@torch.no_grad()
def features_in_parts(prompts: ClassPrompts, contexts: Tensor) -> Iterator[Tensor]:
    """Class features of many contexts, a part of them encoded at a time, without a graph.

    Args:
        prompts: The class names.
        contexts: ``(R, M, d)``, or ``(R, K, M, d)`` if class-specific.

    Yields:
        ``(r, K, D)`` unit vectors of the next r contexts.
    """
    for part in contexts.split(max(1, _SEQUENCES // prompts.count)):
        yield prompts.features(part)
