"""Banded resampling against Pillow on bytes."""

import io

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from lorattt.views.crops import Interpolation, PlainView, ResizeMode, ViewSpec, sample_crops
from lorattt.views.resample import band, crop_spans, most_taps, plain_spans, resample, rows_go_first

SIZE = 32
KERNELS: list[Interpolation] = ["bilinear", "bicubic"]
# Height, width: as photos are, small, strips, one pixel, exactly a view, about a view.
SIZES = [(375, 500), (500, 375), (60, 97), (11, 20), (7, 5), (1, 1), (90, 1), (1, 90), (32, 32), (31, 33)]


def photo(height: int, width: int) -> Tensor:
    """``(3, H, W)`` uint8: smooth noise and a hard edge, through JPEG."""
    generator = torch.Generator().manual_seed(1000 * height + width)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    pixels = 200 * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)
    pixels[:, height // 3 : height // 2 + 1, width // 3 :] += 55
    pixels += 12 * torch.rand(3, height, width, generator=generator) - 6
    image = Image.fromarray(pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def cuts(height: int, width: int, number: int = 12) -> tuple[list[list[int]], list[bool], Tensor]:
    """Boxes and flips as drawn, and some that are seldom drawn: the whole image, a pixel, a line."""
    drawn = sample_crops(ViewSpec(number=number), height, width, seed=1, index=2)
    rare = [
        [0, 0, height, width],
        [height - 1, width - 1, 1, 1],
        [height // 2, 0, 1, width],
        [0, width // 2, height, 1],
    ]
    boxes = torch.cat([drawn.boxes, torch.tensor(rare)])
    flips = torch.cat([drawn.flips, torch.tensor([False, True, True, False])])
    return boxes.tolist(), flips.tolist(), crop_spans(boxes, flips, SIZE)


def from_pillow(image: Tensor, box: list[int], flip: bool, kernel: Interpolation) -> Tensor:
    top, left, height, width = box
    cut = F.resized_crop(F.to_pil_image(image), top, left, height, width, [SIZE, SIZE], InterpolationMode(kernel))
    pixels: Tensor = F.pil_to_tensor(cut)
    return pixels.flip(-1) if flip else pixels


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bytes_are_pillows(height: int, width: int, kernel: Interpolation) -> None:
    image = photo(height, width)
    boxes, flips, spans = cuts(height, width)
    taps = most_taps(spans, kernel)
    views = resample(image, spans, SIZE, kernel, taps)
    turned = resample(image, spans, SIZE, kernel, taps, rows_first=True)
    order = rows_go_first(spans)
    for number, (box, flip) in enumerate(zip(boxes, flips, strict=True)):
        expected = from_pillow(image, box, flip, kernel)
        ours, other = (turned, views) if order[number] else (views, turned)
        assert torch.equal(ours[number], expected)
        # The other order rounds elsewhere, and nothing more; beyond black and white, it also clips elsewhere.
        if kernel == "bilinear":
            assert (other[number].int() - expected.int()).abs().max() <= 1


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older versions know one order")
def test_both_orders_occur_among_the_crops_of_a_photo() -> None:
    spans = crop_spans(
        sample_crops(ViewSpec(number=200), 375, 500, seed=1, index=2).boxes, torch.zeros(199).bool(), 224
    )
    assert 0 < rows_go_first(spans).float().mean() < 0.5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [32, 31])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (33, 500), (500, 33), (34, 33), (200, 67), (67, 201)])
def test_the_plain_view_is_resized_and_cut_as_torchvision_does(
    height: int, width: int, size: int, kernel: Interpolation
) -> None:
    image = F.to_pil_image(photo(height, width))
    shapes: list[tuple[ResizeMode, list[int]]] = [("shortest", [size]), ("squash", [size, size])]
    for mode, shape in shapes:
        spans = plain_spans(height, width, size, PlainView(mode))
        whole = F.resize(image, shape, InterpolationMode(kernel))
        expected = F.pil_to_tensor(F.center_crop(whole, [size, size]))
        taps = most_taps(spans, kernel)
        order = bool(rows_go_first(spans))
        view = resample(F.pil_to_tensor(image), spans, size, kernel, taps, rows_first=order)
        assert torch.equal(view[0], expected)


def test_a_crop_knows_nothing_beyond_its_border() -> None:
    image = photo(60, 97)
    spans = crop_spans(torch.tensor([[10, 20, 40, 50]]), torch.tensor([False]), SIZE)
    other = 255 - image
    other[:, 10:50, 20:70] = image[:, 10:50, 20:70]
    for kernel in KERNELS:
        views = [resample(one, spans, SIZE, kernel, most_taps(spans, kernel)) for one in (image, other)]
        assert torch.equal(*views)


def test_weights_are_few_and_sum_to_one() -> None:
    spans = cuts(375, 500)[2].flatten(0, 1)
    for kernel, reach in (("bilinear", 1), ("bicubic", 2)):
        taps = most_taps(spans, kernel)
        assert taps == -(-2 * reach * 500 // SIZE)
        index, weight = band(spans, SIZE, kernel, taps)
        assert (weight == (weight * 2**22).round() / 2**22).all()
        assert (weight.sum(-1) - 1).abs().max() <= taps / 2**23
        wider = band(spans, SIZE, kernel, taps + 3)
        assert (wider[1][..., taps:] == 0).all()
        torch.testing.assert_close(wider[1][..., :taps], weight, rtol=0, atol=2**-22)
        start, end = spans[:, 0, None, None], spans[:, :2].sum(1)[:, None, None]
        assert ((index >= start) & (index < end)).all()


def test_mirrored_views_are_the_others_backwards() -> None:
    image = photo(60, 97)
    boxes = torch.tensor([[3, 5, 50, 71], [0, 0, 8, 9]])
    straight, mirrored = (crop_spans(boxes, torch.full((2,), flip), SIZE) for flip in (False, True))
    for rows_first in (False, True):
        one, other = (
            resample(image, spans, SIZE, "bilinear", most_taps(spans, "bilinear"), rows_first=rows_first)
            for spans in (straight, mirrored)
        )
        assert torch.equal(one.flip(-1), other)


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, Tensor):
                self.bytes = max(self.bytes, one.numel() * one.element_size())
        return result


def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(300, 500)
    _, _, spans = cuts(300, 500, number=21)
    taps = most_taps(spans, "bilinear")
    with Largest() as free:
        expected = resample(image, spans, SIZE, "bilinear", taps)
    monkeypatch.setattr("lorattt.views.resample._MEMORY", 2**21)
    with Largest() as bound:
        views = resample(image, spans, SIZE, "bilinear", taps)
    assert torch.equal(views, expected)
    assert free.bytes > 2**21
    # The views themselves, and the image as it came, are what they are.
    assert bound.bytes <= max(2**21, image.numel())
    image, spans = photo(20, 31), cuts(20, 31, number=3)[2]
    for rows_first in (False, True):
        monkeypatch.setattr("lorattt.views.resample._MEMORY", 2**30)
        most = resample(image, spans, SIZE, "bilinear", taps, rows_first=rows_first)
        monkeypatch.setattr("lorattt.views.resample._MEMORY", 1)
        assert torch.equal(resample(image, spans, SIZE, "bilinear", taps, rows_first=rows_first), most)


def test_reduced_precision_of_matrix_products_cannot_get_in() -> None:
    image = photo(60, 97)
    _, _, spans = cuts(60, 97)
    taps = most_taps(spans, "bilinear")
    expected = resample(image, spans, SIZE, "bilinear", taps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample(image, spans, SIZE, "bilinear", taps), expected)


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4).byte(), torch.zeros(4, 4).byte(), torch.zeros(3, 0, 4).byte()]
)
def test_what_is_no_image_is_refused(image: Tensor) -> None:
    spans = crop_spans(torch.tensor([[0, 0, 1, 1]]), torch.tensor([False]), SIZE)
    with pytest.raises(ValueError, match=r"\(3, H, W\) uint8"):
        resample(image, spans, SIZE, "bilinear", 2)
