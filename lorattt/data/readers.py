"""Read a benchmark in any of its layouts: images, labels and class names."""

import hashlib
from pathlib import Path
from typing import Literal, TypeAlias

from lorattt.data import imagenet_family
from lorattt.data.catalogue import Benchmark, benchmark
from lorattt.data.layouts import LOOKS, Located, find
from lorattt.data.listing import Listing, listed_twice
from lorattt.errors import UserError, quoted, shortened

Names: TypeAlias = Literal["published", "other", "not known"]


def read_benchmark(
    key: str, data_root: Path, split: str = "test", *, path: Path | None = None, splits: Path | None = None
) -> tuple[Listing, Located]:
    """The images of one split, and where they were found.

    Class names have spaces where a list has underscores: they go into prompts, and are never used as keys.
    Images come in the order of the file that lists them, else by label and name. Some of them, spread over the list,
    are looked for; another that is missing is reported when it is read.

    Args:
        key: One of :data:`lorattt.data.catalogue.BENCHMARKS`.
        data_root: Folder of all datasets.
        split: ``train``, ``val`` or ``test``; ``val`` and ``test`` of ImageNet are both its validation images.
        path: The dataset's own folder, if it lies elsewhere or has another name.
        splits: Folder of CoOp's split files, if they do not lie beside the data.
    """
    known = benchmark(key)
    located, listed = find(known, data_root, split, path=path, splits=splits)
    if listed is None:
        items = imagenet_family.read_items(key, located.folder, split)
        return Listing(located.folder, items, imagenet_family.class_names(key)), located
    if len(listed.class_names) != known.classes:
        raise UserError(
            f"{key}: {listed.file} has {len(listed.class_names)} classes, but the dataset has {known.classes}: "
            "fetch the file again"
        )
    return Listing(located.folder, listed.items, listed.class_names), located


def problems(known: Benchmark, listing: Listing, located: Located) -> list[str]:
    """What is wrong with a dataset that can be read nonetheless, each as a line with the fix."""
    found = []
    if located.absent:
        found.append(
            f"of the {min(LOOKS, len(listing.items))} listed images that were looked for, {len(located.absent)} are "
            f"missing, the first is {shortened(located.absent[0])}: lorattt data check --datasets {known.key} "
            "counts all"
        )
    # Folders, and class names of ours, have none of a list's problems.
    return found if located.split_file is None else found + list_problems(known, listing)


def list_problems(known: Benchmark, listing: Listing) -> list[str]:
    """What is wrong with a dataset's list of images and with its class names, each as a line with the fix."""
    found = []
    if twice := listed_twice(listing.items):
        found.append(f"{twice}: compare the list with its source")
    if names_state(known, listing) == "other":
        ours, theirs = (listing.class_names[0], listing.class_names[-1]), (known.first_name, known.last_name)
        found.append(
            f"its class names, {' to '.join(map(quoted, ours))}, are not the published ones, "
            f"{' to '.join(map(quoted, theirs))}, or are in another order: fetch the list of images again"
        )
    return found


def names_state(known: Benchmark, listing: Listing) -> Names:
    """Whether class names are the published ones, in their order; ``not known`` where none are published."""
    if not known.names_sha1:
        return "not known"
    digest = hashlib.sha1("\n".join(listing.class_names).encode(), usedforsecurity=False).hexdigest()
    return "published" if digest == known.names_sha1 else "other"
