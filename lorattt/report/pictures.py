"""Thumbnails of a run's images, where they are on this machine; read as the run read them, without torch.

Relative paths in the run's configuration are resolved for a report that is made in another folder.
"""

import base64
import io
import os
import re
from pathlib import Path
from typing import Any, Final

from PIL import Image

from lorattt.data.file_list import leaves_root
from lorattt.data.images import MAX_PIXELS, UnreadableImageError, read_image
from lorattt.errors import UserError
from lorattt.report.runs import Run

SIDE: Final = 256  # Of a thumbnail's longer side in pixels, at most; smaller images are not enlarged
_QUALITY: Final = 82
_DRAWN: Final = re.compile(r"([a-z]+)-(\d+)/([a-z]+)(?:-(\d+))?/(\d{6,})")
_PROBED: Final = 20  # images, to see which folder their paths count from
# Of the data's arguments, those that name a file or a folder.
_FILES: Final = ("root", "data_root", "path", "splits", "items", "class_names")
_BUILT_IN_LIST: Final = "imagenet"  # of class_names, see data.class_names, which needs torch


def _bases(run: Run) -> list[Path]:
    """The folders that relative paths may start from, the most trusted first, each once.

    First the folder in which the run was started: as the place of the run's own folder shows it, which is right even
    for a project that was moved as a whole, then as in ``results.json``. Then the current folder.
    """
    stated = run.results.get("directory")
    found = [_started_in(run), Path(stated) if isinstance(stated, str) else None, Path.cwd()]
    return list(dict.fromkeys(folder for folder in found if folder is not None))


def _started_in(run: Run) -> Path | None:
    """The run's folder without the relative path that its configuration has for it; None if that does not fit."""
    stated = run.configured("run")
    folder = run.home.resolve()
    below = Path(str(stated.get("folder") or stated.get("root") or ""))
    if not stated.get("folder"):
        folder = folder.parents[2] if len(folder.parents) > 2 else folder  # the root's method, dataset and number
    count = len(below.parts)
    if not count or below.is_absolute() or ".." in below.parts or folder.parts[-count:] != below.parts:
        return None
    return folder.parents[count - 1]


def lead(run: Run, path: str) -> str:
    """A path of the configuration, below the first folder where it exists; unchanged if there is none."""
    given = Path(path).expanduser()
    return str(next((base / given for base in _bases(run) if os.path.exists(base / given)), given))


def data_of(run: Run) -> tuple[str, dict[str, Any]]:
    """The class of the run's data, without its module, and its arguments, with resolved paths."""
    arguments = dict(run.configured("data", "init_args"))
    for key in _FILES:
        named = key == "class_names" and arguments.get(key) == _BUILT_IN_LIST
        if isinstance(arguments.get(key), str) and not named:
            arguments[key] = lead(run, arguments[key])
    return str(run.configured("data").get("class_path", "")).rpartition(".")[2], arguments


class Pictures:
    """The images of one run, by the paths in its predictions; the run's configuration says where they are."""

    def __init__(self, run: Run) -> None:
        self._kind, self._arguments = data_of(run)
        self._root, self._problem = self._find_root(run)

    def _find_root(self, run: Run) -> tuple[Path | None, str]:
        """The folder that paths count from; None where there is none, and why."""
        seen_from = f"seen from {', '.join(map(str, _bases(run)))}"
        if self._kind == "ImagesData":
            some = run.predictions.path[:_PROBED]
            found = (base for base in _bases(run) if any(os.path.exists(base / path) for path in some))
            return next(found, None), f"its images are not there, {seen_from}"
        if self._kind == "ImageFolderData" and self._arguments.get("root"):
            root = Path(str(self._arguments["root"]))
            return (root if root.is_dir() else None), f"no folder {root} of images, {seen_from}"
        if self._kind != "BenchmarkData":
            return None, "the run's configuration does not say where its images are"
        from lorattt.data.layouts import read_benchmark

        stated = {"data_root": "data", "path": None, "splits": None, **self._arguments}
        folders = {key: Path(str(stated[key])) if stated[key] else None for key in ("path", "splits")}
        root, split = Path(str(stated["data_root"])), str(stated.get("split", "test"))
        try:
            return read_benchmark(str(stated.get("dataset")), root, split, **folders)[0].root, ""
        except UserError as error:
            return None, str(error)

    def read(self, path: str) -> Image.Image:
        """The image of that path, RGB; an ``UnreadableImageError`` if it is not on this machine, or no image."""
        if self._kind == "DemoData":
            return _drawn(path)
        if self._root is None:
            raise UnreadableImageError(self._problem)
        if self._kind != "ImagesData" and leaves_root(path):
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
    choice: Any = {"domain": domain, "severity": int(severity), "split": split, "seed": int(seed or 0)}
    try:
        return draw(int(index), **choice)[0]
    except UserError as error:
        raise UnreadableImageError(str(error)) from error


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """An RGB image of at most ``side`` pixels as a JPEG in a ``data:`` address."""
    small = image.copy()
    small.thumbnail((side, side))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=_QUALITY)
    return address("image/jpeg", content.getvalue())


def address(kind: str, content: bytes) -> str:
    """A file's content as a ``data:`` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
