"""Walk through a folder: its images, its class folders, and what is left out."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from lorattt.data import note
from lorattt.data.images import FORMAT_OF_ENDING, IMAGE_ENDINGS
from lorattt.errors import UserError, shortened, some

# Folders that systems and programs make, in lower case.
_NO_CLASSES: Final = frozenset(
    (
        *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot"),  # of Synology and QNAP
        *("$recycle.bin", "system volume information", "lost+found", "__macosx", "__pycache__"),
        *("thumbs", "thumbnails", "_thumbs", "_thumbnails"),
    )
)
_NO_FILES: Final = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini"))  # of Windows
FORMATS: Final = ", ".join(dict.fromkeys(("JPEG", "PNG", *FORMAT_OF_ENDING.values())))
"""The formats that are read, for messages."""


@dataclass
class Below:
    """The result of a walk through a folder."""

    images: list[Path] = field(default_factory=list)  # relative to the folder, sorted
    folders: list[str] = field(default_factory=list)  # its own that may be class folders, sorted
    # Number of files left out, by top-level folder ("" for none) and lower-case ending.
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Number of folders not searched, by name: hidden ones, and those that systems make.
    passed: Counter[str] = field(default_factory=Counter)

    def endings(self, folder: str | None = None) -> str:
        """How many files were left out, by ending, in one of the folders or in all: "2 .avif, 1 .txt"."""
        count = Counter[str]()
        for (top, ending), number in sorted(self.left_out.items(), key=lambda item: item[0][1]):
            if folder in (None, top):
                count[ending] += number
        kinds = [f"{number} {shortened(ending, 20) or 'without an ending'}" for ending, number in count.most_common()]
        return ", ".join(kinds if len(kinds) <= 6 else [*kinds[:6], f"{len(kinds) - 6} more kinds"])

    def left_out_text(self) -> str:
        """What was left out, for a message; empty if nothing was."""
        parts = []
        if number := self.left_out.total():
            parts.append(f"{number} file{'s' * (number > 1)} ({self.endings()})")
        if number := self.passed.total():
            names = some(f"{name} ({times})" if times > 1 else name for name, times in sorted(self.passed.items()))
            parts.append(f"the folder{'s' * (number > 1)} {names}")
        return " and ".join(parts)

    def note_left_out(self, what: str) -> None:
        """Warn if anything was left out of the folder, which the message calls ``what``."""
        if left_out := self.left_out_text():
            note(f"{what}: left out {left_out}; images are files of {FORMATS}")


def images_below(root: Path, what: str, where: str = "") -> Below:
    """Walk through a folder that has to hold images; messages call it ``what``, and say ``where`` images belong."""
    below = look_below(root)
    if not below.images:
        others = f"; it has {left_out}" if (left_out := below.left_out_text()) else ""
        raise UserError(f"{what} holds no images: expected files of {FORMATS}{where}{others}")
    return below


def look_below(root: Path) -> Below:
    """Walk through a folder; links to folders are followed, except to a folder that contains the link."""
    below = Below()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_unreadable):
        relative = Path(folder).relative_to(root)
        top = next(iter(relative.parts), "")
        below.passed.update(filter(is_no_class, subfolders))
        subfolders[:] = [
            name for name in subfolders if not is_no_class(name) and not _leads_back(os.path.join(folder, name))
        ]
        if not top:
            below.folders += subfolders
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if is_image(name):
                below.images.append(relative / name)
            elif name.startswith(".") or name.lower() in _NO_FILES:
                continue
            elif not (top or ending or os.path.exists(os.path.join(folder, name))):
                below.folders.append(name)  # a link to a class folder that is not there
            else:
                below.left_out[top, ending] += 1
    below.images.sort(key=lambda path: path.parts)
    below.folders.sort()
    return below


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image: not hidden, with the ending of a format that is read."""
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def is_no_class(name: str) -> bool:
    """Whether a folder of this name is hidden, or is one that systems make."""
    return name.startswith(".") or name.lower() in _NO_CLASSES


def of_the_same_format(ending: str) -> set[str]:
    """All endings of an ending's format, in lower case; none if the format is not supported."""
    known = FORMAT_OF_ENDING.get(ending.lower())
    return {other for other, name in FORMAT_OF_ENDING.items() if name == known}


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(
        f"folder {error.filename} cannot be read ({error.strerror}): allow reading it, or move it elsewhere"
    ) from error


def _leads_back(folder: str) -> bool:
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return any(os.path.realpath(above) == target for above in Path(folder).parents)
