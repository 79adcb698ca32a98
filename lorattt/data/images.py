"""Read any image file as 8-bit RGB, upright."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow reads many more formats; these are the endings by which an image is recognised in a folder.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class UnreadableImageError(Exception):
    """An image file that cannot be decoded; the message says why, without the path."""


def read_image(path: Path) -> Image.Image:
    """Decode an image file.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparency is dropped, as in the loaders of
    the papers; the EXIF orientation is applied.

    Raises:
        UnreadableImageError: If it is missing, empty, truncated, no image, or larger than Pillow's limit
            for decompression bombs (178,956,970 pixels).
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from half its limit on: those images are read here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is no image of a known format") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # An error of the operating system names the path in its text, and the reason alone in ``strerror``.
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableImageError(reason) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey ("I;16", or "I" for 16-bit PNGs): Pillow's own conversion clips at 255.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        # Float TIFFs: unit range if nothing is above 1, else 8-bit range.
        floats = np.nan_to_num(np.asarray(image, dtype=np.float64))
        floats = floats * (255 if floats.max(initial=0) <= 1 else 1)
        return Image.fromarray(floats.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # else Pillow warns
        image = image.convert("RGBA")
    return image.convert("RGB")
