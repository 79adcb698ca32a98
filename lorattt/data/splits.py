"""Parts of a listing: few shots, held-out images, base and new classes.

A draw of one class is a function of (seed, class number, the class's paths): the order of the listing
and the other classes make no difference, and a larger draw of the same seed contains the smaller.
"""

from collections.abc import Collection, Sequence

import torch

from lorattt.data.file_list import FileList, Sample
from lorattt.errors import UserError, quoted
from lorattt.inputs import did_you_mean
from lorattt.rng import Stream, episode_keys, fold, uniform


def _by_class(listing: FileList) -> list[list[Sample]]:
    """Items of each class, sorted by path; rejects images without a class."""
    classes: list[list[Sample]] = [[] for _ in listing.class_names]
    for item in listing.samples:
        if not 0 <= item.label < len(classes):
            raise UserError(f"{listing.root / item.path} has no class: a split needs labelled images, in class folders")
        classes[item.label].append(item)
    return [sorted(items) for items in classes]


def _drawn(items: list[Sample], seed: int, stream: int) -> list[Sample]:
    """A class's items in random order: any number of the first is a draw of that number."""
    if not items:
        return []
    key = fold(episode_keys(seed, torch.tensor([items[0].label])), stream)
    order = uniform(key, (len(items),), torch.float64)[0].argsort(stable=True)
    return [items[position] for position in order.tolist()]


def _with(listing: FileList, items: list[Sample]) -> FileList:
    """The listing with these items, sorted by label and path."""
    return FileList(listing.root, tuple(sorted(items, key=lambda item: (item.label, item.path))), listing.class_names)


def few_shot(listing: FileList, shots: int, seed: int) -> FileList:
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
    chosen: list[Sample] = []
    for label, items in enumerate(_by_class(listing)):
        if len(items) < shots:
            raise UserError(
                f"data.shots {shots}: class {label} ({quoted(listing.class_names[label])}) in {listing.root} has "
                f"{_images(len(items))}: ask for fewer shots, or leave the class out"
            )
        chosen += _drawn(items, seed, Stream.SHOTS)[:shots]
    return _with(listing, chosen)


def holdout(listing: FileList, per_class: int, seed: int) -> tuple[FileList, FileList]:
    """Set the same number of images of each class aside, for validation.

    Args:
        listing: Labelled images.
        per_class: Images of each class, at least 1.
        seed: Seed of the draw.

    Returns:
        The rest and the images set aside: disjoint, together the listing, each sorted by label and path.
    """
    rest: list[Sample] = []
    held: list[Sample] = []
    for label, items in enumerate(_by_class(listing)):
        if len(items) <= per_class:
            raise UserError(
                f"data.val_shots {per_class}: class {label} ({quoted(listing.class_names[label])}) in {listing.root} "
                f"has {_images(len(items))}, and at least one must stay: hold out fewer"
            )
        order = _drawn(items, seed, Stream.HOLDOUT)
        held += order[:per_class]
        rest += order[per_class:]
    return _with(listing, rest), _with(listing, held)


def at_most(listing: FileList, per_class: int, seed: int) -> FileList:
    """So many images of each class for validation, and all of a class that has fewer.

    Args:
        listing: Labelled images.
        per_class: Images of each class; those of a smaller number and the same seed are among them.
        seed: Seed of the draw, which is that of :func:`holdout`.

    Returns:
        A listing with the same classes, sorted by label and path.
    """
    drawn = [_drawn(items, seed, Stream.HOLDOUT)[:per_class] for items in _by_class(listing)]
    return _with(listing, [item for items in drawn for item in items])


def without(listing: FileList, items: Collection[Sample]) -> FileList:
    """The listing without these items, in its order."""
    gone = set(items)
    return FileList(listing.root, tuple(item for item in listing.samples if item not in gone), listing.class_names)


def _images(count: int) -> str:
    return "no images" if count == 0 else "1 image" if count == 1 else f"{count} images"


def _relabelled(listing: FileList, labels: Sequence[int]) -> FileList:
    place = {label: new for new, label in enumerate(labels)}
    items = tuple(Sample(item.path, place[item.label]) for item in listing.samples if item.label in place)
    return FileList(listing.root, items, tuple(listing.class_names[label] for label in labels))


def class_subset(listing: FileList, subset: str) -> FileList:
    """Base or new classes: the first half of the labels (the larger half of an odd number), or the rest.

    That is the split of CoCoOp's generalisation from base to new classes (Zhou et al., CVPR 2022).

    Returns:
        The images of these classes in the listing's order, labelled from 0; the listing itself for ``all``.
    """
    if subset not in ("all", "base", "new"):
        raise UserError(f"data.classes {quoted(subset)}: use all, base, new, or a list of names or numbers")
    if subset == "all":
        return listing
    count = len(listing.class_names)
    half = (count + 1) // 2
    labels = range(half) if subset == "base" else range(half, count)
    if not labels:
        raise UserError(f"data.classes {subset}: {listing.root} has {count} classes, so none are {subset}: use all")
    return _relabelled(listing, labels)


def keep_classes(listing: FileList, classes: Sequence[int | str]) -> FileList:
    """Some classes, by number or by name.

    Args:
        listing: Labelled images.
        classes: Numbers or names; the n-th of them gets label n, counted from 0.

    Returns:
        Their images, in the listing's order.
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
        hint = did_you_mean(wanted, names, "use its number")
        raise UserError(f"data.classes: no class is named {quoted(wanted)}; {hint}")
    if len(found) > 1:
        raise UserError(
            f"data.classes: {quoted(wanted)} is the name of classes {' and '.join(map(str, found))}: use the number"
        )
    return found[0]
