"""Training crops against torchvision's own resized crops, and what they depend on."""

import math
import pickle
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V1

from lorattt.errors import UserError
from lorattt.views import render
from lorattt.views.crops import CropParams, ViewSpec, sample_crops
from lorattt.views.render import TrainingCrop, TrainingViews

SIZE = 16


def picture(width: int, height: int) -> Image.Image:
    generator = torch.Generator().manual_seed(width * 1000 + height)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).permute(2, 0, 1)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[CropParams]:
    """What was drawn for each view."""
    drawn: list[CropParams] = []

    def note(*args: Any, **kwargs: Any) -> CropParams:
        drawn.append(sample_crops(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(render, "sample_crops", note)
    return drawn


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("width", "height"), [(97, 60), (60, 97), (20, 11), (1, 1), (1, 90), (300, 211)])
def test_a_view_is_torchvisions_resized_crop(
    width: int, height: int, interpolation: Any, sampled: list[CropParams]
) -> None:
    image = picture(width, height)
    views = TrainingViews(TrainingCrop(interpolation=interpolation), SIZE, seed=2)
    for epoch in range(8):
        view = views(image, 5, epoch)
        assert view.dtype == torch.uint8
        assert view.shape == (1, 3, SIZE, SIZE)
        (box,), (flip,) = sampled[-1].boxes.tolist(), sampled[-1].flips.tolist()
        expected = V1.resized_crop(image, *box, [SIZE, SIZE], InterpolationMode(interpolation))
        assert torch.equal(view[0], tensor(V1.hflip(expected) if flip else expected))
    assert {bool(crop.flips) for crop in sampled} == {True, False}


def test_a_view_depends_on_seed_sample_and_epoch_alone() -> None:
    image, base = picture(97, 60), (2, 5, 1)

    def view(seed: int, index: int, epoch: int) -> bytes:
        return bytes(TrainingViews(TrainingCrop(), SIZE, seed)(image, index, epoch).flatten().tolist())

    first = view(*base)
    others = [view(seed, index, epoch) for seed in (1, 2, 5) for index in (1, 2, 5) for epoch in (1, 2, 5)]
    assert len(set(others)) == 27
    assert view(*base) == first
    assert first in others
    state = torch.get_rng_state()
    torch.manual_seed(9)
    assert view(*base) == first
    torch.set_rng_state(state)


def test_training_crops_are_none_of_those_at_test_time(sampled: list[CropParams]) -> None:
    image = picture(97, 60)
    for epoch in range(30):
        TrainingViews(TrainingCrop(), SIZE, seed=2)(image, 5, epoch)
    trained = {tuple(crop.boxes[0].tolist()) for crop in sampled}
    tested = {tuple(box) for box in sample_crops(ViewSpec(number=64), 60, 97, seed=2, index=5).boxes.tolist()}
    assert len(trained) == 30
    assert len(trained & tested) < 3  # of 4 million boxes that an image of this size has, few are met twice


def test_values_reach_the_crop(sampled: list[CropParams]) -> None:
    image = picture(200, 200)
    for epoch in range(40):
        TrainingViews(TrainingCrop(scale=(0.2, 0.3), ratio=(1.9, 2.1), flip=1.0), SIZE)(image, 0, epoch)
    boxes = torch.cat([crop.boxes for crop in sampled]).double()
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 200**2, boxes[:, 3] / boxes[:, 2]
    assert ((areas > 0.19) & (areas < 0.31)).all()
    assert ((ratios > 1.85) & (ratios < 2.15)).all()
    assert all(crop.flips for crop in sampled)


def test_the_whole_image_is_a_crop() -> None:
    image = picture(SIZE, SIZE)
    whole = TrainingCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    assert torch.equal(TrainingViews(whole, SIZE)(image, 3, 1)[0], tensor(image))


def test_the_transform_travels_to_worker_processes() -> None:
    transform, image = TrainingViews(TrainingCrop(interpolation="bilinear"), SIZE, seed=1), picture(40, 30)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image, 4, 2), transform(image, 4, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 1.1)),
        ("ratio", (2.0, 1.0)),
        ("ratio", (1.0, math.inf)),
        ("flip", -0.1),
        ("flip", math.nan),
        ("interpolation", "nearest"),
    ],
)
def test_values_that_make_no_crop_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^crop\.{key} .*{value[1] if isinstance(value, tuple) else value}"):
        TrainingCrop(**{key: value})
