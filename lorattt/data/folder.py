"""A folder of images: one folder per class, or images alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lorattt.data import note
from lorattt.data.class_names import names_of
from lorattt.data.datamodule import EpisodeData
from lorattt.data.file_list import UNKNOWN_LABEL, FileList, ListedImages, Sample
from lorattt.data.images import MAX_PIXELS, check_max_pixels
from lorattt.data.walk import FORMATS, Below, images_below
from lorattt.errors import UserError, quoted, shortened, some

_SPLITS: Final = frozenset(("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"))


class ImageFolder(ListedImages):
    """The images below a folder.

    With class folders, the label of an image is the place of its top-level folder among all of them, sorted; folders
    within a class folder make no difference. Without, images have no labels. See :func:`names_of` for ``class_names``.
    """

    def __init__(
        self, root: Path, class_names: Sequence[str] | str | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        check_max_pixels(max_pixels)
        what = f"data.root {root}"
        if not root.is_dir():
            problem = "a file, not a folder" if root.exists() else "no such folder"
            raise UserError(f"{what}: {problem}; name the folder that holds the images, seen from {Path.cwd()}")
        below = images_below(root, what, ", in one folder per class or directly")
        direct = [path for path in below.images if len(path.parts) == 1]
        if 0 < len(direct) < len(below.images):
            raise UserError(
                f"{what} holds images beside class folders (first: {shortened(str(direct[0]))}): move them "
                "into a class folder, or elsewhere"
            )
        folders = [] if direct else sorted({path.parts[0] for path in below.images})
        if folders:
            _check_level(root, below.images)
            _check_none_empty(root, below, folders)
        elif below.folders:
            note(f"{what}: its folders ({some(below.folders)}) hold no image, and are no classes")
        below.note_left_out(what)
        place = {folder: label for label, folder in enumerate(folders)}
        samples = tuple(Sample(str(path), place.get(path.parts[0], UNKNOWN_LABEL)) for path in below.images)
        listing = FileList(root, samples, tuple(names_of(folders, class_names)))
        super().__init__(root.resolve().name, listing, max_pixels)


def _check_level(root: Path, images: Sequence[Path]) -> None:
    """Reject a folder whose class folders lie one level further down."""
    within: dict[str, set[str]] = {}  # folder -> its folders with images, and "" for images of its own
    for path in images:
        within.setdefault(path.parts[0], set()).add(path.parts[1] if len(path.parts) > 2 else "")
    splits = [folder for folder in within if folder.lower() in _SPLITS]
    shared = len(splits) > 1 and set.intersection(*(within[folder] - {""} for folder in splits))
    if splits and (shared or (len(splits) == len(within) and (len(splits) > 1 or "" not in within[splits[0]]))):
        raise UserError(
            f"data.root {root} holds the splits of a dataset ({some(splits)}), not its class folders: name one of "
            f"them, such as {root / splits[-1]}"
        )
    only, inner = next(iter(within.items()))
    if len(within) == 1 and "" not in inner and len(inner) > 1:
        raise UserError(
            f"data.root {root} holds one folder, {quoted(only)}, with {len(inner)} folders of images in it: name "
            f"{root / only}, if those are the classes"
        )


def _check_none_empty(root: Path, below: Below, classes: Sequence[str]) -> None:
    """Reject class folders that hold no image: their classes would be gone."""
    if empty := sorted(set(below.folders).difference(classes)):
        endings = below.endings(empty[0])
        held = f"{quoted(empty[0], 60)} has {endings}" if endings else "nothing in it"
        many = f"class folders {some(empty)} hold" if len(empty) > 1 else f"class folder {quoted(empty[0], 60)} holds"
        raise UserError(
            f"data.root {root}: {many} no image that is read ({held}; images are files of {FORMATS}): put "
            "some there, or move the folder elsewhere if it is no class"
        )


class ImageFolderData(EpisodeData):
    """A user's own images.

    Args:
        root: Folder with one folder of images per class, or with images alone (for ``predict``).
        class_names: Names of the classes: null for the folders' names, a list in the order of the sorted
            folders, ``imagenet`` for folders named by wnid, or a ``.txt`` or ``.json`` file.
        max_pixels: The largest width times height that is read; above it, an image counts as unreadable.
        kwargs: The arguments of :class:`ImageData` except ``prefetch``.
    """

    def __init__(
        self,
        root: str,
        *,
        class_names: list[str] | str | None = None,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        super().__init__(ImageFolder(Path(root).expanduser(), class_names, max_pixels), prefetch=2, **kwargs)
