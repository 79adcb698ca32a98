"""Labelled images as a list of relative paths: what a reader of any layout gives, and what splits work on."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lorattt.data.images import MAX_PIXELS, read_image


class Sample(NamedTuple):
    """One image.

    Attributes:
        path: Relative to the listing's root.
        label: 0-based class number, or -1 where unknown.
    """

    path: str
    label: int


@dataclass(frozen=True)
class FileList:
    """Images below one folder, and the names of their classes.

    Attributes:
        root: The folder.
        samples: In a fixed order that does not depend on the file system.
        class_names: Names in label order; a name may occur twice, so it is never a key.
    """

    root: Path
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]


def first_gap(labels: Collection[int]) -> int | None:
    """The first number missing from labels that must be 0, 1, ...; None if they are."""
    return next((label for label in range(len(labels)) if label not in labels), None)


def leaves_root(path: str) -> bool:
    """Whether a listed path is no file below the root: empty, absolute on any system, or with a ``..`` in it."""
    # Read as Windows would, too, where a backslash or a drive leads elsewhere: the list may travel there. By hand,
    # since pathlib takes seconds for the lists of ImageNet.
    parts = path.replace("\\", "/").split("/")
    return parts[0] == "" or path[1:2] == ":" or ".." in parts or not set(parts) - {"", "."}


class ListedImages:
    """A listing as a source of images, numbered by their place in it.

    Args:
        name: What results call the dataset.
        listing: The images.
        max_pixels: The largest width times height that is read.
    """

    def __init__(self, name: str, listing: FileList, max_pixels: int = MAX_PIXELS) -> None:
        self.name = name
        self._max_pixels = max_pixels
        self.listing = listing
        self.class_names = list(listing.class_names)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.listing.samples)

    def path(self, index: int) -> str:
        """Path relative to the listing's root."""
        return self.listing.samples[index].path

    def label(self, index: int) -> int:
        """The image's class number."""
        return self.listing.samples[index].label

    def read(self, index: int) -> Image.Image:
        """The image, RGB, upright."""
        return read_image(self.listing.root / self.listing.samples[index].path, self._max_pixels)
