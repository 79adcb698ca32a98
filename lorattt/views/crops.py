"""Geometry of the views, without pixels: view 0, the plain one, and random crops as numbers.

The plain view is made by a model's own preprocessing. A crop is a function of (seed, sample index, view number). It
follows torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``: the same distribution, ten attempts and
fall-back, drawn for all views at once from counter-based random numbers.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lorattt.errors import UserError, quoted
from lorattt.rng import Stream, episode_keys, fold, uniform

_ATTEMPTS = 10
Place: TypeAlias = Literal["auto", "workers", "device"]
ResizeMode: TypeAlias = Literal["shortest", "longest", "squash"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class ViewSpec:
    """How the views of an episode are made.

    Args:
        number: Views of an image, the plain one included.
        scale: Smallest and largest area of a random crop, as fractions of the image's.
        ratio: Smallest and largest width-to-height ratio of a random crop.
        flip: Probability that a random crop is mirrored.
        augmix: Mix chains of colour and geometry operations into the random crops (AugMix).
        augmix_severity: Strength of those operations, 1 to 10.
        place: Where views are made: by the ``workers`` that read the images, on the ``device`` that the model is on,
            or there if it is a CUDA device (``auto``). They are the same, byte for byte.
    """

    number: int = 64
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    augmix: bool = False
    augmix_severity: int = 1
    place: Place = "auto"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.number < 1:
            raise UserError(f"views.number {self.number}: at least 1 view is needed")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"views.scale {list(self.scale)}: must be two fractions, 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"views.ratio {list(self.ratio)}: must be two finite ratios, 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise UserError(f"views.flip {self.flip}: a probability must be between 0 and 1")
        if not 1 <= self.augmix_severity <= 10:
            raise UserError(f"views.augmix_severity {self.augmix_severity}: must be 1 to 10")
        if self.place not in get_args(Place):
            raise UserError(f"views.place {quoted(self.place)}: must be one of {', '.join(get_args(Place))}")


@dataclass(frozen=True)
class PlainView:
    """How the plain view is made, in open_clip's terms.

    ``shortest``: the shorter side is resized to the view's, and the centre cut out. ``longest``: the longer side is
    resized, and a border fills what is left. ``squash``: both sides are resized.
    """

    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"  # Pillow's, antialiased
    fill_color: int = 0  # grey value of the border, 0 to 255

    def resized(self, height: int, width: int, size: int) -> tuple[int, int]:
        """Height and width of a whole image when it is resized for a view of side ``size``, all in pixels."""
        if self.resize_mode == "squash":
            return size, size
        if self.resize_mode == "longest":
            # Python's rounding, half to even, as open_clip has it; a line of pixels keeps one.
            ratio = max(height / size, width / size)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        # torchvision rounds the longer side down.
        shorter = min(height, width)
        return int(size * height / shorter), int(size * width / shorter)

    def border(self, height: int, width: int, size: int) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom margin around the resized image, in pixels; None if it fills the view."""
        down, across = (max(0, size - side) for side in self.resized(height, width, size))
        return (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2) if down or across else None


@dataclass(frozen=True)
class CropParams:
    """The random crops of one image."""

    boxes: Tensor  # (V - 1, 4) int64: top, left, height, width, in pixels of the image
    flips: Tensor  # (V - 1,) bool


def view_keys(seed: int, index: int, views: int, stream: Stream) -> Tensor:
    """``(views - 1,)`` int64 keys of views 1, 2, ...; a function of (seed, index, view number)."""
    key = fold(episode_keys(seed, torch.tensor([index])), stream)
    numbers = torch.arange(1, views)
    return fold(key.expand_as(numbers), numbers)


def sample_crops(spec: ViewSpec, height: int, width: int, *, seed: int, index: int) -> CropParams:
    """Draw the crops of views 1 to V - 1 of the sample of that dataset-wide number, its size in pixels."""
    keys = view_keys(seed, index, spec.number, Stream.VIEW_CROPS)
    # Columns: 10 areas, 10 ratios, 10 tops, 10 lefts, 1 flip. float64, so that a border is never off by one.
    draws = uniform(keys, (4 * _ATTEMPTS + 1,), torch.float64)
    area_u, ratio_u, top_u, left_u = draws[:, : 4 * _ATTEMPTS].split(_ATTEMPTS, dim=1)
    area = height * width * (spec.scale[0] + area_u * (spec.scale[1] - spec.scale[0]))
    low, high = torch.tensor(spec.ratio, dtype=torch.float64).log()
    ratio = (low + ratio_u * (high - low)).exp()
    w = (area * ratio).sqrt().round().long()
    h = (area / ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = (top_u * (height - h + 1)).long()
    left = (left_u * (width - w + 1)).long()
    candidates = torch.stack([top, left, h, w], dim=-1)  # (V - 1, 10, 4)
    first = fits.long().argmax(dim=1)
    boxes = candidates[torch.arange(len(keys)), first]
    boxes[~fits.any(dim=1)] = _central_box(spec, height, width)
    return CropParams(boxes, draws[:, -1] < spec.flip)


def _central_box(spec: ViewSpec, height: int, width: int) -> Tensor:
    """Torchvision's fall-back: the largest central crop whose ratio is allowed; unlike torchvision's, never empty."""
    w = max(1, min(width, round(height * spec.ratio[1])))
    h = max(1, min(height, round(width / spec.ratio[0])))
    return torch.tensor([(height - h) // 2, (width - w) // 2, h, w])
