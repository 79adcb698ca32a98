"""Corrupted images in the style of ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261).

What differs from the published files: they are JPEG files of quality 85, ours are not compressed again; random draws
are ours; values are rounded, not cut off, to 8 bits; glass blur swaps pixels as the paper says, where numpy made the
published program copy them. ``frost`` overlays photographs that lorattt cannot ship and is left out, and so is the
extra corruption ``spatter``: for these two, and for numbers to be compared with published ones, use the published
files.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from lorattt.data.corruption_ops import OPERATIONS, to_array, to_image
from lorattt.data.source import ImageSource, WrappedImages
from lorattt.errors import UserError, quoted
from lorattt.inputs import did_you_mean
from lorattt.rng import Stream, episode_keys, fold

NAMES: Final[tuple[str, ...]] = tuple(OPERATIONS)
"""The paper's fifteen corruptions without frost, then three for validation, which its means do not count."""
SIDE: Final = 224
"""Side in pixels for which the constants were published."""
_MISSING: Final[dict[str, str]] = {
    "frost": "needs photographs of frost that lorattt does not ship",
    "spatter": "is not built in",
}


@dataclass(frozen=True)
class CorruptionSpec:
    """One corruption at one strength.

    Attributes:
        name: One of :data:`NAMES`.
        severity: 1 to 5.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        if self.name in _MISSING:
            why = f"corruption {quoted(self.name)} {_MISSING[self.name]}"
            raise UserError(f"{why}: read ImageNet-C's own files as a folder of images, or use another")
        if self.name not in NAMES:
            hint = did_you_mean(self.name, NAMES, f"use one of {', '.join(NAMES)}")
            raise UserError(f"no corruption is named {quoted(self.name)}; {hint}")
        if self.severity not in range(1, 6):
            raise UserError(f"corruption {self.name}: severity {quoted(self.severity)} must be 1, 2, 3, 4 or 5")


def corrupt(image: Image.Image, spec: CorruptionSpec, key: int) -> Image.Image:
    """Corrupt an RGB image as it is; the result has its size. With one release of numpy, it depends on nothing else.

    Lengths among the constants (blur radii, streaks, flakes of snow) are pixels, published for images of 224 x 224;
    they are not scaled, so a larger image is blurred less in proportion. Pixelation, zoom blur, fog and the elastic
    transform are in proportion to the size. :class:`CorruptedImages` brings images to 224 x 224 first.

    ``key`` is that of all random draws; make it of a seed and the image's dataset-wide number. The corruptions and
    severities of one key share their draws as far as they draw alike.
    """
    if image.mode != "RGB":
        raise ValueError(f"corrupt takes RGB images, not {image.mode}")
    operation, constants = OPERATIONS[spec.name]
    rng = np.random.Generator(np.random.Philox(key=key % 2**64))
    return to_image(operation(to_array(image), rng, *constants[spec.severity - 1]))


class CorruptedImages(WrappedImages):
    """A source with every image resized and cut to 224 x 224, as ImageNet-C's were, and corrupted when it is read.

    An image's random draws depend on ``seed`` and its number alone.
    """

    def __init__(self, source: ImageSource, spec: CorruptionSpec, seed: int) -> None:
        super().__init__(source)
        self._spec, self._seed = spec, seed
        self.name = f"{source.name} ({spec.name} {spec.severity})"

    def read(self, index: int) -> Image.Image:
        """The corrupted image, RGB, 224 x 224."""
        # The shorter side resized to 256, then the middle square of 224, as in ImageNet-C.
        resized = resize(self.source.read(index), [256], interpolation=InterpolationMode.BILINEAR)
        key = fold(episode_keys(self._seed, torch.tensor([index])), Stream.CORRUPTIONS)
        return corrupt(center_crop(resized, [SIDE, SIDE]), self._spec, int(key))
