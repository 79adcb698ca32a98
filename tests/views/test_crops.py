"""Random crops against torchvision's RandomResizedCrop."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from lorattt.errors import UserError
from lorattt.rng import Stream
from lorattt.views.crops import ViewSpec, sample_crops, view_keys

NARROW = [(1, 400), (400, 1), (3, 2), (1, 1), (2, 300), (17, 5000)]


def torchvision_boxes(spec: ViewSpec, height: int, width: int, count: int) -> Tensor:
    """``(count, 4)`` boxes of torchvision: top, left, height, width."""
    image = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [RandomResizedCrop.get_params(image, list(spec.scale), list(spec.ratio)) for _ in range(count)]
    return torch.tensor(boxes)


def features(boxes: Tensor, height: int, width: int) -> dict[str, Tensor]:
    top, left, h, w = boxes.double().unbind(1)
    return {
        "area": h * w / (height * width),
        "ratio": w / h,
        "top": top,
        "left": left,
        # 0 to 1 over the room there is.
        "place down": top / (height - h).clamp(min=1),
        "place across": left / (width - w).clamp(min=1),
    }


def largest_gap(one: Tensor, other: Tensor) -> float:
    """Kolmogorov and Smirnov's distance of two samples."""
    at = torch.cat([one, other]).sort().values
    shares = [torch.searchsorted(x.sort().values, at, right=True).double() / len(x) for x in (one, other)]
    return (shares[0] - shares[1]).abs().max().item()


@pytest.mark.parametrize(
    ("height", "width", "spec"),
    [
        (480, 640, ViewSpec(number=2001)),
        (90, 300, ViewSpec(number=2001)),  # many attempts fail here, and some fall back
        (400, 220, ViewSpec(number=2001, scale=(0.3, 0.9), ratio=(0.5, 3.0))),
    ],
)
def test_crops_are_distributed_as_torchvisions(height: int, width: int, spec: ViewSpec) -> None:
    count = spec.number - 1
    crops = sample_crops(spec, height, width, seed=0, index=0)
    mine = features(crops.boxes, height, width)
    theirs = features(torchvision_boxes(spec, height, width, count), height, width)
    for name, values in mine.items():
        # Of two samples of one distribution, fewer than 1 in 1,000 pairs are further apart.
        assert largest_gap(values, theirs[name]) < 1.95 * math.sqrt(2 / count), name
        error = (values.var() + theirs[name].var()).div(count).sqrt()
        assert abs(values.mean() - theirs[name].mean()) < 4 * error, name
    assert abs(crops.flips.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(count)


def test_one_view_of_many_samples_is_distributed_as_many_views_of_one() -> None:
    spec = ViewSpec(number=2)
    crops = [sample_crops(spec, 480, 640, seed=5, index=index) for index in range(1000)]
    mine = features(torch.cat([crop.boxes for crop in crops]), 480, 640)
    theirs = features(torchvision_boxes(spec, 480, 640, 1000), 480, 640)
    for name, values in mine.items():
        assert largest_gap(values, theirs[name]) < 1.95 * math.sqrt(2 / 1000), name
    assert abs(torch.cat([crop.flips for crop in crops]).double().mean() - 0.5) < 4 * 0.5 / math.sqrt(1000)


@pytest.mark.parametrize(("height", "width"), [*NARROW, (500, 375)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.1, 0.3), (4.0, 9.0), (1.0, 1.0)])
def test_boxes_lie_within_the_image(height: int, width: int, ratio: tuple[float, float]) -> None:
    spec = ViewSpec(number=101, scale=(0.001, 1.0), ratio=ratio)
    for index in range(3):
        top, left, h, w = sample_crops(spec, height, width, seed=0, index=index).boxes.unbind(1)
        assert (h >= 1).all()
        assert (w >= 1).all()
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + h <= height).all()
        assert (left + w <= width).all()


def test_area_ratio_place_and_flip_are_independent() -> None:
    # On this image every crop fits at the first attempt, so nothing ties them together.
    crops = sample_crops(ViewSpec(number=4001, scale=(0.1, 0.3)), 2000, 2000, seed=0, index=0)
    values = features(crops.boxes, 2000, 2000)
    columns = [values["area"], values["ratio"].log(), values["place down"], values["place across"]]
    correlation = torch.corrcoef(torch.stack([*columns, crops.flips.double()]))
    assert (correlation - torch.eye(5)).abs().max() < 4 / math.sqrt(4000)


