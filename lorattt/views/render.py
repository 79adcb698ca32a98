"""Views as pixels, on the CPU, for testing and for training: sampled parameters applied to a PIL image.

The image stays 8-bit throughout, as in the authors' loaders: PIL resamples with antialiasing and rounds; it is
normalised later, where the model is.
"""

from dataclasses import dataclass, field
from typing import cast, get_args

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from lorattt.errors import UserError, quoted
from lorattt.rng import Stream, episode_keys, fold
from lorattt.views.augmix import augmix, sample_augmix
from lorattt.views.crops import Interpolation, PlainView, ViewSpec, sample_crops


@dataclass(frozen=True)
class Views:
    """Makes the V views of one image; a picklable callable for loader workers.

    View 0 is made by the model's own preprocessing. The others are the papers' crops, bilinear.
    """

    spec: ViewSpec
    size: int  # side of a view, in pixels
    seed: int = 0
    plain: PlainView = field(default_factory=PlainView)

    def __call__(self, image: Image.Image, index: int) -> Tensor:
        """``(V, 3, size, size)`` uint8 views of an RGB image, the sample of that dataset-wide number."""
        views = [F.pil_to_tensor(self.plain_view(image))]
        crops = sample_crops(self.spec, image.height, image.width, seed=self.seed, index=index)
        mixes = sample_augmix(self.spec, seed=self.seed, index=index) if self.spec.augmix else None
        for number, (box, flip) in enumerate(zip(crops.boxes.tolist(), crops.flips.tolist(), strict=True)):
            view = _crop(image, box, flip, self.size, "bilinear")
            views.append(augmix(view, mixes[number], self.spec.augmix_severity) if mixes else F.pil_to_tensor(view))
        return torch.stack(views)

    def plain_view(self, image: Image.Image) -> Image.Image:
        """View 0: the image as the model saw images in its own evaluation."""
        shape = self.plain.resized(image.height, image.width, self.size)
        view = F.resize(image, list(shape), interpolation=InterpolationMode(self.plain.interpolation))
        if border := self.plain.border(image.height, image.width, self.size):
            view = F.pad(view, list(border), fill=self.plain.fill_color)
        return cast("Image.Image", F.center_crop(view, [self.size, self.size]))


@dataclass(frozen=True)
class TrainingCrop:
    """How an image is cut for training; the defaults are CoOp's.

    Args:
        scale: Smallest and largest area of the crop, as fractions of the image's.
        ratio: Smallest and largest width-to-height ratio of the crop.
        flip: Probability that the crop is mirrored.
        interpolation: How the crop is resized.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        """Check what :class:`ViewSpec` checks, under this class's name."""
        try:
            self.as_views()
        except UserError as error:
            raise UserError(str(error).replace("views.", "crop.", 1)) from None
        if self.interpolation not in get_args(Interpolation):
            raise UserError(
                f"crop.interpolation {quoted(self.interpolation)}: must be {' or '.join(get_args(Interpolation))}"
            )

    def as_views(self) -> ViewSpec:
        """The plain view and this crop, as views at test time."""
        return ViewSpec(number=2, scale=self.scale, ratio=self.ratio, flip=self.flip)


@dataclass(frozen=True)
class TrainingViews:
    """Makes the training view of one image, another random crop in every epoch; otherwise as :class:`Views`."""

    spec: TrainingCrop
    size: int
    seed: int = 0

    def __call__(self, image: Image.Image, index: int, epoch: int) -> Tensor:
        """``(1, 3, size, size)`` uint8 crop of an RGB image: a function of (seed, index, epoch)."""
        # The sample's own key stands for the seed, and the epoch for the sample.
        key = int(fold(episode_keys(self.seed, torch.tensor([index])), Stream.TRAINING_CROPS))
        crops = sample_crops(self.spec.as_views(), image.height, image.width, seed=key, index=epoch)
        box, flip = crops.boxes[0].tolist(), bool(crops.flips[0])
        pixels: Tensor = F.pil_to_tensor(_crop(image, box, flip, self.size, self.spec.interpolation))
        return pixels[None]


def _crop(image: Image.Image, box: list[int], flip: bool, size: int, interpolation: Interpolation) -> Image.Image:
    view = F.resized_crop(image, *box, [size, size], InterpolationMode(interpolation))
    return cast("Image.Image", F.horizontal_flip(view) if flip else view)
