"""The plain view against open_clip's own transform, on the CPU and on a device."""

import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lorattt.views.crops import Interpolation, PlainView, ResizeMode, ViewSpec
from lorattt.views.device import DeviceViews
from lorattt.views.render import Views

MODES: tuple[ResizeMode, ...] = ("shortest", "longest", "squash")
FILTERS: tuple[Interpolation, ...] = ("bicubic", "bilinear")
# Width, height: landscape, portrait, square, odd and even margins, smaller than a view, a view, thin, large.
SIZES = [(97, 60), (60, 97), (64, 64), (101, 99), (45, 17), (5, 7), (1, 1), (32, 32), (33, 31), (150, 11), (611, 400)]


def picture(width: int, height: int) -> Image.Image:
    generator = torch.Generator().manual_seed(width * 1000 + height)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(pixels.numpy())


def open_clips(image: Image.Image, plain: PlainView, size: int) -> Tensor:
    """Bytes of open_clip's transform: without mean and deviation, it ends in bytes over 255."""
    transform = open_clip.image_transform(
        size,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=plain.resize_mode,
        interpolation=plain.interpolation,
        fill_color=plain.fill_color,
    )
    pixels: Tensor = transform(image) * 255
    return pixels.round().to(torch.uint8)


def on_device(views: Views, image: Image.Image) -> Tensor:
    """The plain view as it is made of tensors."""
    device = DeviceViews(views)
    return device.render([F.pil_to_tensor(image)], device.plan(image.height, image.width, 0))[0, 0]


@pytest.mark.parametrize("size", [32, 31])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_open_clips(mode: ResizeMode, interpolation: Interpolation, width: int, height: int, size: int) -> None:
    image = picture(width, height)
    for fill in (0, 123):
        plain = PlainView(mode, interpolation, fill)
        views = Views(ViewSpec(number=2), size, plain=plain)
        expected = open_clips(image, plain, size)
        assert torch.equal(views(image, 0)[0], expected)
        assert torch.equal(on_device(views, image), expected)


def test_the_settings_differ() -> None:
    """So the test above compares each with its own."""
    image = picture(97, 60)
    plains = [PlainView(mode, kernel) for mode in MODES for kernel in FILTERS] + [PlainView("longest", fill_color=9)]
    views = torch.stack([Views(ViewSpec(number=1), 32, plain=plain)(image, 0)[0] for plain in plains])
    assert len(views.flatten(1).unique(dim=0)) == len(plains)


@pytest.mark.parametrize(("width", "height"), [(1, 500), (500, 1), (3, 1000)])
def test_a_line_of_pixels_is_kept(width: int, height: int) -> None:
    """Its shorter side would be rounded to nothing, where open_clip fails."""
    image = Image.new("RGB", (width, height), (200, 150, 100))
    views = Views(ViewSpec(number=1), 32, plain=PlainView("longest", fill_color=7))
    view = views(image, 0)[0]
    shown = view[:, :, 15] if height > width else view[:, 15]
    assert torch.equal(shown, torch.tensor([[200], [150], [100]], dtype=torch.uint8).expand(3, 32))
    assert (view == 7).sum() == 3 * 32 * 31
    assert torch.equal(on_device(views, image), view)


@pytest.mark.parametrize("plain", [PlainView("squash", "bilinear"), PlainView("longest")], ids=str)
def test_random_crops_are_the_papers_whatever_the_plain_view(plain: PlainView) -> None:
    image = picture(97, 60)
    own, others = (Views(ViewSpec(number=6), 32, seed=4, plain=each)(image, 3) for each in (PlainView(), plain))
    assert not torch.equal(own[0], others[0])
    assert torch.equal(own[1:], others[1:])