def test_corners_are_reached() -> None:
    spec = ViewSpec(number=501, scale=(0.3, 0.6))
    top, left, h, w = sample_crops(spec, 5, 5, seed=0, index=0).boxes.unbind(1)
    assert (top == 0).any()
    assert (left == 0).any()
    assert (top + h == 5).any()
    assert (left + w == 5).any()


@pytest.mark.parametrize(
    ("height", "width", "spec"),
    [
        (1, 400, ViewSpec()),
        (400, 1, ViewSpec()),
        (10, 4001, ViewSpec()),
        (4001, 10, ViewSpec()),
        (50, 51, ViewSpec(scale=(1.0, 1.0), ratio=(2.0, 2.0))),
        (50, 51, ViewSpec(scale=(1.0, 1.0), ratio=(0.3, 0.5))),
        (50, 50, ViewSpec(scale=(1.0, 1.0), ratio=(0.01, 100.0))),
    ],
)
def test_where_nothing_fits_the_crop_is_torchvisions(height: int, width: int, spec: ViewSpec) -> None:
    theirs = torchvision_boxes(spec, height, width, 63)
    assert len(theirs.unique(dim=0)) == 1
    assert torch.equal(sample_crops(spec, height, width, seed=0, index=0).boxes, theirs)


def test_a_view_depends_on_seed_sample_and_number_alone() -> None:
    many = sample_crops(ViewSpec(number=64), 300, 400, seed=3, index=17)
    few = sample_crops(ViewSpec(number=9), 300, 400, seed=3, index=17)
    assert torch.equal(few.boxes, many.boxes[:8])
    assert torch.equal(few.flips, many.flips[:8])
    assert len(many.boxes.unique(dim=0)) == 63
    for seed, index in ((4, 17), (3, 18)):
        other = sample_crops(ViewSpec(number=64), 300, 400, seed=seed, index=index)
        assert (other.boxes != many.boxes).any(dim=1).float().mean() > 0.9
        assert not torch.equal(other.flips, many.flips)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    first = sample_crops(ViewSpec(), 30, 40, seed=0, index=0)
    state = torch.get_rng_state()
    second = sample_crops(ViewSpec(), 30, 40, seed=0, index=0)
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(torch.get_rng_state(), state)


def test_keys_of_streams_and_views_differ() -> None:
    keys = [view_keys(0, index, 64, stream) for index in range(20) for stream in (Stream.VIEW_CROPS, Stream.AUGMIX)]
    assert torch.cat(keys).unique().numel() == 20 * 2 * 63


@pytest.mark.parametrize(("flip", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_flip_is_its_probability(flip: float, expected: float) -> None:
    flips = sample_crops(ViewSpec(number=2001, flip=flip), 30, 40, seed=0, index=0).flips
    assert flips.dtype == torch.bool
    assert abs(flips.double().mean() - expected) <= 4 * math.sqrt(expected * (1 - expected) / 2000)


def test_the_plain_view_alone_has_no_random_crop() -> None:
    crops = sample_crops(ViewSpec(number=1), 30, 40, seed=0, index=0)
    assert crops.boxes.shape == (0, 4)
    assert crops.flips.shape == (0,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", 0),
        ("number", -3),
        ("scale", (0.0, 1.0)),
        ("scale", (-0.1, 1.0)),
        ("scale", (0.5, 0.4)),
        ("scale", (0.5, 1.1)),
        ("scale", (math.nan, 1.0)),
        ("ratio", (0.0, 1.0)),
        ("ratio", (2.0, 1.0)),
        ("ratio", (1.0, math.nan)),
        ("ratio", (1.0, math.inf)),
        ("flip", -0.1),
        ("flip", 1.1),
        ("flip", math.nan),
        ("augmix_severity", 0),
        ("augmix_severity", 11),
    ],
)
def test_values_that_make_no_views_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^views\.{key} .*{value[1] if isinstance(value, tuple) else value}"):
        ViewSpec(**{key: value})


@pytest.mark.parametrize(
    "values",
    [
        {"number": 1},
        {"scale": (1.0, 1.0)},
        {"ratio": (1.0, 1.0)},
        {"flip": 0.0},
        {"flip": 1.0},
        {"augmix_severity": 1},
        {"augmix_severity": 10},
    ],
)
def test_values_at_the_border_are_taken(values: dict[str, Any]) -> None:
    crops = sample_crops(ViewSpec(**values), 30, 40, seed=0, index=0)
    assert len(crops.boxes) == values.get("number", 64) - 1
