"""Images from a Python call: paths, PIL images, arrays and tensors, numbered in order."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lorattt.data.file_list import UNKNOWN_LABEL, FileList, ListedImages, Sample
from lorattt.data.images import read_image, upright_rgb
from lorattt.data.loose import find_images
from lorattt.errors import UserError, quoted

Pixels: TypeAlias = npt.NDArray[Any]
ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | Tensor | Pixels
_KINDS = "paths, PIL images, arrays or tensors"
_UNIT = "floating-point numbers must be within [0, 1]: give the image unnormalised, and divide what runs to 255 by 255"

# The shapes that are taken, the axis of the channels, and what turns the other layout into this one.
_TENSOR = ("a tensor", "(3, H, W), (1, H, W) or (H, W)", 0, "permute(2, 0, 1)")
_ARRAY = ("an array", "(H, W, 3), (H, W, 1) or (H, W)", -1, "transpose(1, 2, 0)")


class GivenImages(ListedImages):
    """The images of a call, as a source without labels.

    Args:
        images: A list of images, or what :func:`lorattt.data.loose.find_images` takes as one text. A tensor is
            ``(3, H, W)``, ``(1, H, W)`` or ``(H, W)``, on any device; an array is ``(H, W, 3)``, ``(H, W, 1)`` or
            ``(H, W)``. Their numbers are uint8, uint16 of which 65535 is white, bool, or floating-point in ``[0, 1]``.
    """

    def __init__(self, images: Iterable[ImageLike] | str | os.PathLike[str]) -> None:
        # Tensors become arrays here, since loader processes cannot read a GPU's memory.
        self._images = [_checked(image, f"images[{index}]") for index, image in enumerate(_listed(images))]
        names = [self.file(index) or f"images[{index}]" for index in range(len(self._images))]
        super().__init__("images", FileList(Path(), tuple(Sample(name, UNKNOWN_LABEL) for name in names), ()))

    def file(self, index: int) -> str | None:
        """The path as given, for images that are files."""
        image = self._images[index]
        return image if isinstance(image, str) else None

    def read(self, index: int) -> Image.Image:
        """The image, RGB, upright."""
        image = self._images[index]
        if isinstance(image, str):
            return read_image(Path(os.path.expanduser(image)))
        return upright_rgb(Image.fromarray(image) if isinstance(image, np.ndarray) else image)


def _listed(images: Any) -> list[Any]:
    if isinstance(images, str | os.PathLike):
        return find_images(_text(images, "images"), "images")
    if isinstance(images, Image.Image) or (isinstance(images, Tensor | np.ndarray) and 1 < images.ndim < 4):
        raise UserError("images is one image: give a list, such as [image]")
    if isinstance(images, set | frozenset | Mapping):
        raise UserError(f"images is a {type(images).__name__}: give a list, whose order is that of the results")
    try:
        if isinstance(images, bytes | bytearray) or getattr(images, "ndim", 1) not in (1, 4):
            raise TypeError
        return list(images)
    except TypeError:
        raise UserError(f"images: expected a list of {_KINDS}, got {_kind(images)}") from None


def _checked(image: Any, name: str) -> str | Image.Image | Pixels:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        return _of_tensor(image, name)
    if isinstance(image, np.ndarray):
        return _of_array(image, name)
    if isinstance(image, bytes | bytearray):
        raise UserError(f"{name} is {_kind(image)}: give PIL.Image.open(io.BytesIO(...)) of it")
    if not isinstance(image, str | os.PathLike):
        raise UserError(f"{name}: expected one of {_KINDS}, got {_kind(image)}")
    text = _text(image, name)
    path, shown = os.path.expanduser(text), quoted(text).strip("'\"") or name
    if os.path.isdir(path):
        raise UserError(f"{shown} is a folder: name its files, or give this text alone in place of the list")
    if not (os.path.islink(path) or os.path.isfile(path)):
        raise UserError(f"{shown}: no such file; one text alone, in place of the list, may be a folder or a pattern")
    return text


def _text(path: str | os.PathLike[Any], name: str) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise UserError(f"{name}: {quoted(path)} is a path in bytes: give os.fsdecode of it")
    return str.__str__(text)  # also for NumPy's strings


def _of_tensor(image: Tensor, name: str) -> Pixels:
    if image.layout is not torch.strided or image.is_nested or image.device.type == "meta":
        raise UserError(f"{name}: a tensor must be dense and hold numbers; give it as a plain one on the CPU")
    floats = image.is_floating_point()
    _check(image, floats or image.dtype in (torch.uint8, torch.uint16, torch.bool), name)
    if floats:
        image = image.detach().to(torch.float64 if image.dtype == torch.float64 else torch.float32)
    array = image.numpy(force=True)
    return _of_array(np.moveaxis(array, 0, -1) if array.ndim == 3 else array, name)


def _of_array(image: Pixels, name: str) -> Pixels:
    """``(H, W)`` or ``(H, W, 3)`` uint8."""
    kind, size = image.dtype.kind, image.dtype.itemsize
    _check(image, kind in "bf" or (kind == "u" and size <= 2), name)
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if kind == "b":
        return np.asarray(np.where(image, 255, 0), dtype=np.uint8)
    if kind == "u":
        return image if size == 1 else np.asarray(image // 257, dtype=np.uint8)
    if not (image.min() >= 0 and image.max() <= 1):  # false for NaN as well
        raise UserError(f"{name}: {_UNIT}")
    return np.asarray(np.rint(image.astype(np.promote_types(image.dtype, np.float32)) * 255), dtype=np.uint8)


def _check(image: Tensor | Pixels, right_type: bool, name: str) -> None:
    """Require a shape that images have, and a type that is right."""
    kind, shapes, channels, turn = _TENSOR if isinstance(image, Tensor) else _ARRAY
    shape = tuple(image.shape)
    if 0 in shape or not (len(shape) == 2 or (len(shape) == 3 and shape[channels] in (1, 3))):
        turned = len(shape) == 3 and shape[-1 - channels] in (1, 3)
        fix = f"give image.{turn}" if turned else "give red, green and blue, or grey alone"
        raise UserError(f"{name}: {kind} must be {shapes}, this one is {shape}: {fix}")
    if not right_type:
        raise UserError(
            f"{name}: {kind} must be uint8, uint16, bool or floating point, this one is {image.dtype}: convert it to "
            "uint8 if its numbers are from 0 to 255"
        )


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
