"""Thumbnails of a run's images, where they are on this machine; read as the run read them, without torch."""

import base64
import io
import os
import re
from pathlib import Path
from typing import Final

from PIL import Image

from lorattt.data.file_list import leaves_root
from lorattt.data.images import MAX_PIXELS, UnreadableImageError, read_image
from lorattt.errors import UserError
from lorattt.report.places import bases, data_of, seen_from
from lorattt.report.runs import Run

SIDE: Final = 256
"""Of a thumbnail's longer side in pixels, at most; smaller images are not enlarged."""
_QUALITY: Final = 82
_DRAWN: Final = re.compile(r"([a-z]+)-(\d+)/([a-z]+)(?:-(\d+))?/(\d{6,})")
_DEMO: Final = ("DemoData",)
_PROBED: Final = 20  # images, to see which folder their paths count from
_BENCHMARK, _FOLDER, _LOOSE = "BenchmarkData", "ImageFolderData", "ImagesData"


class Pictures:
    """The images of one run, by the paths in its predictions.

    Args:
        run: The run; its configuration says where the images lie.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._kind, self._arguments = data_of(run)
        self._root, self._problem = self._find_root()

    def _find_root(self) -> tuple[Path | None, str]:
        """The folder that paths count from; None where there is none, and why."""
        if self._kind == _LOOSE:
            some = self._run.predictions.path[:_PROBED]
            base = next((base for base in bases(self._run) if any(os.path.exists(base / path) for path in some)), None)
            return base, f"its images are not there, seen from {seen_from(self._run)}"
        if self._kind == _FOLDER and self._arguments.get("root"):
            root = Path(str(self._arguments["root"])).expanduser()
            return (root if root.is_dir() else None), f"no folder {root} of images, seen from {seen_from(self._run)}"
        if self._kind == _BENCHMARK:
            return self._find_benchmark()
        return None, "the run's configuration does not say where its images are"

    def _find_benchmark(self) -> tuple[Path | None, str]:
        from lorattt.data.layouts import read_benchmark

        given = {
            key: Path(str(self._arguments[key])).expanduser() if self._arguments.get(key) else None
            for key in ("path", "splits")
        }
        try:
            listing, _ = read_benchmark(
                str(self._arguments.get("dataset")),
                Path(str(self._arguments.get("data_root", "data"))).expanduser(),
                str(self._arguments.get("split", "test")),
                **given,
            )
        except UserError as error:
            return None, str(error)
        return listing.root, ""

    def read(self, path: str) -> Image.Image:
        """The image of that path, RGB.

        Raises:
            UnreadableImageError: If it is not on this machine, or no image.
        """
        if self._kind in _DEMO:
            return _drawn(path)
        if self._root is None:
            raise UnreadableImageError(self._problem)
        if self._kind != _LOOSE and leaves_root(path):
            raise UnreadableImageError("its path leaves the folder of the images")
        limit = self._arguments.get("max_pixels")
        try:
            return read_image(self._root / path, limit if isinstance(limit, int) else MAX_PIXELS)
        except ValueError as error:  # a path that no file can have
            raise UnreadableImageError(str(error)) from error


def _drawn(path: str) -> Image.Image:
    from lorattt.demo.draw import draw

    found = _DRAWN.fullmatch(path)
    if found is None:
        raise UnreadableImageError("it is none of the demo's drawings")
    domain, severity, split, seed, index = found.groups()
    try:
        picture, _ = draw(
            int(index),
            domain=domain,
            severity=int(severity),
            split=split,  # type: ignore[arg-type]  # draw() validates it
            seed=int(seed or 0),
        )
    except UserError as error:
        raise UnreadableImageError(str(error)) from error
    return picture


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """An image as a JPEG in a ``data:`` address.

    Args:
        image: RGB.
        side: Of its longer side in pixels, at most.
    """
    small = image.copy()
    small.thumbnail((side, side))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=_QUALITY)
    return address("image/jpeg", content.getvalue())


def address(kind: str, content: bytes) -> str:
    """A file's content as a ``data:`` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
