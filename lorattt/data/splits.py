"""Parts of a listing: few shots, held-out images, base and new classes, and the file that keeps a draw.

A draw of one class is a function of (seed, class number, the class's paths): the order of the listing
and the other classes make no difference, and a larger draw of the same seed contains the smaller.
"""

import difflib
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import torch

from lorattt.data.listing import Item, Listing, leaves_root
from lorattt.data.source import UNKNOWN_LABEL
from lorattt.errors import UserError, quoted
from lorattt.rng import Stream, episode_keys, fold, uniform

# Purposes of a draw: a validation set and few shots of one seed are drawn independently of each other.
_FORMAT = "# lorattt items 1"


def _by_class(listing: Listing) -> list[list[Item]]:
    """Items of each class, sorted by path; refuses images without a class."""
    classes: list[list[Item]] = [[] for _ in listing.class_names]
    for item in listing.items:
        if not 0 <= item.label < len(classes):
            raise UserError(f"{listing.root / item.path} has no class: a split needs labelled images, in class folders")
        classes[item.label].append(item)
    return [sorted(items) for items in classes]


def _drawn(items: list[Item], seed: int, stream: int) -> list[Item]:
    """A class's items in random order: any number of the first is a draw of that number."""
    if not items:
        return []
    key = fold(episode_keys(seed, torch.tensor([items[0].label])), stream)
    order = uniform(key, (len(items),), torch.float64)[0].argsort(stable=True)
    return [items[position] for position in order.tolist()]


def _with(listing: Listing, items: list[Item]) -> Listing:
    """The listing with other items, sorted by label and path."""
    return Listing(listing.root, tuple(sorted(items, key=lambda item: (item.label, item.path))), listing.class_names)


def few_shot(listing: Listing, shots: int, seed: int) -> Listing:
    """The same number of images of each class.

    Args:
        listing: Labelled images.
        shots: Images of each class; those of a smaller number and the same seed are among them.
        seed: Seed of the draw.

    Returns:
        A listing with the same classes, sorted by label and path.

    Raises:
        UserError: If a class has fewer images than asked for, or an image has no class.
    """
    if shots < 1:
        raise UserError(f"data.shots {shots}: must be at least 1")
    chosen: list[Item] = []
    for label, items in enumerate(_by_class(listing)):
        if len(items) < shots:
            raise UserError(
                f"data.shots {shots}: class {label} ({quoted(listing.class_names[label])}) in {listing.root} has "
                f"{_images(len(items))}: ask for fewer shots, or leave the class out"
            )
        chosen += _drawn(items, seed, Stream.SHOTS)[:shots]
    return _with(listing, chosen)


def holdout(
    listing: Listing, *, per_class: int | None = None, fraction: float | None = None, seed: int
) -> tuple[Listing, Listing]:
    """Set images of each class aside, for validation.

    Args:
        listing: Labelled images.
        per_class: How many of each class; or
        fraction: what share of each class, rounded, so that at least one image stays.
        seed: Seed of the draw.

    Returns:
        The rest and the images set aside: disjoint, together the listing, each sorted by label and path.

    Raises:
        UserError: If not exactly one of the two amounts is given, it is out of range, a class is too small
            for ``per_class``, or ``fraction`` sets nothing aside.
    """
    if (per_class is None) == (fraction is None):
        raise UserError("data.holdout: give one of per_class and fraction")
    if per_class is not None and per_class < 1:
        raise UserError(f"data.holdout.per_class {per_class}: must be at least 1")
    if fraction is not None and not 0 < fraction < 1:
        raise UserError(f"data.holdout.fraction {fraction}: must be between 0 and 1, both excluded")
    rest: list[Item] = []
    held: list[Item] = []
    for label, items in enumerate(_by_class(listing)):
        if per_class is not None and len(items) <= per_class:
            raise UserError(
                f"data.holdout.per_class {per_class}: class {label} ({quoted(listing.class_names[label])}) in "
                f"{listing.root} has {_images(len(items))}, and at least one must stay: hold out fewer"
            )
        # Halves go up, where round() would go to the even number: 1 of 2 and 3 of 5, not 1 and 2.
        count = per_class if fraction is None else min(int(len(items) * fraction + 0.5), max(len(items) - 1, 0))
        order = _drawn(items, seed, Stream.HOLDOUT)
        held += order[:count]
        rest += order[count:]
    if not held:
        raise UserError(f"data.holdout.fraction {fraction}: no class of {listing.root} is large enough: raise it")
    return _with(listing, rest), _with(listing, held)


