"""Parts of a list of images: few shots, held-out images, base and new classes.

A draw of one class is a function of (seed, class number, the class's paths): the order of the list and the other
classes make no difference, and a larger draw of the same seed contains the smaller.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from lorattt.data.file_list import FileList, Sample
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least, did_you_mean
from lorattt.rng import Stream, random_order

Classes: TypeAlias = Literal["all", "base", "new"] | list[int | str]


def _shuffled(
    listing: FileList, seed: int, stream: Stream, least: int = 0, why: str = "", fix: str = ""
) -> list[list[Sample]]:
    """The images of each class, at least ``least``, in random order: the first n are a draw of n."""
    classes: list[list[Sample]] = [[] for _ in listing.class_names]
    for sample in listing.samples:
        if not 0 <= sample.label < len(classes):
            raise UserError(
                f"{listing.root / sample.path} has no class: a split needs labelled images, in class folders"
            )
        classes[sample.label].append(sample)
    for label, samples in enumerate(classes):
        if len(samples) < least:
            images = {0: "no images", 1: "1 image"}.get(len(samples), f"{len(samples)} images")
            name = quoted(listing.class_names[label])
            raise UserError(f"{why}: class {label} ({name}) in {listing.root} has {images}{fix}")
        if samples:
            samples.sort()
            order = random_order(seed, label, stream, len(samples))
            classes[label] = [samples[position] for position in order.tolist()]
    return classes


def _part(listing: FileList, classes: list[list[Sample]], which: slice) -> FileList:
    """The list with a part of each class, sorted by label and path."""
    return replace(listing, samples=tuple(sample for samples in classes for sample in sorted(samples[which])))


def few_shot(listing: FileList, shots: int, seed: int) -> FileList:
    """Draw ``shots`` images of each class, sorted by label and path; fewer shots of the same seed are among them."""
    at_least(1, data__shots=shots)
    fix = ": ask for fewer shots, or leave the class out"
    return _part(listing, _shuffled(listing, seed, Stream.SHOTS, shots, f"data.shots {shots}", fix), slice(shots))


def holdout(listing: FileList, per_class: int, seed: int) -> tuple[FileList, FileList]:
    """Set ``per_class`` images of each class aside, for validation; at least one of each class must remain.

    Returns:
        The rest and the images set aside: disjoint, together the list, each sorted by label and path.
    """
    fix = ", and at least one must stay: hold out fewer"
    classes = _shuffled(listing, seed, Stream.HOLDOUT, per_class + 1, f"data.val_shots {per_class}", fix)
    return _part(listing, classes, slice(per_class, None)), _part(listing, classes, slice(per_class))


def at_most(listing: FileList, per_class: int, seed: int) -> FileList:
    """The images that :func:`holdout` would set aside with this seed; all of a class that has fewer."""
    return _part(listing, _shuffled(listing, seed, Stream.HOLDOUT), slice(per_class))


def keep_classes(listing: FileList, classes: Classes) -> FileList:
    """The images of some classes, in the list's order; the n-th class gets label n, counted from 0.

    ``base`` is the first half of the labels (the larger half of an odd number) and ``new`` the rest, as in CoCoOp's
    generalisation from base to new classes (Zhou et al., CVPR 2022).
    """
    if classes == "all":
        return listing
    names = listing.class_names
    if isinstance(classes, str):
        if classes not in ("base", "new"):
            raise UserError(f"data.classes {quoted(classes)}: use all, base, new, or a list of names or numbers")
        half = (len(names) + 1) // 2
        labels = list(range(half) if classes == "base" else range(half, len(names)))
        if not labels:
            raise UserError(
                f"data.classes {classes}: {listing.root} has {len(names)} classes, so none are {classes}: use all"
            )
    else:
        labels = _labels_of(names, classes)
    new = {label: place for place, label in enumerate(labels)}
    samples = tuple(Sample(path, new[label]) for path, label in listing.samples if label in new)
    return FileList(listing.root, samples, tuple(names[label] for label in labels))


def _labels_of(names: tuple[str, ...], classes: Sequence[int | str]) -> list[int]:
    if not classes:
        raise UserError("data.classes is empty: name at least one class")
    labels: list[int] = []
    for wanted in classes:
        label = _label_of(names, wanted)
        if label in labels:
            raise UserError(f"data.classes: {quoted(wanted)} is class {label}, which is given twice: remove one")
        labels.append(label)
    return labels


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
        several = " and ".join(map(str, found))
        raise UserError(f"data.classes: {quoted(wanted)} is the name of classes {several}: use the number")
    return found[0]
