"""Views on a device: what :class:`~lorattt.views.render.Views` makes on a CPU, of a batch of images, byte for byte.

Two steps. :meth:`DeviceViews.plan` draws all that is random, on the CPU and from the images' sizes alone; it needs no
pixels, so a loader worker can do it. :meth:`DeviceViews.render` makes the pixels on the plan's device. It reads
nothing back from there, so a CPU that runs ahead of a GPU is never held up: the plan decides which kernels are
started. Images differ in size and take turns, with a dozen kernels for all views of each; AugMix runs over the views
of all images at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lorattt.views.augmix import sample_augmix
from lorattt.views.crops import Interpolation, sample_crops
from lorattt.views.device_augmix import Chains, Planned, augmix_views, plan_chains
from lorattt.views.render import Views
from lorattt.views.resample import crop_spans, most_taps, plain_spans, resample, rows_go_first


class Cut(NamedTuple):
    """Views of one image that are resampled together."""

    first: int  # the first of them in the image's row of ViewPlan.places
    end: int  # one past the last
    kernel: Interpolation
    rows_first: bool  # rows are resampled before columns
    taps: int  # how many pixels weigh on an output at most
    border: tuple[int, int, int, int] | None  # left, top, right and bottom margin, in pixels


@dataclass(frozen=True)
class ViewPlan(Planned):
    """Where the pixels of the views of E images come from, and what is done to them."""

    sizes: list[tuple[int, int]]  # height and width of each image
    cuts: list[list[Cut]]  # for each image, its views in groups
    spans: Tensor  # (E, 2, V, 5) int64 spans of rows and of columns, see lorattt.views.resample
    places: Tensor  # (E, V) int64 view numbers, in the order of the groups
    chains: Chains | None  # AugMix of the V - 1 random crops of each image


class Normalization(NamedTuple):
    """``(3, 1, 1)`` float32 mean and deviation of the channels, on a scale of 0 to 1, and the dtype of the result."""

    mean: Tensor
    std: Tensor
    dtype: torch.dtype = torch.float32

    def apply(self, pixels: Tensor) -> Tensor:
        """``(*, 3, S, S)`` uint8 to normalised floats."""
        return ((pixels.float() / 255 - self.mean) / self.std).to(self.dtype)


@dataclass(frozen=True)
class DeviceViews:
    """Makes the views of a batch of images, as ``views`` does on a CPU, on any device that has float64."""

    views: Views

    def plan(self, height: int, width: int, index: int) -> ViewPlan:
        """Draw the views of an image of that size in pixels and that dataset-wide number, as ``views`` does."""
        views, spec = self.views, self.views.spec
        drawn = sample_crops(spec, height, width, seed=views.seed, index=index)
        plain = plain_spans(height, width, views.size, views.plain)
        spans = torch.cat([plain, crop_spans(drawn.boxes, drawn.flips, views.size)], dim=1)
        turned = rows_go_first(spans)
        order = turned[1:].long().argsort(stable=True) + 1
        places = torch.cat([torch.zeros_like(turned[:1], dtype=torch.long), order])
        chains = None
        if spec.augmix and spec.number > 1:
            mixes = sample_augmix(spec, seed=views.seed, index=index)
            chains = plan_chains(mixes, spec.augmix_severity, views.size)
        border = views.plain.border(height, width, views.size)
        cuts = _cuts(spans, turned, places, views.plain.interpolation, border)
        return ViewPlan([(height, width)], [cuts], spans[None], places[None], chains)

    @torch.no_grad()
    def render(self, images: Sequence[Tensor], plan: ViewPlan, norm: Normalization | None = None) -> Tensor:
        """``(E, V, 3, size, size)`` views, bytes or normalised floats, of E images ``(3, H, W)`` uint8 on any device.

        They are made where the plan is.
        """
        if [tuple(image.shape[-2:]) for image in images] != plan.sizes:
            raise ValueError("the plan was made for images of other sizes")
        # Bytes that AugMix will change are normalised after it; others at once, so that the batch is written once.
        early = norm if plan.chains is None else None
        kind = torch.uint8 if early is None else early.dtype
        size, device = self.views.size, plan.spans.device
        out = torch.empty(len(images), self.views.spec.number, 3, size, size, dtype=kind, device=device)
        for image, views, spans, places, cuts in zip(images, out, plan.spans, plan.places, plan.cuts, strict=True):
            pixels = image.to(device, non_blocking=True)
            for cut in cuts:
                which = places[cut.first : cut.end]
                framed = cut.border is not None
                made = resample(
                    pixels, spans[:, which], size, cut.kernel, cut.taps, rows_first=cut.rows_first, border=framed
                )
                if cut.border is not None:
                    _frame_(made, cut.border, self.views.plain.fill_color)
                views[which] = made if early is None else early.apply(made)
        if plan.chains is None:
            return out
        out[:, 1:] = augmix_views(out[:, 1:], plan.chains)
        return out if norm is None else torch.stack([norm.apply(views) for views in out])


def _cuts(
    spans: Tensor, turned: Tensor, places: Tensor, plain: Interpolation, border: tuple[int, int, int, int] | None
) -> list[Cut]:
    """The views of one image in groups: the plain one, those resampled by columns first, the others."""
    views, split = len(places), len(places) - int(turned[1:].sum())
    cuts: list[Cut] = []
    for first, end, kernel in ((0, 1, plain), (1, split, "bilinear"), (split, views, "bilinear")):
        if first < end:
            taps = most_taps(spans[:, places[first:end]], kernel)
            cuts.append(Cut(first, end, kernel, bool(turned[places[first]]), taps, None if first else border))
    return cuts


def _frame_(views: Tensor, border: tuple[int, int, int, int], value: int) -> None:
    """Fill the margins of ``(N, 3, S, S)`` views in place."""
    left, top, right, bottom = border
    size = views.shape[-1]
    for margin in (views[..., :top, :], views[..., size - bottom :, :], views[..., :left], views[..., size - right :]):
        margin.fill_(value)
