"""AugMix of many views at once against Pillow, one view and one operation at a time."""

import platform

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lorattt.views.augmix import OPERATIONS, AugMixParams, augmix, sample_augmix
from lorattt.views.crops import ViewSpec
from lorattt.views.device_augmix import (
    Chains,
    affine,
    augmix_views,
    autocontrast,
    equalize,
    plan_chains,
    posterize,
    solarize,
)

SIZE = 40
LEVELS = torch.tensor([0.0, 0.13, 0.4, 0.77, 1 - 2**-53], dtype=torch.float64)


def picture(tensor: Tensor) -> Image.Image:
    return Image.fromarray(tensor.permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def many(height: int = SIZE, width: int = SIZE) -> Tensor:
    """Noise, smooth ramps, few values, one value, two values, nearly one value: what tables are built from."""
    generator = torch.Generator().manual_seed(height + width)
    noise = torch.randint(0, 256, (3, height, width), generator=generator)
    ramp = (
        torch.arange(height)[:, None] * 3 + torch.arange(width) * 2 + torch.tensor([0, 30, 60])[:, None, None]
    ) % 230
    few = noise // 80 * 80
    constant = torch.full_like(noise, 77)
    two = constant + 100 * (noise > 128)
    spot = constant.clone()
    spot[:, 0, 0] = 200
    narrow = 100 + noise // 40
    return torch.stack([noise, ramp, few, constant, two, spot, narrow]).byte()


def one_step(operation: str, level: float, negative: bool) -> AugMixParams:
    numbers = torch.full((3, 3), -1)
    numbers[0, 0] = OPERATIONS.index(operation)
    weights = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    return AugMixParams(
        numbers, torch.full((3, 3), level, dtype=torch.float64), torch.full((3, 3), negative), weights, 0.0
    )


@pytest.mark.parametrize(("height", "width"), [(40, 40), (23, 61), (1, 1), (1, 9), (200, 140)])
def test_tables_are_pillows_to_the_bit(height: int, width: int) -> None:
    views = many(height, width)
    bits = torch.tensor([1, 2, 3, 4, 4, 2, 1])
    limits = torch.tensor([0, 1, 100, 254, 255, 76, 77])
    for ours, theirs in (
        (autocontrast(views), [ImageOps.autocontrast(picture(view)) for view in views]),
        (equalize(views), [ImageOps.equalize(picture(view)) for view in views]),
        (
            posterize(views, (256 - 2 ** (8 - bits)).byte()),
            [ImageOps.posterize(picture(view), int(kept)) for view, kept in zip(views, bits, strict=True)],
        ),
        (
            solarize(views, limits.byte()),
            [ImageOps.solarize(picture(view), int(limit) + 1) for view, limit in zip(views, limits, strict=True)],
        ),
    ):
        assert ours.dtype == torch.uint8
        assert torch.equal(ours, torch.stack([tensor(image) for image in theirs]))


def same_as_pillow(ours: Tensor, theirs: Tensor) -> None:
    """Equal. Where a compiler may fuse a product and a sum (not on x86-64), Pillow itself truncates a few otherwise."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert torch.equal(ours, theirs)
    else:
        difference = (ours.int() - theirs.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize(("height", "width"), [(40, 40), (23, 61), (1, 1), (1, 9)])
def test_affine_transforms_are_pillows(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.eye(3, dtype=torch.float64)[:2].flatten() + 0.4 * torch.randn(
        200, 6, generator=generator, dtype=torch.float64
    )
    matrices[:, [2, 5]] *= 20
    matrices[:40] = matrices[:40].round()  # onto pixels, and onto the border between them
    views = many(height, width)[torch.arange(200) % 7]
    theirs = [
        tensor(picture(view).transform((width, height), Image.Transform.AFFINE, row, Image.Resampling.BILINEAR))
        for view, row in zip(views, matrices.tolist(), strict=True)
    ]
    same_as_pillow(affine(views, matrices), torch.stack(theirs))


@pytest.mark.parametrize("severity", [1, 4, 10])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [SIZE, 33])
def test_every_operation_is_the_cpus(operation: str, severity: int, size: int) -> None:
    views = many(size, size)
    params = [one_step(operation, level, negative) for level in LEVELS.tolist() for negative in (False, True)]
    chains = plan_chains(params, severity, size)
    for view in views[:3]:
        theirs = torch.stack([augmix(picture(view), one, severity) for one in params])
        same_as_pillow(augmix_views(view.expand(1, len(params), -1, -1, -1).clone(), chains)[0], theirs)


def test_all_whole_degrees() -> None:
    view = many()[0]
    # With these levels at severity 10, the angle is the whole number itself.
    levels = [(degrees + 0.5) / 30 / 0.99 - 0.1 / 9.9 for degrees in range(30)]
    params = [one_step("rotate", level, negative) for level in levels for negative in (False, True)]
    ours = augmix_views(view.expand(1, 60, -1, -1, -1).clone(), plan_chains(params, 10, SIZE))[0]
    angles = [sign * degrees for degrees in range(30) for sign in (1, -1)]
    theirs = [tensor(picture(view).rotate(angle, Image.Resampling.BILINEAR)) for angle in angles]
    same_as_pillow(ours, torch.stack(theirs))


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_mixed_views_are_the_cpus(severity: int) -> None:
    params = sample_augmix(ViewSpec(number=61), seed=2, index=severity)
    views = many()[torch.arange(60) % 7]
    ours = augmix_views(views[None], plan_chains(params, severity, SIZE))[0]
    theirs = [augmix(picture(view), one, severity) for view, one in zip(views, params, strict=True)]
    same_as_pillow(ours, torch.stack(theirs))


def test_parts_images_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [sample_augmix(ViewSpec(number=8), seed=2, index=index) for index in range(3)]
    views = many()[torch.arange(21) % 7].view(3, 7, 3, SIZE, SIZE)
    before = views.clone()
    plans = [plan_chains(params, 5, SIZE) for params in images]
    together = augmix_views(views, Chains.join(plans))
    assert torch.equal(views, before)
    for memory in (1, 3 * 96 * views[0, 0].numel()):
        with monkeypatch.context() as patch:
            patch.setattr("lorattt.views.device_augmix._MEMORY", memory)
            assert torch.equal(augmix_views(views, Chains.join(plans)), together)
    for image, plan in enumerate(plans):
        assert torch.equal(augmix_views(views[image : image + 1], plan)[0], together[image])
    again = augmix_views(views.flip(0), Chains.join(plans[::-1]))
    assert torch.equal(again.flip(0), together)
