"""Read any image file as 8-bit RGB, upright."""

import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lorattt.data.depth import stated_levels, to_grey
from lorattt.errors import UserError

# The supported formats, recognised by content. No other is tried: PostScript, for one, would start another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
Image.init()  # reads Pillow's table of endings
FORMAT_OF_ENDING = {
    # Cameras' files of several JPEG images; the first one is read.
    ending: "JPEG" if name == "MPO" else name
    for ending, name in sorted(Image.EXTENSION.items())
    if name in (*_FORMATS, "MPO")
}
"""Endings by which an image is recognised in a folder, as Pillow knows them for these formats."""
IMAGE_ENDINGS = tuple(FORMAT_OF_ENDING)
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright

MAX_PIXELS = 100_000_000
"""Width times height up to which an image is decoded by default: reading one takes up to about 1.2 GB."""

# Resized to a model's side, a line of pixels would grow to gigabytes.
_MAX_RATIO = 1000
_PILLOW_LIMIT = 178_956_970  # Pillow itself rejects larger images


class UnreadableImageError(Exception):
    """An image file that cannot be decoded; the message says why, without the path."""


def check_max_pixels(value: int) -> None:
    """Require a limit that Pillow can keep."""
    if not 1 <= value <= _PILLOW_LIMIT:
        raise UserError(f"data.max_pixels {value}: must be from 1 to {_PILLOW_LIMIT}, the most that Pillow decodes")


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file, whose format is recognised by its content.

    Grey, palette, CMYK and deeper images become 8-bit RGB, by the depth that the file states
    (:func:`lorattt.data.depth.stated_levels`); transparency is dropped, as in the loaders of the papers; the EXIF
    orientation is applied. The size in the file's header is checked before anything is decoded, so memory is bounded:
    :class:`UnreadableImageError` for more than ``max_pixels`` (width times height), as for any file that is no image.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a named pipe would be waited for
            raise UnreadableImageError("it is no regular file")
        with warnings.catch_warnings():
            # Pillow warns from half its limit on: those images are read here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Given a name, Pillow maps some files into memory, and mixes up the pixels of TIFFs that are to be turned.
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
                return upright_rgb(image, max_pixels)
    except Image.DecompressionBombError as error:
        for _, found in _opened_as(path):
            if isinstance(found, Image.Image):
                _check_size(found.size, max_pixels)
        raise UnreadableImageError(_reason(error)) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_unidentified(path)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableImageError(_reason(error)) from error


def upright_rgb(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image of any mode, decoded or not yet, as 8-bit RGB with its EXIF orientation applied.

    Raises :class:`UnreadableImageError` as :func:`read_image` does.
    """
    _check_size(image.size, max_pixels)
    try:
        image.load()
        levels = stated_levels(image)  # before it is turned: the turned image has lost what its file states
        if image.getexif().get(_ORIENTATION, 1) != 1:  # else Pillow would make a copy for nothing
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image if levels is None else to_grey(image, levels))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(_reason(error)) from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height == 0:
        raise UnreadableImageError("it has no pixels")
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"it has {width} x {height} pixels, more than data.max_pixels {max_pixels}: "
            "make it smaller or raise that limit"
        )
    if max(size) > _MAX_RATIO * min(size):
        raise UnreadableImageError(f"it has {width} x {height} pixels: one side is over {_MAX_RATIO} times the other")


def _reason(error: Exception) -> str:
    # An error of the operating system names the path in its text, and the reason alone in ``strerror``.
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def _unidentified(path: Path) -> str:
    """Why Pillow does not recognise an image: the format whose signature it has, and the error of its reader."""
    for name, found in _opened_as(path):
        # The reader of PPM takes many texts for its own, and says so.
        if isinstance(found, SyntaxError) and not str(found).startswith("not a"):
            return f"it is a {name} of a kind that cannot be read ({_reason(found)}): convert it to 8 or 16 bit"
    return "it is no image of a known format"


def _opened_as(path: Path) -> Iterator[tuple[str, Image.Image | Exception]]:
    """The image or the error of each format whose signature a file has.

    Tries Pillow's formats one by one, as ``Image.open`` does, which reports neither their errors nor the size of an
    image above its limit. That limit is a global variable, so raising it would affect other threads.
    """
    with path.open("rb") as file:
        prefix = file.read(16)
        for name in _FORMATS:
            factory, accept = Image.OPEN[name]
            try:
                accepted = accept(prefix) if accept else True
                if accepted and not isinstance(accepted, str):  # a text says which decoder is not installed
                    file.seek(0)
                    yield name, factory(file, str(path))
            except (SyntaxError, IndexError, TypeError, struct.error, Image.DecompressionBombError) as error:
                yield name, error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:  # else Pillow warns
        image = image.convert("RGBA")
    if image.mode == "La":  # grey and premultiplied transparency, which Pillow converts to LA alone
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")  # of the same mode, that would be one more copy
