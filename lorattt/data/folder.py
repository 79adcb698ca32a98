"""A folder of images: one folder per class, or images alone."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lorattt.data.datamodule import EpisodeData
from lorattt.data.imagenet_family import imagenet_names
from lorattt.data.images import IMAGE_ENDINGS, MAX_PIXELS, check_max_pixels
from lorattt.data.listing import Item, ListedImages, Listing
from lorattt.data.source import UNKNOWN_LABEL
from lorattt.errors import UserError

IMAGENET = "imagenet"


class ImageFolder(ListedImages):
    """The images below a folder.

    With class folders, the label of an image is the place of its top-level folder among all of them,
    sorted; folders within a class folder make no difference. Without, images have no labels.

    Args:
        root: The folder.
        class_names: Where the names come from: the folders' names (null, with underscores read as
            spaces), a list in the order of the sorted folders, ``imagenet`` for folders named by wnid, or a
            file: ``.txt`` with one name per line in that order, ``.json`` with a list in that order or an
            object from folder to name.
        max_pixels: The largest width times height that is read.

    Raises:
        UserError: If the folder is missing or holds no image, images lie beside class folders, or the
            names do not match the folders.
    """

    def __init__(
        self, root: Path, class_names: Sequence[str] | str | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        check_max_pixels(max_pixels)
        if not root.is_dir():
            problem = "a file, not a folder" if root.exists() else "no such folder"
            raise UserError(
                f"data.root {root}: {problem}; name the folder that holds the images, seen from {Path.cwd()}"
            )
        found = images_below(root)
        if not found:
            raise UserError(
                f"data.root {root} holds no images: expected files ending in {', '.join(IMAGE_ENDINGS)}, "
                "in one folder per class or directly"
            )
        loose = [path for path in found if len(path.parts) == 1]
        if loose and len(loose) < len(found):
            raise UserError(
                f"data.root {root} holds images beside class folders (first: {loose[0]}): move them into a class "
                "folder, or elsewhere"
            )
        folders = [] if loose else sorted({path.parts[0] for path in found})
        place = {folder: label for label, folder in enumerate(folders)}
        items = tuple(Item(str(path), UNKNOWN_LABEL if loose else place[path.parts[0]]) for path in found)
        listing = Listing(root, items, tuple(names_of(folders, class_names)))
        super().__init__(root.resolve().name, listing, max_pixels)


def images_below(root: Path) -> list[Path]:
    """Image files relative to the root, sorted; hidden files and folders are not looked at.

    Linked folders are followed, except to a folder that holds the link: that walk would not end.
    """
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and not _leads_back(os.path.join(folder, name))
        ]
        relative = Path(folder).relative_to(root)
        found += [
            relative / name for name in names if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.parts)


def _leads_back(folder: str) -> bool:
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return any(os.path.realpath(above) == target for above in Path(folder).parents)


def names_of(folders: list[str], source: Sequence[str] | str | None) -> list[str]:
    """Class names in label order.

    Args:
        folders: The class folders, sorted; empty where there are none, and any number of names will do.
        source: Null, the names, ``imagenet``, or a ``.txt`` or ``.json`` file, see :class:`ImageFolder`.

    Raises:
        UserError: If the file cannot be read, holds no names or what is none, or does not match the folders.
    """
    if source is None:
        return [folder.replace("_", " ") for folder in folders]
    if source == IMAGENET:
        return _looked_up(folders, imagenet_names(), "the ImageNet classes", "folders must be named by wnid")
    if not isinstance(source, str):
        return _checked(list(source), folders, "data.class_names")
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"data.class_names {source!r}: no such file (and the only built-in list is {IMAGENET!r})")
    try:
        text = path.read_text(encoding="utf-8-sig")  # with the mark that Windows' editors put first, or without
    except UnicodeDecodeError as error:
        raise UserError(f"data.class_names {path} is not a text file in UTF-8 ({error}): save it as UTF-8") from error
    if path.suffix == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"data.class_names {path} is not valid JSON: {error}") from error
        if isinstance(content, dict) and content:
            refuse_no_names(list(content.values()), f"data.class_names {path}")
            return _looked_up(folders, content, str(path), "add it to the file")
        names = content if isinstance(content, list) else []
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"data.class_names {path} holds no names: one per line, or a JSON list or object")
    return _checked(names, folders, f"data.class_names {path}")


def _checked(names: list[str], folders: list[str], what: str) -> list[str]:
    refuse_no_names(names, what)
    if folders and len(names) != len(folders):
        raise UserError(
            f"{what} has {len(names)} names but the dataset has {len(folders)} class folders: "
            "give one name per folder, in sorted order, or a JSON object from folder to name"
        )
    return names


def refuse_no_names(values: list[Any], what: str) -> None:
    """Refuse a blank name, or a value that is no text.

    Args:
        values: What stands where the names should be.
        what: Where they stand, for the message.

    Raises:
        UserError: If one is no name.
    """
    for number, value in enumerate(values, 1):
        if not isinstance(value, str) or not value.strip():
            shown = "blank" if isinstance(value, str) else f"{json.dumps(value)}, not a text"
            raise UserError(f"{what}: name {number} is {shown}: give every class a name")


def _looked_up(folders: list[str], names: dict[str, str], where: str, mend: str) -> list[str]:
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise UserError(
            f"class folder {missing[0]!r} is not in {where} ({len(missing)} of {len(folders)} are not): {mend}"
        )
    return [names[folder] for folder in folders] or list(names.values())


class ImageFolderData(EpisodeData):
    """A user's own images.

    Args:
        root: Folder with one folder of images per class, or with images alone (for ``predict``).
        class_names: Names of the classes: null for the folders' names, a list in the order of the sorted
            folders, ``imagenet`` for folders named by wnid, or a ``.txt`` or ``.json`` file.
        batch_size: Images adapted at once (E). Predictions do not depend on it.
        workers: Processes that read images and make views.
        limit: Use only so many images, evenly spread over the dataset; all where null.
        on_bad_image: End the run at an unreadable image, or leave it out, count it and list it.
        max_pixels: The largest width times height that is read; above it, an image counts as unreadable.
    """

    def __init__(
        self,
        root: str,
        *,
        class_names: list[str] | str | None = None,
        batch_size: int = 8,
        workers: int = 2,
        limit: int | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(
            ImageFolder(Path(root).expanduser(), class_names, max_pixels),
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            on_bad_image=on_bad_image,
        )
