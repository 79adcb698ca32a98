"""AugMix on a device: the operations of :mod:`lorattt.views.augmix` on many views at once, byte for byte.

Views take different operations, so each step gathers those with the same one; the three chains of all views go
through their steps together. The CPU knows which view takes what, and sends it in one piece. The geometry is one
operation, Pillow's affine transform, with a matrix for each view.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorattt.views.augmix import OPERATIONS, AugMixParams

_P = TypeVar("_P", bound="Planned")


@dataclass(frozen=True)
class Planned:
    """Base of plans: each field is a tensor, list or plan with an entry for each image, or None."""

    def __reduce__(self) -> Any:
        """Send tensors as arrays, by value; each tensor would take a shared-memory file of its own."""
        values = (value.numpy() if isinstance(value, Tensor) else value for value in vars(self).values())
        return _rebuilt, (type(self), *values)

    def to(self: _P, device: torch.device | str, non_blocking: bool = True) -> _P:
        """The plan with its tensors on that device; lists stay on the CPU."""
        return self.with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: _P) -> _P:
        """The plan in memory that is copied to a GPU without waiting for earlier work."""
        return self.with_tensors(lambda tensor: tensor.pin_memory())

    def part(self: _P, first: int, end: int) -> _P:
        """The plan for images ``first`` to ``end - 1``."""
        return self._with(lambda value: value[first:end])

    def with_tensors(self: _P, change: Callable[[Tensor], Tensor]) -> _P:
        """The plan with its tensors changed."""
        return self._with(lambda value: change(value) if isinstance(value, Tensor) else value)

    def _with(self: _P, change: Callable[[Any], Any]) -> _P:
        """The plan with its tensors and lists changed, and those of the plans in it."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name, value in given.items():
            given[name] = value._with(change) if isinstance(value, Planned) else change(value)
        return replace(self, **given)

    @classmethod
    def join(cls: type[_P], plans: Sequence[_P]) -> _P:
        """One plan for the images of several plans of the same kind, at least one."""
        return cls(*map(_joined, zip(*(vars(plan).values() for plan in plans), strict=True)))


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Planned):
        return first.join(values)
    return None if first is None else [item for value in values for item in value]


def _rebuilt(kind: type[_P], *values: Any) -> _P:
    return kind(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))


_GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
# What a pixel of a view needs at a time: three chains as bytes, float64 corners and their mixtures, sums.
_BYTES_PER_VALUE = 96
_MEMORY = 2**30  # bytes of temporaries, about: views take turns in parts that fit


@dataclass(frozen=True)
class Chains(Planned):
    """The chains of n views of each of E images, as numbers that their operations take."""

    operations: list[NDArray[np.int64]]  # for each image, (n, 3, 3) numbers of OPERATIONS, -1 past a chain's end
    matrices: Tensor  # (E, n, 3, 3, 6) float64, see affine
    amounts: Tensor  # (E, n, 3, 3) uint8: the bits that posterize keeps, or the highest value that solarize keeps
    weights: Tensor  # (E, n, 3) float64 chain weights
    keep: Tensor  # (E, n) float64 weights of the unchanged views


def plan_chains(params: Sequence[AugMixParams], severity: int, size: int) -> Chains:
    """The chains of one image's views, at least one, in Python's and Pillow's own arithmetic, digit for digit."""
    operations, levels, signs, weights = (
        torch.stack([getattr(one, name) for one in params]) for name in ("operations", "levels", "signs", "weights")
    )
    strength = (0.1 + levels * (severity - 0.1)) / 10
    sign = torch.where(signs, -1.0, 1.0).double()

    def chosen(name: str) -> Tensor:
        return operations == OPERATIONS.index(name)

    matrices = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(*operations.shape, 1)
    shift = sign * (strength * size / 3).trunc()
    for name, column, value in (
        ("shear_x", 1, sign * strength * 0.3),
        ("shear_y", 3, sign * strength * 0.3),
        ("translate_x", 2, shift),
        ("translate_y", 5, shift),
    ):
        matrices[..., column] = torch.where(chosen(name), value, matrices[..., column])
    turns = torch.tensor([_rotation(degrees, size) for degrees in range(-29, 30)], dtype=torch.float64)
    degrees = (sign * (strength * 30).trunc()).long()
    matrices = torch.where(chosen("rotate").unsqueeze(-1), turns[degrees + 29], matrices)
    mask = 256 - 2 ** (4 + (strength * 4).long())
    threshold = 255 - (strength * 256).long()
    amounts = torch.where(chosen("posterize"), mask, threshold).to(torch.uint8)
    keep = torch.tensor([one.keep for one in params], dtype=torch.float64)
    return Chains([operations.numpy()], matrices[None], amounts[None], weights[None], keep[None])


