"""Views as pixels, on the CPU: sampled parameters applied to a PIL image with torchvision.

The image stays 8-bit throughout, as in the authors' loaders: PIL resamples with antialiasing and rounds; it is
normalised later, where the model is.
"""

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from lorattt.views.augmix import augmix, sample_augmix
from lorattt.views.crops import ViewSpec, sample_crops
from lorattt.views.plain import PlainView


@dataclass(frozen=True)
class Views:
    """Makes the V views of one image; a picklable callable for loader workers.

    Args:
        spec: Number of views and how they are cut.
        size: Side of a view, in pixels.
        seed: The run's seed.
        plain: How view 0 is made: by the model's own preprocessing. The others are the papers' crops, bilinear.
    """

    spec: ViewSpec
    size: int
    seed: int = 0
    plain: PlainView = field(default_factory=PlainView)

    def __call__(self, image: Image.Image, index: int) -> Tensor:
        """``(V, 3, size, size)`` uint8 views of an RGB image, the sample of that dataset-wide number."""
        views = [F.pil_to_tensor(self.plain_view(image))]
        crops = sample_crops(self.spec, image.height, image.width, seed=self.seed, index=index)
        mixes = sample_augmix(self.spec, seed=self.seed, index=index) if self.spec.augmix else None
        for number, (box, flip) in enumerate(zip(crops.boxes.tolist(), crops.flips.tolist(), strict=True)):
            top, left, height, width = box
            view = F.resized_crop(image, top, left, height, width, [self.size, self.size])
            if flip:
                view = F.horizontal_flip(view)
            if mixes is None:
                views.append(F.pil_to_tensor(view))
            else:
                views.append(augmix(view, mixes[number], self.spec.augmix_severity))
        return torch.stack(views)

    def plain_view(self, image: Image.Image) -> Image.Image:
        """View 0: the image as the model saw images in its own evaluation."""
        shape = self.plain.resized(image.height, image.width, self.size)
        view = F.resize(image, list(shape), interpolation=InterpolationMode(self.plain.interpolation))
        if border := self.plain.border(image.height, image.width, self.size):
            view = F.pad(view, list(border), fill=self.plain.fill_color)
        cropped: Image.Image = F.center_crop(view, [self.size, self.size])
        return cropped