def at_most(listing: Listing, per_class: int, seed: int) -> Listing:
    """So many images of each class for validation, and all of a class that has fewer.

    Args:
        listing: Labelled images.
        per_class: Images of each class; those of a smaller number and the same seed are among them.
        seed: Seed of the draw, which is that of :func:`holdout`.

    Returns:
        A listing with the same classes, sorted by label and path.

    Raises:
        UserError: If an image has no class.
    """
    drawn = [_drawn(items, seed, Stream.HOLDOUT)[:per_class] for items in _by_class(listing)]
    return _with(listing, [item for items in drawn for item in items])


def without(listing: Listing, items: Collection[Item]) -> Listing:
    """The listing without these items, in its order."""
    gone = set(items)
    return Listing(listing.root, tuple(item for item in listing.items if item not in gone), listing.class_names)


def _images(count: int) -> str:
    return "no images" if count == 0 else "1 image" if count == 1 else f"{count} images"


def _relabelled(listing: Listing, labels: Sequence[int]) -> Listing:
    place = {label: new for new, label in enumerate(labels)}
    items = tuple(Item(item.path, place[item.label]) for item in listing.items if item.label in place)
    return Listing(listing.root, items, tuple(listing.class_names[label] for label in labels))


def class_subset(listing: Listing, subset: Literal["all", "base", "new"]) -> Listing:
    """Base or new classes: the first half of the labels (the larger half of an odd number), or the rest.

    That is the split of CoCoOp's generalisation from base to new classes (Zhou et al., CVPR 2022).

    Returns:
        The images of these classes in the listing's order, labelled from 0; the listing itself for ``all``.

    Raises:
        UserError: If the subset has another name or no class.
    """
    if subset not in ("all", "base", "new"):
        raise UserError(f"data.classes {quoted(subset)}: must be all, base or new")
    if subset == "all":
        return listing
    count = len(listing.class_names)
    half = (count + 1) // 2
    labels = range(half) if subset == "base" else range(half, count)
    if not labels:
        raise UserError(f"data.classes {subset}: {listing.root} has {count} classes, so none are {subset}: use all")
    return _relabelled(listing, labels)


def keep_classes(listing: Listing, classes: Sequence[int | str]) -> Listing:
    """Some classes, by number or by name.

    Args:
        listing: Labelled images.
        classes: Numbers or names; the n-th of them gets label n, counted from 0.

    Returns:
        Their images, in the listing's order.

    Raises:
        UserError: If the list is empty, a class does not exist or is given twice, or a name belongs to two classes.
    """
    if not classes:
        raise UserError("data.classes is empty: name at least one class")
    labels: list[int] = []
    for wanted in classes:
        label = _label_of(listing.class_names, wanted)
        if label in labels:
            raise UserError(f"data.classes: {quoted(wanted)} is class {label}, which is given twice: remove one")
        labels.append(label)
    return _relabelled(listing, labels)


