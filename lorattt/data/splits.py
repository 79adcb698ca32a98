"""Parts of a list of images: few shots, held-out images, base and new classes.

A draw of one class is a function of (seed, class number, the class's paths): the order of the list and the other
classes make no difference, and a larger draw of the same seed contains the smaller.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import torch

from lorattt.data.file_list import FileList, Sample
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least, did_you_mean
from lorattt.rng import Stream, episode_keys, fold, uniform

Classes: TypeAlias = Literal["all", "base", "new"] | list[int | str]


def _shuffled(listing: FileList, seed: int, stream: Stream) -> list[list[Sample]]:
    """The images of each class in random order: the first n are a draw of n. Rejects images without a class."""
    classes: list[list[Sample]] = [[] for _ in listing.class_names]
    for sample in listing.samples:
        if not 0 <= sample.label < len(classes):
            raise UserError(
                f"{listing.root / sample.path} has no class: a split needs labelled images, in class folders"
            )
        classes[sample.label].append(sample)
    for label, samples in enumerate(classes):
        if samples:
            samples.sort()
            key = fold(episode_keys(seed, torch.tensor([label])), stream)
            order = uniform(key, (len(samples),), torch.float64)[0].argsort(stable=True)
            classes[label] = [samples[position] for position in order.tolist()]
    return classes


def _sorted(listing: FileList, samples: Iterable[Sample]) -> FileList:
    """The list with these samples, sorted by label and path."""
    return replace(listing, samples=tuple(sorted(samples, key=lambda sample: (sample.label, sample.path))))


def _class_of(listing: FileList, label: int, samples: Sequence[Sample]) -> str:
    """A class that has too few images, for a message."""
    count = len(samples)
    images = "no images" if count == 0 else "1 image" if count == 1 else f"{count} images"
    return f"class {label} ({quoted(listing.class_names[label])}) in {listing.root} has {images}"


def few_shot(listing: FileList, shots: int, seed: int) -> FileList:
    """Draw ``shots`` images of each class; draws of fewer shots with the same seed are among them.

    Returns:
        A list with the same classes, sorted by label and path.
    """
    at_least(1, data__shots=shots)
    classes = _shuffled(listing, seed, Stream.SHOTS)
    for label, samples in enumerate(classes):
        if len(samples) < shots:
            raise UserError(
                f"data.shots {shots}: {_class_of(listing, label, samples)}: ask for fewer shots, or leave the class out"
            )
    return _sorted(listing, (sample for samples in classes for sample in samples[:shots]))


def holdout(listing: FileList, per_class: int, seed: int) -> tuple[FileList, FileList]:
    """Set ``per_class`` images of each class aside, for validation; at least one of each class must remain.

    Returns:
        The rest and the images set aside: disjoint, together the list, each sorted by label and path.
    """
    classes = _shuffled(listing, seed, Stream.HOLDOUT)
    for label, samples in enumerate(classes):
        if len(samples) <= per_class:
            raise UserError(
                f"data.val_shots {per_class}: {_class_of(listing, label, samples)}, and at least one must stay: hold "
                "out fewer"
            )
    held = (sample for samples in classes for sample in samples[:per_class])
    rest = (sample for samples in classes for sample in samples[per_class:])
    return _sorted(listing, rest), _sorted(listing, held)


def at_most(listing: FileList, per_class: int, seed: int) -> FileList:
    """The images that :func:`holdout` would set aside with this seed; all of a class that has fewer."""
    classes = _shuffled(listing, seed, Stream.HOLDOUT)
    return _sorted(listing, (sample for samples in classes for sample in samples[:per_class]))


def without(listing: FileList, samples: Collection[Sample]) -> FileList:
    """The list without these samples, in its order."""
    gone = set(samples)
    return replace(listing, samples=tuple(sample for sample in listing.samples if sample not in gone))


def keep_classes(listing: FileList, classes: Classes) -> FileList:
    """The images of some classes, in the list's order.

    Args:
        listing: Labelled images.
        classes: ``all``; ``base``, the first half of the labels (the larger half of an odd number), or ``new``, the
            rest, as in CoCoOp's generalisation from base to new classes (Zhou et al., CVPR 2022); or numbers and names.
            The n-th class gets label n, counted from 0.
    """
    if classes == "all":
        return listing
    labels = _subset(listing, classes) if isinstance(classes, str) else _labels_of(listing.class_names, classes)
    new = {label: place for place, label in enumerate(labels)}
    samples = tuple(Sample(path, new[label]) for path, label in listing.samples if label in new)
    return FileList(listing.root, samples, tuple(listing.class_names[label] for label in labels))


def _subset(listing: FileList, subset: str) -> range:
    if subset not in ("base", "new"):
        raise UserError(f"data.classes {quoted(subset)}: use all, base, new, or a list of names or numbers")
    count = len(listing.class_names)
    half = (count + 1) // 2
    labels = range(half) if subset == "base" else range(half, count)
    if not labels:
        raise UserError(f"data.classes {subset}: {listing.root} has {count} classes, so none are {subset}: use all")
    return labels


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
        raise UserError(
            f"data.classes: {quoted(wanted)} is the name of classes {' and '.join(map(str, found))}: use the number"
        )
    return found[0]
