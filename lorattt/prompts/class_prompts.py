"""The class names of a list, tokenised once and joined with any context vectors, a prompt's neighbours among them.

A sequence is start, context and class name in the order of the position, full stop, end, as in CoOp (Zhou et al., IJCV
2022) and TPT (Shu et al., NeurIPS 2022).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.model import Clip
from lorattt.clip.text import word_ids
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least
from lorattt.prompts.files import POSITIONS, Position
from lorattt.rng import Stream, episode_keys, fold, uniform

# What one more pass through the tower costs, in tokens: on a CPU the weights are read from memory again, on a GPU the
# kernels are launched again. A few padded tokens are cheaper than that.
_PASS_TOKENS = {"cpu": 128, "cuda": 1024}


class _Names(NamedTuple):
    """Classes whose names and tails have the same numbers of tokens."""

    classes: Tensor  # (n,) int64, their labels
    name: Tensor  # (n, N) int64, the tokens of the names
    tail: Tensor  # (n, T) int64, what follows name and context: full stop and end

    @property
    def length(self) -> int:
        return self.name.shape[1] + self.tail.shape[1]


class ClassPrompts:
    """Texts of K classes, all but the context of M (``tokens``) vectors; one for all classes, or one each.

    It holds token ids only, and follows the model to any device. In names, underscores read as spaces; equal names are
    allowed. A text tower that is not causal is rejected.
    """

    def __init__(
        self, clip: Clip, class_names: Sequence[str], position: Position, tokens: int, *, class_specific: bool = False
    ) -> None:
        if position not in POSITIONS:
            raise UserError(f"prompt.position {quoted(position)}: must be one of {', '.join(POSITIONS)}")
        at_least(1, prompt__tokens=tokens)
        if not class_names:
            raise UserError("the class list is empty: give at least one class name")
        self._tower = clip.text_tower
        self.position, self.tokens, self.class_specific = position, tokens, class_specific
        self.count = len(class_names)
        self._before = _vectors_before(position, tokens)
        self._start, self._end = clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id  # type: ignore[attr-defined]
        length = self._tower.length
        if tokens + 2 > length:
            raise UserError(
                f"a context of {tokens} tokens is too long: the texts of {clip.name} have {length}, start and end "
                f"included; use at most {length - 2}, and fewer to leave room for class names"
            )
        groups: dict[tuple[int, int], list[tuple[int, list[int], list[int]]]] = {}
        for label, name in enumerate(class_names):
            words, tail = self._split(clip, name)
            needed = 1 + tokens + len(words) + len(tail)
            if needed > length:
                raise UserError(
                    f"class {quoted(name)} has {needed} tokens with its context of {tokens}, but the texts of "
                    f"{clip.name} have {length}: use a shorter name, or a context of fewer tokens"
                )
            groups.setdefault((len(words) + len(tail), len(words)), []).append((label, words, tail))
        as_tensor = partial(torch.tensor, dtype=torch.int64)
        self._names = [_Names(*map(as_tensor, zip(*rows, strict=True))) for _, rows in sorted(groups.items())]
        self._inverse = torch.cat([names.classes for names in self._names]).argsort()

    def _split(self, clip: Clip, name: str) -> tuple[list[int], list[int]]:
        """Tokens of the name and of what follows it, tokenised together and cut where the name would end, as CoOp does.

        If the name ends in punctuation, the two may be one token ("St." gives ".."), which counts as the name's.
        """
        words = name.replace("_", " ")
        together = word_ids(clip.tokenizer, f"X {words}.")[1:]
        alone = len(word_ids(clip.tokenizer, words))
        return together[:alone], [*together[alone:], self._end]

    def at(self, position: Position) -> "ClassPrompts":
        """The same names in another position of a context that all classes share."""
        moved = copy.copy(self)
        moved.position, moved._before = position, _vectors_before(position, self.tokens)
        return moved

    def take(self, classes: Tensor) -> "ClassPrompts":
        """The same texts for some classes: ``(n,)`` labels, each at most once; they become 0 to n - 1 in this order."""
        device = self._names[0].classes.device
        place = torch.full((self.count,), -1, device=device)
        place[classes.to(device)] = torch.arange(len(classes), device=device)
        taken = copy.copy(self)
        parts = [(names, place[names.classes]) for names in self._names]
        kept = [_Names(new[new >= 0], names.name[new >= 0], names.tail[new >= 0]) for names, new in parts]
        kept = [names for names in kept if len(names.classes)]
        taken._names, taken.count = kept, len(classes)
        taken._inverse = torch.cat([names.classes for names in kept]).argsort()
        return taken

    def features(self, context: Tensor, *, chunk: int | None = None, checkpointed: bool | None = None) -> Tensor:
        """``(K, D)``, or ``(E, K, D)`` unit class features in label order, float32, or float64 if context or tower is.

        Args:
            context: ``(M, d)``, or ``(E, M, d)`` for E episodes; with class-specific contexts ``(K, M, d)`` or
                ``(E, K, M, d)``.
            chunk: Sequences encoded at a time; None for what the memory suggests. The result is the same.
            checkpointed: Whether the graph keeps the input of each chunk alone and computes the rest again in the
                backward pass; None: if it would not fit the memory. The result is the same.
        """
        shape = (*((self.count,) if self.class_specific else ()), self.tokens, self._tower.width)
        if tuple(context.shape[-len(shape) :]) != shape or context.dim() - len(shape) not in (0, 1):
            raise ValueError(f"context of shape {tuple(context.shape)}: its last axes must be {shape}")
        device = self._tower.device
        if self._inverse.device != device:
            self._names = [_Names(*(part.to(device) for part in names)) for names in self._names]
            self._inverse = self._inverse.to(device)
        vectors = context.to(device)
        if context.dim() == len(shape):
            vectors = vectors.unsqueeze(0)
        episodes = len(vectors)
        opening, vectors = self._opening(vectors)
        begun = self._tower.begin(opening)
        if checkpointed is None and torch.is_grad_enabled():
            total = sum(len(names.classes) * (names.length + vectors.shape[-2]) for names in self._names)
            checkpointed = episodes * total > self._tower.room()
        parts = []
        for group in self._passes(episodes):
            rest, ends = self._rest(group, vectors)
            parts.append(self._tower.encode(begun, rest, ends=ends, chunk=chunk, checkpointed=checkpointed))
        features = torch.cat([part.expand(episodes, -1, -1) for part in parts], dim=1)[:, self._inverse]
        if context.dtype == torch.float64:
            features = features.double()
        features = F.normalize(features, dim=-1)
        return features if context.dim() > len(shape) else features.squeeze(0)

    def _opening(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What all sequences of an episode begin with, ``(E or 1, P, d)``, and the other vectors.

        These have the class axis: ``(E, K or 1, M', d)``.
        """
        start = self._tower.embed(torch.tensor([[self._start]], device=vectors.device)).to(vectors.dtype)
        if self.class_specific:
            return start, vectors
        if self._before == 0:
            return start, vectors.unsqueeze(1)
        opening = torch.cat([start.expand(len(vectors), -1, -1), vectors[:, : self._before]], dim=1)
        return opening, vectors[:, self._before :].unsqueeze(1)

    def _passes(self, episodes: int) -> list[list[_Names]]:
        """Lengths that share a pass, the short ones padded behind their end, where that is cheaper than two passes."""
        passes: list[list[_Names]] = []
        spare = 0
        for names in reversed(self._names):
            padding = episodes * len(names.classes) * (passes[-1][-1].length - names.length) if passes else 1
            if padding <= spare:
                spare -= padding
                passes[-1].insert(0, names)
            else:
                spare = _PASS_TOKENS.get(self._tower.device.type, 1024)
                passes.append([names])
        return passes[::-1]

    def _rest(self, group: list[_Names], vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """What follows the opening, ``(E or 1, n, S, d)``, and the positions of the ends; None for the last one."""
        lengths = torch.tensor([names.length + vectors.shape[-2] for names in group])
        padding = (lengths.max() - lengths).tolist()
        parts = [self._joined(names, vectors, more) for names, more in zip(group, padding, strict=True)]
        episodes = max(len(part) for part in parts)
        rest = torch.cat([part.expand(episodes, -1, -1, -1) for part in parts], dim=1)
        if not any(padding):
            return rest, None
        counts = torch.tensor([len(names.classes) for names in group])
        return rest, (lengths - 1).repeat_interleave(counts).to(rest.device)

    def _joined(self, names: _Names, vectors: Tensor, padding: int) -> Tensor:
        """Name, context and tail in the order of the position, padded: ``(E or 1, n, S, d)``."""
        name, tail = (self._tower.embed(ids).to(vectors.dtype).unsqueeze(0) for ids in (names.name, names.tail))
        if padding:
            tail = F.pad(tail, (0, 0, 0, padding))
        if vectors.shape[-2] == 0:
            return torch.cat([name, tail], dim=2)
        own = vectors[:, names.classes] if self.class_specific else vectors.expand(-1, len(names.classes), -1, -1)
        before = self._before - (self.tokens - own.shape[2])  # the opening has the others
        name, tail = (part.expand(len(own), -1, -1, -1) for part in (name, tail))
        return torch.cat([own[:, :, :before], name, own[:, :, before:], tail], dim=2)


def _vectors_before(position: Position, tokens: int) -> int:
    """How many context vectors are before the name."""
    return {"end": tokens, "middle": tokens // 2, "front": 0}[position]


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
