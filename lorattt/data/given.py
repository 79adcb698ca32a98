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

from lorattt.data.images import read_image, upright_rgb
from lorattt.data.loose import find_images
from lorattt.data.source import UNKNOWN_LABEL
from lorattt.errors import UserError, quoted

Pixels: TypeAlias = npt.NDArray[Any]
ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | Tensor | Pixels
_KINDS = "paths, PIL images, arrays or tensors"
_UNIT = "floating-point numbers must be within [0, 1]: give the image unnormalised, and divide what runs to 255 by 255"


class GivenImages:
    """The images of a call, as a source without labels.

    Args:
        images: A list of images, or what :func:`lorattt.data.loose.find_images` takes as one text. A tensor is
            ``(3, H, W)``, ``(1, H, W)`` or ``(H, W)``, on any device; an array is ``(H, W, 3)``, ``(H, W, 1)`` or
            ``(H, W)``. Their numbers are uint8, uint16 of which 65535 is white, bool, or floating-point in ``[0, 1]``.
    """

    def __init__(self, images: Iterable[ImageLike] | str | os.PathLike[str]) -> None:
        self.name, self.class_names = "images", list[str]()
        # Tensors become arrays here, since loader processes cannot read a GPU's memory.
        self._images = [_checked(image, f"images[{index}]") for index, image in enumerate(_listed(images))]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def file(self, index: int) -> str | None:
        """The path as given, for images that are files."""
        image = self._images[index]
        return image if isinstance(image, str) else None

    def path(self, index: int) -> str:
        """The path as given, or the image's place."""
        return self.file(index) or f"images[{index}]"

    def label(self, index: int) -> int:
        """Never known: -1."""
        return UNKNOWN_LABEL

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
    path = os.path.expanduser(text)
    shown = quoted(text).strip("'\"") or name
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
    if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] not in (1, 3)) or not image.numel():
        last = image.dim() == 3 and image.shape[-1] in (1, 3)
        fix = "give image.permute(2, 0, 1)" if last else "give red, green and blue, or grey alone"
        raise UserError(
            f"{name}: a tensor must be (3, H, W), (1, H, W) or (H, W), this one is {tuple(image.shape)}: {fix}"
        )
    if image.is_floating_point():
        image = image.detach().to(torch.float64 if image.dtype == torch.float64 else torch.float32)
    elif image.dtype not in (torch.uint8, torch.uint16, torch.bool):
        raise _wrong_type(name, "a tensor", image.dtype)
    array = image.numpy(force=True)
    return _of_array(np.moveaxis(array, 0, -1) if array.ndim == 3 else array, name)


def _of_array(image: Pixels, name: str) -> Pixels:
    """``(H, W)`` or ``(H, W, 3)`` uint8."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] not in (1, 3)) or not image.size:
        first = image.ndim == 3 and image.shape[0] in (1, 3)
        fix = "give image.transpose(1, 2, 0)" if first else "give red, green and blue, or grey alone"
        raise UserError(f"{name}: an array must be (H, W, 3), (H, W, 1) or (H, W), this one is {image.shape}: {fix}")
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return np.asarray(np.where(image, 255, 0), dtype=np.uint8)
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        return np.asarray(image // 257, dtype=np.uint8)
    if image.dtype.kind != "f":
        raise _wrong_type(name, "an array", image.dtype)
    if not (image.min() >= 0 and image.max() <= 1):  # false for NaN as well
        raise UserError(f"{name}: {_UNIT}")
    return np.asarray(np.rint(image.astype(np.promote_types(image.dtype, np.float32)) * 255), dtype=np.uint8)


def _wrong_type(name: str, kind: str, dtype: object) -> UserError:
    fix = "convert it to uint8 if its numbers are from 0 to 255"
    return UserError(f"{name}: {kind} must be uint8, uint16, bool or floating point, this one is {dtype}: {fix}")


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