def _label_of(names: tuple[str, ...], wanted: int | str) -> int:
    if isinstance(wanted, int):
        if not 0 <= wanted < len(names):
            raise UserError(f"data.classes: there is no class {wanted}; they are numbered 0 to {len(names) - 1}")
        return wanted
    found = [label for label, name in enumerate(names) if name == wanted]
    if not found:
        near = difflib.get_close_matches(wanted, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else "use its number"
        raise UserError(f"data.classes: no class is named {quoted(wanted)}; {hint}")
    if len(found) > 1:
        raise UserError(
            f"data.classes: {quoted(wanted)} is the name of classes {' and '.join(map(str, found))}: use the number"
        )
    return found[0]


def write_items(listing: Listing, file: Path) -> None:
    """Keep a listing as a text file, so that a run can be repeated elsewhere on the very same images.

    Three lines of header (format, SHA-256 of all lines after the header, counts), then a line per image:
    path relative to the root, label and class name, with tabs between. A class without images has a line
    with an empty path.

    Raises:
        UserError: If a path or a name cannot be written in this form, or the file cannot be written.
    """
    seen = {item.label for item in listing.items}
    rows = [Item("", label) for label in range(len(listing.class_names)) if label not in seen] + list(listing.items)
    lines = []
    for path, label in rows:
        name = "" if label == UNKNOWN_LABEL else listing.class_names[label]
        if any(mark in path + name for mark in "\t\n\r"):
            raise UserError(
                f"{file}: cannot list {quoted(path or name)}: a tab or line break is in its path or class name"
            )
        if path and leaves_root(path):
            raise UserError(f"{file}: cannot list {quoted(path)}: it is not a path below {listing.root}")
        lines.append(f"{path}\t{label}\t{name}\n")
    try:
        body = "".join(lines).encode("utf-8")
        digest = hashlib.sha256(body).hexdigest()
        counts = f"{len(listing.items)} images, {len(listing.class_names)} classes"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"{_FORMAT}\n# sha256 {digest}\n# {counts}\n".encode() + body)
    except UnicodeEncodeError as error:
        raise UserError(f"{file}: a path or class name is no text in UTF-8 ({error.reason}): rename it") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error


def read_items(file: Path, root: Path) -> Listing:
    """The listing that :func:`write_items` kept; whether its images exist is not looked at.

    Args:
        file: The text file.
        root: Folder of the images.

    Returns:
        The same items in the same order, below ``root``.

    Raises:
        UserError: If the file is missing, of another format or changed since, or a line is malformed or its path
            leaves the root.
    """
    try:
        text = file.read_bytes().decode("utf-8").replace("\r\n", "\n")  # version control may have changed the ends
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text file in UTF-8: write it again with write_items") from error
    head, *rest = text.split("\n", 3)
    if head != _FORMAT or len(rest) < 3:
        raise UserError(f"{file} line 1: not a list of images, whose first line is {_FORMAT!r}")
    digest, counts, body = rest
    if digest != f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}":
        raise UserError(f"{file} line 2: the list was changed since it was written: take the original, or draw it anew")
    items: list[Item] = []
    names: dict[int, str] = {}
    for number, line in enumerate(body.split("\n")[:-1], start=4):
        path, label, name = _parsed(f"{file} line {number}", line)
        if label != UNKNOWN_LABEL and names.setdefault(label, name) != name:
            raise UserError(
                f"{file} line {number}: class {label} is {quoted(name)} here and {quoted(names[label])} above"
            )
        if path:
            items.append(Item(path, label))
    if sorted(names) != list(range(len(names))) or counts != f"# {len(items)} images, {len(names)} classes":
        raise UserError(
            f"{file} line 3: says {quoted(counts[2:])}, but the list has {len(items)} images, {len(names)} classes"
        )
    return Listing(root, tuple(items), tuple(names[label] for label in range(len(names))))


def _parsed(where: str, line: str) -> tuple[str, int, str]:
    fields = line.split("\t")
    if len(fields) != 3:
        raise UserError(f"{where}: has {len(fields)} fields, not 3 (path, label and class name, with tabs between)")
    path, label, name = fields
    if path and leaves_root(path):
        raise UserError(f"{where}: {quoted(path)} is not a path below the root")
    if not (label.isascii() and label.isdigit()) and label != str(UNKNOWN_LABEL):
        raise UserError(f"{where}: label {quoted(label)} is not a number from 0 on, nor {UNKNOWN_LABEL} for no class")
    return path, int(label), name
