"""Images whose numbers are not 8-bit: which number is black and which is white, by what the file states."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as tiff

_SMALLEST, _LARGEST = 340, 341  # SMinSampleValue and SMaxSampleValue
_UNSIGNED, _SIGNED = 1, 2  # values of SampleFormat
_WHITE_IS_ZERO, _UNCOMPRESSED, _SEPARATE_PLANES = 0, 1, 2
_SIXTEEN_BITS = 65535
_ROWS = 256  # converted at a time: the numbers of a whole image in 64 bits would be eight times its size


class Levels(NamedTuple):
    """How the numbers of a grey image become brightness."""

    black: float
    white: float | None  # None where nothing states it
    kind: type[np.generic] | None = None  # of the file's numbers, where Pillow gives their bytes as another one


def stated_levels(image: Image.Image) -> Levels | None:
    """The levels of an image as it was opened; None where Pillow's own conversion to 8 bits is right.

    The range is that of the depth up to 16 bits, 0 to its largest number, signed or not. Numbers of 32 bits hardly
    ever fill their range, so a TIFF has to state theirs (SMaxSampleValue); floating-point numbers are from 0 to 1
    unless it does. Raises ``ValueError`` for a TIFF whose numbers Pillow reads wrongly.
    """
    if isinstance(image, tiff.TiffImageFile):
        return _tiff_levels(image)
    if image.mode == "F":
        return Levels(0, 1)
    if image.mode.startswith("I;16"):
        return Levels(0, _SIXTEEN_BITS)
    if image.mode == "I":  # 16-bit files in older versions of Pillow, or numbers that a program has put together
        return Levels(0, _SIXTEEN_BITS if image.format in ("PNG", "PPM") else None)
    return None


def _tiff_levels(image: tiff.TiffImageFile) -> Levels | None:
    bits, signed = _first(image, tiff.BITSPERSAMPLE, 1), _first(image, tiff.SAMPLEFORMAT, _UNSIGNED) == _SIGNED
    _check_reading(image, bits)
    kind: type[np.generic] | None = None
    if image.mode == "F":
        black, white = 0, 1
    elif image.mode == "I" and bits == 32:
        black, white, kind = 0, None, np.int32 if signed else np.uint32
    elif image.mode.startswith("I"):
        black, white = 0, 2 ** (bits - signed) - 1
    elif image.mode == "L" and signed:
        black, white, kind = 0, 127, np.int8
    else:
        return None
    largest = _first(image, _LARGEST, None)
    if largest is not None and (image.mode == "F" or signed or bits == 32):
        black, white = _first(image, _SMALLEST, 0), largest
    if _first(image, tiff.PHOTOMETRIC_INTERPRETATION, 1) == _WHITE_IS_ZERO and white is not None:
        black, white = white, black  # Pillow turns 8-bit images over, and no others
    return Levels(black, white, kind)


def _check_reading(image: tiff.TiffImageFile, bits: int) -> None:
    """Reject TIFFs that Pillow decodes into noise."""
    compressed = _first(image, tiff.COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED
    if compressed and image.tag_v2.prefix == b"MM" and image.mode in ("I", "F"):
        raise ValueError("a compressed big-endian TIFF of such numbers cannot be read: convert it to 8 or 16 bit")
    planes = len(image.getbands()) > 1 and _first(image, tiff.PLANAR_CONFIGURATION, 1) == _SEPARATE_PLANES
    if planes and bits == 16 and not compressed:
        raise ValueError("a TIFF with planes of 16 bits cannot be read: convert it to 8 bit, or store pixels together")


def _first(image: tiff.TiffImageFile, tag: int, default: float | None) -> Any:
    """The number that a tag holds, that of the first sample where each has its own."""
    value = image.tag_v2.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, Real) else default


def to_grey(image: Image.Image, levels: Levels) -> Image.Image:
    """An image of one channel as 8-bit grey, black 0 and white 255; whole numbers are rounded down.

    Raises ``ValueError`` if numbers are not finite or lie outside the range, or white is not known.
    """
    black, white, kind = levels
    values = np.asarray(image) if kind is None else np.asarray(image).view(kind)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its numbers are not finite: convert it to 8 or 16 bit")
    numbers = f"its numbers run from {low:.10g} to {high:.10g}"
    if white is None or white == black or not np.isfinite(white - black):
        raise ValueError(f"{numbers} and nothing states which one is white: convert it to 8 or 16 bit")
    if low < min(black, white) or high > max(black, white):
        stated = f"{black:.10g} is black and {white:.10g} is white"
        raise ValueError(f"{numbers}, where {stated}: convert it to 8 or 16 bit")
    grey = np.empty(values.shape, dtype=np.uint8)
    spread: Any = white - black
    for top in range(0, len(values), _ROWS):
        rows = values[top : top + _ROWS]
        if image.mode == "F":
            grey[top : top + _ROWS] = np.rint((rows.astype(np.float64) - black) * 255 / spread)
        else:
            grey[top : top + _ROWS] = (rows.astype(np.int64) - black) * 255 // spread
    return Image.fromarray(grey)
