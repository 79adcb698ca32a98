"""Labelled images as a list of relative paths: what a reader of any layout gives, and what splits work on."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lorattt.data.images import MAX_PIXELS, read_image
from lorattt.errors import shortened


class Item(NamedTuple):
    """One image.

    Attributes:
        path: Relative to the listing's root.
        label: 0-based class number, or -1 where unknown.
    """

    path: str
    label: int


@dataclass(frozen=True)
class Listing:
    """Images below one folder, and the names of their classes.

    Attributes:
        root: The folder.
        items: In a fixed order that does not depend on the file system.
        class_names: Names in label order; a name may occur twice, so it is never a key.
    """

    root: Path
    items: tuple[Item, ...]
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


def listed_twice(items: Sequence[Item]) -> str:
    """What to say of images that a list has more than once; empty where it has each once."""
    if len({item.path for item in items}) == len(items):
        return ""
    labels = defaultdict[str, list[int]](list)
    for item in items:
        labels[item.path].append(item.label)
    twice = [path for path, found in labels.items() if len(found) > 1]
    torn = [path for path in twice if len(set(labels[path])) > 1]
    text = f"{len(twice)} images are listed more than once and count each time, the first is {shortened(twice[0])}"
    if torn:
        classes = " and ".join(map(str, sorted(set(labels[torn[0]]))[:4]))
        text += f"; {len(torn)} of them have several labels, the first is {shortened(torn[0])} with {classes}"
    return text


class ListedImages:
    """A listing as a source of images, numbered by their place in it.

    Args:
        name: What results call the dataset.
        listing: The images.
        max_pixels: The largest width times height that is read.
    """

    def __init__(self, name: str, listing: Listing, max_pixels: int = MAX_PIXELS) -> None:
        self.name = name
        self._max_pixels = max_pixels
        self.listing = listing
        self.class_names = list(listing.class_names)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.listing.items)

    def path(self, index: int) -> str:
        """Path relative to the listing's root."""
        return self.listing.items[index].path

    def label(self, index: int) -> int:
        """The image's class number."""
        return self.listing.items[index].label

    def read(self, index: int) -> Image.Image:
        """The image, RGB, upright."""
        return read_image(self.listing.root / self.listing.items[index].path, self._max_pixels)
