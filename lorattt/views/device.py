"""Views on a device: what :class:`~lorattt.views.render.Views` makes on a CPU, of a batch of images, byte for byte.

Two steps. :meth:`DeviceViews.plan` draws all that is random, on the CPU and from the images' sizes alone; it needs no
pixels, so a loader worker can do it. :meth:`DeviceViews.render` makes the pixels where the images are sent. It reads
nothing back, so a CPU that runs ahead of a GPU is never held up: whatever decides which kernels are started was
decided with the plan. Images differ in size and take turns, with a dozen kernels for all views of each; AugMix
runs over the views of all images at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorattt.views.augmix import sample_augmix
from lorattt.views.crops import sample_crops
from lorattt.views.device_augmix import Chains, augmix_views, join_chains, plan_chains
from lorattt.views.render import Views
from lorattt.views.resample import Kernel, crop_spans, most_taps, plain_spans, resample, rows_go_first


class Cut(NamedTuple):
    """Views of one image that are resampled together.

    Attributes:
        first: The first of them in the image's row of ``ViewPlan.places``.
        end: One past the last.
        kernel: How they are resampled.
        rows_first: Whether their rows are resampled before their columns.
        taps: How many pixels weigh on an output at most.
        border: Left, top, right and bottom margin of the views, in pixels, where they have one.
    """

    first: int
    end: int
    kernel: Kernel
    rows_first: bool
    taps: int
    border: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class ViewPlan:
    """Where the pixels of the views of E images come from, and what is done to them.

    Attributes:
        sizes: Height and width of each image.
        cuts: For each image, its views in groups.
        spans: ``(E, 2, V, 5)`` int64 spans of rows and of columns, see :mod:`lorattt.views.resample`.
        places: ``(E, V)`` int64 view numbers, in the order of the groups.
        chains: AugMix of the ``E * (V - 1)`` random crops; None without.
    """

    sizes: list[tuple[int, int]]
    cuts: list[list[Cut]]
    spans: Tensor
    places: Tensor
    chains: Chains | None

    def __reduce__(self) -> Any:
        """Tensors travel as arrays: by value, where a tensor of any size would become shared memory of its own."""
        return _from_arrays, (self.sizes, self.cuts, self.spans.numpy(), self.places.numpy(), self.chains)

    @staticmethod
    def join(plans: Sequence["ViewPlan"]) -> "ViewPlan":
        """One plan for the images of several, at least one, with views of the same number and kind."""
        chains = [plan.chains for plan in plans if plan.chains is not None]
        return ViewPlan(
            [size for plan in plans for size in plan.sizes],
            [cuts for plan in plans for cuts in plan.cuts],
            torch.cat([plan.spans for plan in plans]),
            torch.cat([plan.places for plan in plans]),
            join_chains(chains) if chains else None,
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "ViewPlan":
        """The plan with its tensors on that device."""
        spans = self.spans.to(device, non_blocking=non_blocking)
        places = self.places.to(device, non_blocking=non_blocking)
        chains = None if self.chains is None else self.chains.to(device, non_blocking)
        return replace(self, spans=spans, places=places, chains=chains)

    def part(self, first: int, end: int) -> "ViewPlan":
        """The plan for the images from ``first`` up to ``end``, which is not one of them."""
        views = self.places.shape[1] - 1
        own, chains = slice(first, end), None if self.chains is None else self.chains.part(first * views, end * views)
        return ViewPlan(self.sizes[own], self.cuts[own], self.spans[own], self.places[own], chains)

    def pin_memory(self) -> "ViewPlan":
        """The plan in memory that is copied to a GPU without waiting for the work before."""
        chains = None if self.chains is None else self.chains.pin_memory()
        return replace(self, spans=self.spans.pin_memory(), places=self.places.pin_memory(), chains=chains)


def _from_arrays(sizes: Any, cuts: Any, spans: Any, places: Any, chains: Chains | None) -> ViewPlan:
    return ViewPlan(sizes, cuts, torch.from_numpy(spans), torch.from_numpy(places), chains)


@dataclass(frozen=True)
class Floats:
    """Normalised floats in place of bytes.

    Attributes:
        mean: ``(3, 1, 1)`` float32 mean of the channels, on a scale of 0 to 1, where the views are made.
        std: ``(3, 1, 1)`` float32 standard deviation, likewise.
        dtype: What they are rounded to in the end.
        rounded: Whether pixels are rounded to bytes first, as Pillow's are; else as torchvision resamples floats.
    """

    mean: Tensor
    std: Tensor
    dtype: torch.dtype = torch.float32
    rounded: bool = True


@dataclass(frozen=True)
class DeviceViews:
    """Makes the views of a batch of images on any device that has float64.

    Args:
        views: What makes them on a CPU: number of views and how they are cut, size, seed and the plain view.
        memory: Bytes that temporaries may take, about; changes nothing else.
    """

    views: Views
    memory: int = 2**30

    def plan(self, height: int, width: int, index: int) -> ViewPlan:
        """Draw the views of an image: the numbers that ``views`` draws for it.

        Args:
            height: Height of the image, in pixels.
            width: Width of the image, in pixels.
            index: Its dataset-wide number.
        """
        views, spec = self.views, self.views.spec
        drawn = sample_crops(spec, height, width, seed=views.seed, index=index)
        plain = plain_spans(height, width, views.size, views.plain)
        spans = torch.cat([plain, crop_spans(drawn.boxes, drawn.flips, views.size)], dim=1)
        turned = rows_go_first(spans)
        order = turned[1:].long().argsort(stable=True) + 1
        places = torch.cat([torch.zeros_like(turned[:1], dtype=torch.long), order])
        chains = None
        if spec.augmix:
            mixes = sample_augmix(spec, seed=views.seed, index=index)
            chains = plan_chains(mixes, spec.augmix_severity, views.size)
        cuts = _cuts(spans, turned, places, views.plain.interpolation)
        cuts[0] = cuts[0]._replace(border=views.plain.border(height, width, views.size))
        return ViewPlan([(height, width)], [cuts], spans[None], places[None], chains)

    def __call__(self, images: Sequence[Tensor], index: Sequence[int], device: torch.device | str) -> Tensor:
        """The views of E images as bytes: :meth:`plan` and :meth:`render`.

        Args:
            images: E of ``(3, H, W)`` uint8, each of its own size, on any device.
            index: The dataset-wide number of each.
            device: Where the views are made.

        Returns:
            ``(E, V, 3, size, size)`` uint8.
        """
        if not images:
            return torch.empty(0, self.views.spec.number, 3, self.views.size, self.views.size, dtype=torch.uint8)
        plans = [self.plan(image.shape[1], image.shape[2], number) for image, number in zip(images, index, strict=True)]
        plan = ViewPlan.join(plans)
        device = torch.device(device)
        return self.render(images, (plan.pin_memory() if device.type == "cuda" else plan).to(device))

    @torch.no_grad()
    def render(self, images: Sequence[Tensor], plan: ViewPlan, floats: Floats | None = None) -> Tensor:
        """Make the views where the plan is.

        Args:
            images: E of ``(3, H, W)`` uint8, on any device; not waited for if they are in pinned memory.
            plan: The plan for images of these sizes.
            floats: How to normalise the views; None for bytes.

        Returns:
            ``(E, V, 3, size, size)``, uint8 or ``floats.dtype``.

        Raises:
            ValueError: If the images are not those of the plan, or AugMix is asked of pixels that are not bytes.
        """
        if [tuple(image.shape[-2:]) for image in images] != plan.sizes:
            raise ValueError("the plan was made for images of other sizes")
        if floats is not None and not floats.rounded and self.views.spec.augmix:
            raise ValueError("AugMix is defined on bytes: floats.rounded must be true")
        # Bytes that AugMix will change are normalised after it; others at once, so that the batch is written once.
        early = None if self.views.spec.augmix else floats
        kind = torch.uint8 if early is None else early.dtype
        size, device = self.views.size, plan.spans.device
        out = torch.empty(len(images), self.views.spec.number, 3, size, size, dtype=kind, device=device)
        for image, views, spans, places, cuts in zip(images, out, plan.spans, plan.places, plan.cuts, strict=True):
            pixels = image.to(device, non_blocking=True)
            for cut in cuts:
                which = places[cut.first : cut.end]
                views[which] = self._cut(pixels, spans[:, which], cut, early)
        if plan.chains is None:
            return out
        crops = out[:, 1:]
        crops.copy_(augmix_views(crops.flatten(0, 1), plan.chains, memory=self.memory).view_as(crops))
        return out if floats is None else torch.stack([_normalise(views, floats) for views in out])

    def _cut(self, image: Tensor, spans: Tensor, cut: Cut, floats: Floats | None) -> Tensor:
        views = resample(
            image,
            spans,
            self.views.size,
            cut.kernel,
            cut.taps,
            rows_first=cut.rows_first,
            rounded=floats is None or floats.rounded,
            border=cut.border is not None,
            memory=self.memory,
        )
        if cut.border is not None:
            _frame_(views, cut.border, self.views.plain.fill_color)
        return views if floats is None else _normalise(views, floats)


def _cuts(spans: Tensor, turned: Tensor, places: Tensor, plain: Kernel) -> list[Cut]:
    """The views of one image in groups: the plain one, those resampled by columns first, the others."""
    views, rows_first = len(places), int(turned[1:].sum())
    groups: list[tuple[int, int, Kernel]] = [
        (0, 1, plain),
        (1, views - rows_first, "bilinear"),
        (views - rows_first, views, "bilinear"),
    ]
    cuts = []
    for first, end, kernel in groups:
        if first < end:
            which = places[first:end]
            cuts.append(Cut(first, end, kernel, bool(turned[which[0]]), most_taps(spans[:, which], kernel)))
    return cuts


def _frame_(views: Tensor, border: tuple[int, int, int, int], value: int) -> None:
    """Fill the margins of ``(N, 3, S, S)`` views in place."""
    left, top, right, bottom = border
    size = views.shape[-1]
    for margin in (views[..., :top, :], views[..., size - bottom :, :]):
        margin.fill_(value)
    for margin in (views[..., :left], views[..., size - right :]):
        margin.fill_(value)


def _normalise(pixels: Tensor, floats: Floats) -> Tensor:
    return ((pixels.float() / 255 - floats.mean) / floats.std).to(floats.dtype)
