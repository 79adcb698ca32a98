"""What is there of the benchmarks below a folder, what is missing, and how to fix it; ``lorattt data check``.

Reads lists, looks whether each image file exists and whether class names are the published ones; decodes nothing.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from lorattt.data.catalogue import BENCHMARKS, Benchmark, benchmark
from lorattt.data.file_list import FileList
from lorattt.data.layouts import LOOKS, Located, read_benchmark
from lorattt.errors import UserError, quoted, shortened

Split: TypeAlias = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Finding:
    """What was found of one dataset.

    It is ``complete`` if all listed images exist, each is listed once, there are as many as published, and class names
    are the published ones; ``incomplete`` if it can be read, but is not that.
    """

    dataset: str
    state: Literal["complete", "incomplete", "missing"]
    layout: str = ""
    folder: str = ""
    images: int = 0  # listed images that exist
    listed: int = 0
    expected: int | None = None  # as many as were published; None where unknown
    classes: int = 0
    expected_classes: int = 0
    names: Literal["published", "other", "not known", ""] = ""  # empty if missing
    note: str = ""  # what is wrong and the fix
    fetch: str = ""


def check(
    data_root: Path,
    keys: Sequence[str] = (),
    *,
    split: Split = "test",
    paths: Mapping[str, Path] | None = None,
    splits: Path | None = None,
) -> list[Finding]:
    """Look for datasets, all fifteen without ``keys``; ``paths`` are folders of those that lie elsewhere."""
    places = dict(paths or {})
    for key in (*keys, *places):
        benchmark(key)  # reject unknown names before anything is read
    if not data_root.is_dir():
        raise UserError(f"data_root {data_root}: no such folder")
    return [_finding(BENCHMARKS[key], data_root, split, places.get(key), splits) for key in keys or BENCHMARKS]


def _finding(known: Benchmark, root: Path, split: Split, path: Path | None, splits: Path | None) -> Finding:
    expected = known.counts.get(split)
    missing = Finding(known.key, "missing", expected=expected, expected_classes=known.classes, fetch=known.fetch)
    try:
        listing, located = read_benchmark(known.key, root, split, path=path, splits=splits)
    except UserError as error:
        return replace(missing, note=str(error).removeprefix(f"{known.key}: "))
    absent = _absent(listing)
    found = len(listing.samples) - len(absent)
    notes = []
    if absent:
        notes.append(f"{len(absent)} images are missing, the first is {shortened(absent[0])}: fetch them again")
    elif expected is not None and found != expected:
        notes.append(f"{found} images where {expected} were published: compare the download with its source")
    notes += _list_problems(known, listing)
    return Finding(
        dataset=known.key,
        state="incomplete" if notes else "complete",
        layout=located.layout,
        folder=str(listing.root),
        images=found,
        listed=len(listing.samples),
        expected=expected,
        classes=len(listing.class_names),
        expected_classes=known.classes,
        names=_names_state(known, listing),
        note="; ".join(notes),
    )


def _absent(listing: FileList) -> list[str]:
    """Listed images that do not exist; one look into each folder, not one per image."""

    @cache
    def files(folder: str) -> set[str]:
        try:
            with os.scandir(listing.root / folder) as entries:
                return {entry.name for entry in entries if entry.is_file()}  # a broken link is no file
        except OSError:
            return set()

    places = ((path, *path.rpartition("/")) for path, _ in listing.samples)
    return [path for path, folder, _, name in places if name not in files(folder)]


def problems(known: Benchmark, listing: FileList, located: Located) -> list[str]:
    """What is wrong with a dataset that can be read nonetheless, each as a line with the fix."""
    found = []
    if located.absent:
        looked = f"of the {min(LOOKS, len(listing.samples))} listed images that were looked for"
        first = f"{len(located.absent)} are missing, the first is {shortened(located.absent[0])}"
        found.append(f"{looked}, {first}: lorattt data check --datasets {known.key} counts all")
    # Class folders have none of a list's problems, and their class names are ours.
    return found if located.split_file is None else found + _list_problems(known, listing)


def _list_problems(known: Benchmark, listing: FileList) -> list[str]:
    """What is wrong with a list of images: images listed twice, class names that are not the published ones."""
    found = []
    if len({path for path, _ in listing.samples}) < len(listing.samples):
        found.append(f"{_listed_twice(listing)}: compare the list with its source")
    if _names_state(known, listing) == "other":
        ours = f"{quoted(listing.class_names[0])} to {quoted(listing.class_names[-1])}"
        theirs = f"{quoted(known.first_name)} to {quoted(known.last_name)}"
        found.append(
            f"its class names, {ours}, are not the published ones, {theirs}, or are in another order: "
            "fetch the list of images again"
        )
    return found


def _names_state(known: Benchmark, listing: FileList) -> Literal["published", "other", "not known"]:
    """Whether class names are the published ones, in their order."""
    if not known.names_sha1:
        return "not known"
    digest = hashlib.sha1("\n".join(listing.class_names).encode(), usedforsecurity=False).hexdigest()
    return "published" if digest == known.names_sha1 else "other"


def _listed_twice(listing: FileList) -> str:
    """A message about images that are listed more than once."""
    labels = defaultdict[str, list[int]](list)
    for path, label in listing.samples:
        labels[path].append(label)
    twice = [path for path, found in labels.items() if len(found) > 1]
    torn = [path for path in twice if len(set(labels[path])) > 1]
    text = f"{len(twice)} images are listed more than once and count each time, the first is {shortened(twice[0])}"
    if torn:
        classes = " and ".join(map(str, sorted(set(labels[torn[0]]))[:4]))
        text += f"; {len(torn)} of them have several labels, the first is {shortened(torn[0])} with {classes}"
    return text


def table(findings: Sequence[Finding]) -> str:
    """The findings as text: a table, then one or two lines for each problem."""
    rows = [("dataset", "state", "layout", "images", "expected", "classes", "names")]
    for each in findings:
        expected = "?" if each.expected is None else f"{each.expected:,}"
        counts = (f"{each.images:,}", expected, f"{each.classes} of {each.expected_classes}")
        rows.append((each.dataset, each.state, each.layout or "-", *counts, each.names or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += ["", f"{sum(each.state == 'complete' for each in findings)} of {len(findings)} complete"]
    for each in findings:
        lines += [f"  {each.dataset}: {each.note}"] if each.note else []
        lines += [f"    to get it: {each.fetch}"] if each.fetch else []
    return "\n".join(line.rstrip() for line in lines)
