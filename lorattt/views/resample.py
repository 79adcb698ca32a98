"""Antialiased resampling of many views of an image at once, on any device, as Pillow does it.

A view is R X C: the image X between two banded matrices, one for its rows and one for its columns, built from the
crop. Both products run over all views at once and touch only the band: a few pixels weigh on an output, 5 of 500 for
a photo and a view of 224. ``embedding_bag`` is the product of a banded matrix with a dense one. Pillow rounds to 8 bits
after each product and mostly resamples columns first; so do we, so that all views share the table of columns.

Pillow weighs with integers, multiples of 2^-22, and sums exactly. Here the same multiples are summed in float64,
exactly as well, so the order of summation does not matter and the bytes are Pillow's on every device. cuBLAS and
autocast see no matrix product here, so neither TF32 nor bf16 can get in.
"""

import math

import PIL
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.views.crops import Interpolation, PlainView

# Columns of a span: start and length of a stretch of an axis of the image, the number of outputs that it is resampled
# to, the first output that the view shows, and whether the view runs backwards.
_LENGTH, _OUTPUTS = 1, 2
_REACH: dict[Interpolation, int] = {"bilinear": 1, "bicubic": 2}
_MEMORY = 2**30  # bytes of temporaries, about, at least for one view and one row at a time
_PRECISION = 2.0**22  # Pillow's for 8 bits a channel
# Older versions always resample columns first.
_PILLOW_CHOOSES = int(PIL.__version__.split(".")[0]) >= 13


