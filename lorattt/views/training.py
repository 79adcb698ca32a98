"""The view that a prompt or a model is fitted on: one random crop of an image, another in every epoch."""

from dataclasses import dataclass
from typing import get_args

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from lorattt.errors import UserError, quoted
from lorattt.rng import Stream, episode_keys, fold
from lorattt.views.crops import ViewSpec, sample_crops
from lorattt.views.plain import Interpolation


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
    """Makes the training view of one image; a picklable callable for loader workers.

    Args:
        spec: How the image is cut.
        size: Side of the view, in pixels.
        seed: The run's seed.
    """

    spec: TrainingCrop
    size: int
    seed: int = 0

    def __call__(self, image: Image.Image, index: int, epoch: int) -> Tensor:
        """Cut an RGB image, the sample of that dataset-wide number, in an epoch counted from 0.

        Returns:
            ``(1, 3, size, size)`` uint8, a function of (seed, index, epoch).
        """
        # The sample's own key stands for the seed, and the epoch for the sample.
        key = int(fold(episode_keys(self.seed, torch.tensor([index])), Stream.TRAINING_CROPS))
        crops = sample_crops(self.spec.as_views(), image.height, image.width, seed=key, index=epoch)
        top, left, height, width = crops.boxes[0].tolist()
        view = F.resized_crop(
            image, top, left, height, width, [self.size, self.size], InterpolationMode(self.spec.interpolation)
        )
        pixels: Tensor = F.pil_to_tensor(F.horizontal_flip(view) if crops.flips[0] else view)
        return pixels[None]