def _rotation(degrees: int, size: int) -> list[float]:
    """The matrix that Pillow rotates a square by, about its centre."""
    angle, middle = -math.radians(degrees % 360.0), size / 2
    a, b, d = round(math.cos(angle), 15), round(math.sin(angle), 15), round(-math.sin(angle), 15)
    return [a, b, a * -middle + b * -middle + middle, d, a, d * -middle + a * -middle + middle]


@torch.no_grad()
def augmix_views(views: Tensor, chains: Chains) -> Tensor:
    """Apply chains to the views ``(E, n, 3, S, S)`` uint8 that they were planned for, where both are."""
    if not len(views):
        return views
    shape, views, numbers = views.shape, views.flatten(0, 1), torch.from_numpy(np.concatenate(chains.operations))
    chains = chains.with_tensors(lambda tensor: tensor.flatten(0, 1))
    at_once = max(1, _MEMORY // (_BYTES_PER_VALUE * views[0].numel()))
    parts = [slice(begin, begin + at_once) for begin in range(0, len(views), at_once)]
    rows = [row for part in parts for row in _rows(numbers[part])]
    # One transfer for all parts; what follows knows the lengths, and waits for nothing.
    joined = torch.cat(rows)
    sent = (joined.pin_memory() if views.is_cuda else joined).to(views.device, non_blocking=True)
    groups = iter(sent.split([len(row) for row in rows]))
    out = torch.empty_like(views)
    for part in parts:
        out[part] = _mix(views[part], chains, part, groups)
    return out.view(shape)


def _rows(operations: Tensor) -> Iterator[Tensor]:
    """For each step and group of operations, the rows ``chain * N + view`` that take it."""
    for step in operations.permute(2, 1, 0).flatten(1):
        for name in _GROUPS:
            wanted = [OPERATIONS.index(one) for one in (_GEOMETRY if name == "geometry" else (name,))]
            yield torch.isin(step, torch.tensor(wanted)).nonzero().squeeze(1)


def _mix(views: Tensor, chains: Chains, part: slice, groups: Iterator[Tensor]) -> Tensor:
    # Rows are chain-major, as in _rows.
    state = torch.cat([views, views, views])
    matrices = chains.matrices[part].transpose(0, 2).flatten(1, 2)  # (step, chain and view, 6)
    amounts = chains.amounts[part].transpose(0, 2).flatten(1, 2)
    for step in range(3):
        for operation in _GROUPS.values():
            rows = next(groups)
            if len(rows):
                state[rows] = operation(state[rows], matrices[step, rows], amounts[step, rows])
    # The order and the widths of augmix(), whose kept part is a product in float32.
    weights = chains.weights[part, :, None, None, None]
    keep = chains.keep[part, None, None, None]
    mixed = torch.zeros_like(views, dtype=torch.float64)
    for chain, pixels in enumerate(state.view(3, *views.shape)):
        mixed += weights[:, chain] * pixels
    mixed = (keep.float() * views) + mixed.mul_(1 - keep)
    return mixed.round_().clamp_(0, 255).to(torch.uint8)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel of ``(N, 3, H, W)`` uint8 views stretched to 0 to 255."""
    flat = x.flatten(2)
    low, high = flat.amin(-1, keepdim=True).double(), flat.amax(-1, keepdim=True).double()
    # A number over a tensor would be the number times a reciprocal, rounded twice.
    scale = torch.full_like(low, 255) / (high - low)
    values = torch.arange(256, dtype=torch.float64, device=x.device)
    table = (values * scale + -low * scale).trunc().clamp_(0, 255)
    return _look_up(x, torch.where(high > low, table, values))


def equalize(x: Tensor) -> Tensor:
    """Each channel of ``(N, 3, H, W)`` uint8 views with its values spread evenly."""
    flat = x.flatten(2)
    channel = torch.arange(flat.shape[0] * 3, device=x.device).view(-1, 3, 1)
    places = (flat + 256 * channel).flatten()
    counts = torch.zeros(256 * channel.numel(), dtype=torch.int32, device=x.device)
    counts = counts.scatter_add_(0, places, torch.ones_like(counts[:1]).expand(len(places))).view(-1, 3, 256).long()
    # All pixels but those of the highest value, in 255 steps.
    highest = counts.gather(-1, flat.amax(-1, keepdim=True).long())
    step = (flat.shape[-1] - highest) // 255
    below = counts.cumsum(-1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    return _look_up(x, torch.where(step > 0, table, torch.arange(256, device=x.device)))


def _look_up(x: Tensor, table: Tensor) -> Tensor:
    """Pixels ``(N, 3, H, W)`` replaced by the entries of their channels' tables ``(N, 3, 256)``."""
    return table.to(torch.uint8).gather(-1, x.flatten(2).long()).view_as(x)


def posterize(x: Tensor, mask: Tensor) -> Tensor:
    """``(N, 3, H, W)`` uint8 views with some of their bits: those of the masks ``(N,)`` uint8."""
    return x & mask[:, None, None, None]


def solarize(x: Tensor, limit: Tensor) -> Tensor:
    """``(N, 3, H, W)`` uint8 views, values above the limits ``(N,)`` uint8 turned round."""
    return torch.where(x > limit[:, None, None, None], 255 - x, x)


def affine(x: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear affine transforms of ``(N, 3, H, W)`` uint8 views as Pillow's: truncated to bytes, black outside.

    Pixel (x, y) of the result is (a x + b y + c, d x + e y + f) of the view, by the matrices ``(N, 6)`` float64.
    Truncation makes the last digit count, so the arithmetic is Pillow's: float64, and no two operations in one kernel,
    which could round once where two roundings are wanted.
    """
    height, width = x.shape[2:]
    a, b, c, d, e, f = (column[:, None, None] for column in matrix.unbind(-1))
    across = torch.arange(width, dtype=torch.float64, device=x.device) + 0.5
    down = torch.arange(height, dtype=torch.float64, device=x.device)[:, None] + 0.5
    left, right, dx, seen_x = _between((a * across + b * down).add_(c), width)
    above, under, dy, seen_y = _between((d * across + e * down).add_(f), height)
    flat, shape = x.flatten(2), (len(x), 3, height * width)

    def line(rows: Tensor) -> Tensor:
        one, other = (flat.gather(2, (rows + column).view(-1, 1, shape[2]).expand(shape)) for column in (left, right))
        return ((other.short() - one.short()) * dx.view(-1, 1, shape[2])).add_(one)

    upper = line(above * width)
    lower = line(under * width)
    mixed = lower.sub_(upper).mul_(dy.view(-1, 1, shape[2])).add_(upper)
    return mixed.masked_fill_(~(seen_x & seen_y).view(-1, 1, shape[2]), 0).to(torch.uint8).view_as(x)


def _between(place: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels about a place on an axis, how far it is past the first, and whether it is on the axis."""
    seen = (place >= 0) & (place < length)
    place = place - 0.5
    first = place.floor()
    pixel = first.long()
    return pixel.clamp(0, length - 1), (pixel + 1).clamp_(0, length - 1), place.sub_(first), seen


# What a group of views takes in a step, with their matrices and amounts.
_GROUPS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "autocontrast": lambda x, matrix, amount: autocontrast(x),
    "equalize": lambda x, matrix, amount: equalize(x),
    "posterize": lambda x, matrix, amount: posterize(x, amount),
    "solarize": lambda x, matrix, amount: solarize(x, amount),
    "geometry": lambda x, matrix, amount: affine(x, matrix),
}