def crop_spans(boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """``(*, 2, N, 5)`` int64 spans of the rows and columns of crops that become views of side ``size``.

    Nothing beyond a crop's border weighs on its view. Boxes ``(*, N, 4)`` int64 are top, left, height and width; flips
    ``(*, N)`` bool are true where the view is mirrored.
    """
    top, left, height, width = boxes.unbind(-1)
    zero = torch.zeros_like(top)
    rows = torch.stack([top, height, zero + size, zero, zero], dim=-1)
    columns = torch.stack([left, width, zero + size, zero, flips.to(zero.dtype)], dim=-1)
    return torch.stack([rows, columns], dim=-3)


def plain_spans(height: int, width: int, size: int, plain: PlainView) -> Tensor:
    """``(2, 1, 5)`` int64 spans of the rows and columns of the plain view of an image of that size, in pixels.

    Where the view has a border, its outputs begin before the image's, at a negative offset.
    """
    left, top, _, _ = plain.border(height, width, size) or (0, 0, 0, 0)

    def span(length: int, outputs: int, margin: int) -> list[int]:
        # torchvision rounds the cut's place to the nearest, half to even.
        offset = -margin if outputs < size else round((outputs - size) / 2)
        return [0, length, outputs, offset, 0]

    rows, columns = plain.resized(height, width, size)
    return torch.tensor([[span(height, rows, top)], [span(width, columns, left)]])


def most_taps(spans: Tensor, kernel: Interpolation) -> int:
    """How many pixels weigh on an output at most, of spans ``(*, 5)`` on the CPU, so that no device is waited for."""
    stretch = (spans[..., _LENGTH].double() / spans[..., _OUTPUTS]).max().item()
    return math.ceil(2 * _REACH[kernel] * max(stretch, 1.0))


def rows_go_first(spans: Tensor) -> Tensor:
    """``(*, N)`` bool: which views, of spans ``(*, 2, N, 5)``, the installed Pillow resamples by rows first.

    From version 13 on, those whose rows shrink far more.
    """
    rows, columns = (spans[..., _LENGTH] - spans[..., _OUTPUTS]).unbind(-2)
    return (rows > 0) & (rows > 2 * columns) & _PILLOW_CHOOSES


def band(spans: Tensor, size: int, kernel: Interpolation, taps: int, *, border: bool = False) -> tuple[Tensor, Tensor]:
    """The banded matrices of N spans ``(N, 5)``: pixels ``(N, size, taps)`` int64 of the axis, and float64 weights.

    The kernel is the triangle, or the cubic with a = -0.5, stretched by the factor of shrinking where the view shrinks.
    Weights are multiples of 2^-22, as Pillow's; those past :func:`most_taps` are zeros. With ``border``, views have
    outputs beyond those of the image, which repeat its last.
    """
    start, length, outputs, offset, mirrored = spans[:, :, None].unbind(1)
    place = torch.arange(size, device=spans.device)
    place = offset + torch.where(mirrored.bool(), size - 1 - place, place)
    if border:
        place = torch.minimum(place.clamp(min=0), outputs - 1)
    scale = length.double() / outputs
    stretch = scale.clamp(min=1)
    centre, support = (place + 0.5) * scale, _REACH[kernel] * stretch
    first = (centre - support + 0.5).long().clamp(min=0)
    end = torch.minimum((centre + support + 0.5).long(), length)
    pixel = first.unsqueeze(-1) + torch.arange(taps, device=spans.device)
    weight = _weigh((pixel - centre.unsqueeze(-1) + 0.5) * (1 / stretch).unsqueeze(-1), kernel)
    weight = weight.masked_fill_(pixel >= end.unsqueeze(-1), 0)
    weight = weight / weight.sum(-1, keepdim=True)
    weight = weight.mul_(_PRECISION)
    weight = (weight + weight.sign() * 0.5).trunc_().mul_(1 / _PRECISION)
    # A row's last places may be past the border; their weights are 0.
    return start.unsqueeze(-1) + torch.minimum(pixel, length.unsqueeze(-1) - 1), weight


def _weigh(distance: Tensor, kernel: Interpolation) -> Tensor:
    """The kernel at distances in units of its stretch; the terms in Pillow's order, so that no digit differs."""
    x = distance.abs_()
    if kernel == "bilinear":
        return (1 - x).clamp_(min=0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


@torch.no_grad()
def resample(
    image: Tensor,
    spans: Tensor,
    size: int,
    kernel: Interpolation,
    taps: int,
    *,
    rows_first: bool = False,
    border: bool = False,
) -> Tensor:
    """``(N, 3, size, size)`` uint8 views of one image ``(3, H, W)`` uint8.

    The spans ``(2, N, 5)`` int64 of rows and of columns are where the image is; ``taps`` is their :func:`most_taps`, or
    more. With ``rows_first``, rows are resampled before columns, which changes how pixels are rounded between the two.
    With ``border``, views have outputs beyond those of the image, which the caller fills.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"an image must be (3, H, W) uint8 and not empty, not {tuple(image.shape)} {image.dtype}")
    if rows_first:
        return resample(image.mT, spans.flip(0), size, kernel, taps, border=border).mT
    views, height, width = spans.shape[1], *image.shape[1:]
    out = torch.empty(views, 3, size, size, dtype=torch.uint8, device=image.device)
    # A view's largest temporaries: float64 sums of a band of rows, their bytes, and the same as a table of rows.
    at_once = max(1, _MEMORY // (3 * size * (2 * height + 2 * size) * 9))
    depth = max(1, _MEMORY // (8 * 8 * 3 * width))
    for begin in range(0, views, at_once):
        part = slice(begin, begin + at_once)
        # One place for both axes: half as many kernels to start.
        index, weight = band(spans[:, part].flatten(0, 1), size, kernel, taps, border=border)
        (rows, columns), (row_weights, column_weights) = index.chunk(2), weight.chunk(2)
        count = len(rows)
        narrow = torch.empty(count, height, 3, size, dtype=torch.uint8, device=image.device)
        for top in range(0, height, depth):
            lines = image[:, top : top + depth]
            sums = _banded(lines.permute(2, 0, 1).double().flatten(1), columns, column_weights)
            narrow[:, top : top + depth] = sums.view(count, size, 3, -1).permute(0, 3, 2, 1)
        # The tables of all views, one below the other.
        rows = rows + height * torch.arange(count, device=rows.device)[:, None, None]
        sums = _banded(narrow.view(count * height, 3 * size).double(), rows, row_weights)
        out[part] = sums.view(count, size, 3, size).permute(0, 2, 1, 3)
    return out


def _banded(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """``(N * size, D)``: the banded matrices ``(N, size, taps)`` times a table ``(L, D)``; bytes once truncated."""
    sums = F.embedding_bag(index.flatten(0, 1), table, mode="sum", per_sample_weights=weight.flatten(0, 1))
    return sums.clamp_(0, 255).add_(0.5)  # half goes up
