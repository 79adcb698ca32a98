"""Views made of a batch against those that a CPU worker makes of each image."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lorattt.views.crops import Interpolation, PlainView, ResizeMode, ViewSpec, sample_crops
from lorattt.views.device import DeviceViews, Normalization, ViewPlan
from lorattt.views.render import Views
from lorattt.views.resample import crop_spans

SIZE = 32
SIZES = [(37, 50), (113, 85), (64, 64), (7, 5), (1, 1), (90, 1), (1, 90), (32, 32), (150, 40)]
INDEX = [5, 0, 7, 123456, 3, 9, 10, 11, 4]


def photo(height: int, width: int, grey: bool = False) -> Image.Image:
    """Smooth noise and a hard edge, through JPEG."""
    generator = torch.Generator().manual_seed(1000 * height + width)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    pixels = 200 * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)
    pixels[:, height // 3 : height // 2 + 1, width // 3 :] += 55
    image = Image.fromarray(pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    (image.convert("L") if grey else image).save(file, "JPEG", quality=90)
    return Image.open(file).convert("RGB")


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def planned(device: DeviceViews) -> ViewPlan:
    return ViewPlan.join([device.plan(*size, index) for size, index in zip(SIZES, INDEX, strict=True)])


def made_by(device: DeviceViews, images: list[Tensor], index: list[int], where: str = "cpu") -> Tensor:
    plans = [device.plan(*image.shape[1:], number) for image, number in zip(images, index, strict=True)]
    return device.render(images, ViewPlan.join(plans).to(where))


MODES: tuple[ResizeMode, ...] = ("shortest", "longest", "squash")
FILTERS: tuple[Interpolation, ...] = ("bicubic", "bilinear")
PLAIN = [PlainView(mode, kernel, fill_color=90) for mode in MODES for kernel in FILTERS]
PHOTOS = [photo(*size, grey=size == (64, 64)) for size in SIZES]
IMAGES = [tensor(image) for image in PHOTOS]


@pytest.mark.parametrize("augmix", [False, True])
@pytest.mark.parametrize("plain", PLAIN, ids=str)
def test_views_are_those_of_the_cpu_byte_for_byte(plain: PlainView, augmix: bool) -> None:
    spec = ViewSpec(number=24, augmix=augmix, augmix_severity=3)
    views = Views(spec, SIZE, seed=3, plain=plain)
    made = made_by(DeviceViews(views), IMAGES, INDEX)
    assert made.dtype == torch.uint8
    assert made.shape == (len(IMAGES), 24, 3, SIZE, SIZE)
    for ours, image, index in zip(made, PHOTOS, INDEX, strict=True):
        assert torch.equal(ours, views(image, index))


def test_a_view_of_the_usual_size() -> None:
    views = Views(ViewSpec(number=6), 224, seed=1)
    image = photo(375, 500)
    assert torch.equal(made_by(DeviceViews(views), [tensor(image)], [8])[0], views(image, 8))


@pytest.mark.parametrize("augmix", [False, True])
def test_an_image_does_not_depend_on_its_batch(augmix: bool) -> None:
    device = DeviceViews(Views(ViewSpec(number=7, augmix=augmix), SIZE))
    together = made_by(device, IMAGES, INDEX)
    backwards = made_by(device, IMAGES[::-1], INDEX[::-1])
    assert torch.equal(together, backwards.flip(0))
    for image, index, views in zip(IMAGES, INDEX, together, strict=True):
        assert torch.equal(made_by(device, [image], [index])[0], views)


def test_parameters_are_those_that_the_cpu_draws() -> None:
    spec = ViewSpec(number=40, flip=0.3, scale=(0.2, 0.7))
    plan = planned(DeviceViews(Views(spec, SIZE, seed=9)))
    for spans, (height, width), index in zip(plan.spans, SIZES, INDEX, strict=True):
        drawn = sample_crops(spec, height, width, seed=9, index=index)
        assert torch.equal(spans[:, 1:], crop_spans(drawn.boxes, drawn.flips, SIZE))
    # Each view belongs to one group.
    assert torch.equal(plan.places.sort(dim=1).values, torch.arange(40).expand(len(SIZES), 40))
    for cuts in plan.cuts:
        assert [cut.first for cut in cuts] == [0, *(cut.end for cut in cuts[:-1])]
        assert cuts[-1].end == 40


@pytest.mark.parametrize("augmix", [False, True])
def test_memory_changes_nothing(augmix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    views = Views(ViewSpec(number=9, augmix=augmix), SIZE)
    images, index = IMAGES[3:], INDEX[3:]
    expected = made_by(DeviceViews(views), images, index)
    for memory in (1, 10**6):
        for module in ("resample", "device_augmix"):
            monkeypatch.setattr(f"lorattt.views.{module}._MEMORY", memory)
        assert torch.equal(made_by(DeviceViews(views), images, index), expected)


@pytest.mark.parametrize("augmix", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plain", [PlainView(), PlainView("longest", "bilinear", 90)], ids=str)
def test_normalised_floats_are_the_bytes_normalised(plain: PlainView, dtype: torch.dtype, augmix: bool) -> None:
    device = DeviceViews(Views(ViewSpec(number=4, augmix=augmix), SIZE, plain=plain))
    plan = planned(device)
    mean, std = torch.tensor([0.48, 0.46, 0.41]).view(3, 1, 1), torch.tensor([0.27, 0.26, 0.28]).view(3, 1, 1)
    made = device.render(IMAGES, plan, Normalization(mean, std, dtype))
    assert made.dtype == dtype
    expected = ((device.render(IMAGES, plan).float() / 255 - mean) / std).to(dtype)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("augmix", [False, True])
def test_the_plain_view_alone(augmix: bool) -> None:
    views = Views(ViewSpec(number=1, augmix=augmix), SIZE)
    assert torch.equal(made_by(DeviceViews(views), IMAGES[:1], [0])[0], views(PHOTOS[0], 0))


def test_the_plan_travels_from_workers() -> None:
    device = DeviceViews(Views(ViewSpec(number=5, augmix=True), SIZE))
    plan = planned(device)
    copy = pickle.loads(pickle.dumps(plan))
    assert torch.equal(device.render(IMAGES, copy), device.render(IMAGES, plan))


@pytest.mark.parametrize("augmix", [False, True])
def test_a_part_of_a_plan_is_the_plan_of_a_part(augmix: bool) -> None:
    device = DeviceViews(Views(ViewSpec(number=4, augmix=augmix), SIZE))
    plan = planned(device)
    whole = device.render(IMAGES, plan)
    for first, end in ((0, 3), (2, 3), (4, 9)):
        assert torch.equal(device.render(IMAGES[first:end], plan.part(first, end)), whole[first:end])


def test_what_does_not_fit_is_refused() -> None:
    device = DeviceViews(Views(ViewSpec(number=3, augmix=True), SIZE))
    plan = planned(device)
    with pytest.raises(ValueError, match="other sizes"):
        device.render(IMAGES[::-1], plan)
    with pytest.raises(ValueError, match="other sizes"):
        device.render(IMAGES[:-1], plan)


@pytest.mark.parametrize("augmix", [False, True])
@pytest.mark.parametrize("plain", [PlainView(), PlainView("longest")], ids=str)
def test_nothing_is_read_back_from_the_device(plain: PlainView, augmix: bool) -> None:
    # A meta tensor has no values: whoever asks for one, and would wait for a GPU, fails.
    device = DeviceViews(Views(ViewSpec(number=9, augmix=augmix), SIZE, plain=plain))
    plan = planned(device).to("meta")
    assert device.render(IMAGES, plan).shape == (len(IMAGES), 9, 3, SIZE, SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augmix", [False, True])
@pytest.mark.parametrize("plain", [PlainView(), PlainView("longest", "bilinear", 90)], ids=str)
def test_a_gpu_makes_the_same_bytes(plain: PlainView, augmix: bool) -> None:
    device = DeviceViews(Views(ViewSpec(number=24, augmix=augmix), SIZE, plain=plain))
    made = made_by(device, IMAGES, INDEX, "cuda")
    assert made.is_cuda
    assert torch.equal(made.cpu(), made_by(device, IMAGES, INDEX))
