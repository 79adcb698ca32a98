"""Rendered views against torchvision's own transforms on PIL images, bit for bit."""

import pickle

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V1

from lorattt.views.augmix import augmix, sample_augmix
from lorattt.views.crops import PlainView, ViewSpec, sample_crops
from lorattt.views.render import Views

SIZE = 32
# Width, height: landscape, portrait, square, smaller than a view, strips, just above and below.
SIZES = [(97, 60), (60, 97), (64, 64), (20, 11), (5, 7), (1, 1), (1, 90), (90, 1), (32, 32), (33, 31), (300, 211)]


def picture(width: int, height: int) -> Image.Image:
    generator = torch.Generator().manual_seed(width * 1000 + height)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(pixels.numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_view_0_is_torchvisions_resize_and_centre_crop(width: int, height: int) -> None:
    image = picture(width, height)
    reference = transforms.Compose([transforms.Resize(SIZE, InterpolationMode.BICUBIC), transforms.CenterCrop(SIZE)])
    views = Views(ViewSpec(number=1), SIZE)(image, 0)
    assert views.dtype == torch.uint8
    assert views.shape == (1, 3, SIZE, SIZE)
    assert torch.equal(views[0], tensor(reference(image)))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_squash_keeps_the_whole_image(width: int, height: int) -> None:
    image = picture(width, height)
    view = Views(ViewSpec(number=1), SIZE, plain=PlainView("squash"))(image, 0)[0]
    assert torch.equal(view, tensor(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_other_views_are_torchvisions_resized_crops(width: int, height: int) -> None:
    image, spec = picture(width, height), ViewSpec(number=9)
    views = Views(spec, SIZE, seed=2)(image, 5)
    crops = sample_crops(spec, height, width, seed=2, index=5)
    assert crops.flips.unique().numel() == 2
    for view, (top, left, h, w), flip in zip(views[1:], crops.boxes.tolist(), crops.flips.tolist(), strict=True):
        expected = V1.resized_crop(image, top, left, h, w, [SIZE, SIZE], InterpolationMode.BILINEAR)
        assert torch.equal(view, tensor(V1.hflip(expected) if flip else expected))


@pytest.mark.parametrize("augmixed", [False, True])
def test_a_view_depends_on_seed_sample_and_number_alone(augmixed: bool) -> None:
    image = picture(97, 60)
    views = Views(ViewSpec(number=12, augmix=augmixed), SIZE, seed=2)(image, 5)
    assert torch.equal(Views(ViewSpec(number=4, augmix=augmixed), SIZE, seed=2)(image, 5), views[:4])
    assert len(views.flatten(1).unique(dim=0)) == 12
    for seed, index in ((3, 5), (2, 6)):
        other = Views(ViewSpec(number=12, augmix=augmixed), SIZE, seed=seed)(image, index)
        assert torch.equal(other[0], views[0])
        assert (other != views).flatten(1).any(dim=1).tolist() == [False] + [True] * 11


def test_augmix_mixes_the_crops_and_leaves_the_plain_view() -> None:
    image = picture(97, 60)
    spec = ViewSpec(number=6, augmix=True, augmix_severity=3)
    plain = Views(ViewSpec(number=6), SIZE, seed=2)(image, 5)
    views = Views(spec, SIZE, seed=2)(image, 5)
    assert torch.equal(views[0], plain[0])
    for view, crop, params in zip(views[1:], plain[1:], sample_augmix(spec, seed=2, index=5), strict=True):
        assert torch.equal(view, augmix(Image.fromarray(crop.permute(1, 2, 0).numpy()), params, 3))


def test_the_image_is_left_as_it_was() -> None:
    image = picture(97, 60)
    before = image.tobytes()
    Views(ViewSpec(number=6, augmix=True, augmix_severity=10), SIZE)(image, 0)
    assert image.tobytes() == before


def test_the_transform_travels_to_worker_processes() -> None:
    transform, image = Views(ViewSpec(number=3, augmix=True), SIZE, seed=1, plain=PlainView("squash")), picture(40, 30)
    copy = pickle.loads(pickle.dumps(transform))
    assert torch.equal(copy(image, 4), transform(image, 4))
