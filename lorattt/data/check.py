"""What is there of the benchmarks below a folder, what is missing, and how to fix it.

Reads lists, looks whether each image file exists and whether class names are the published ones; decodes nothing.
The command is ``lorattt data check``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorattt.data.catalogue import BENCHMARKS, Benchmark
from lorattt.data.catalogue import benchmark as find_benchmark
from lorattt.data.listing import Listing
from lorattt.data.readers import Names, list_problems, names_state, read_benchmark
from lorattt.errors import UserError, shortened

Split = Literal["train", "val", "test"]
State = Literal["complete", "incomplete", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was found of one dataset.

    Attributes:
        dataset: Its key.
        state: ``complete``: all listed images exist, each is listed once, there are as many as published, and class
            names are the published ones; ``incomplete``: readable, but not that; ``missing``: not found or not
            readable.
        layout: Which layout it lies in, or empty.
        folder: Where its images are, or empty.
        images: How many listed images exist.
        listed: How many the lists or folders name.
        expected: How many were published; null where unknown.
        classes: How many classes were read.
        expected_classes: How many were published.
        names: Whether class names are the published ones: ``published``, ``other`` or ``not known``; empty if missing.
        note: What is wrong and the fix; empty where nothing is.
        fetch: Where to get the dataset, if it is missing.
    """

    dataset: str
    state: State
    layout: str
    folder: str
    images: int
    listed: int
    expected: int | None
    classes: int
    expected_classes: int
    names: Names | Literal[""]
    note: str
    fetch: str = ""


def check(
    data_root: Path,
    keys: Sequence[str] = (),
    *,
    split: Split = "test",
    paths: Mapping[str, Path] | None = None,
    splits: Path | None = None,
) -> list[Finding]:
    """Look for datasets.

    Args:
        data_root: The folder that holds them.
        keys: Which; all fifteen where empty.
        split: Which images of each.
        paths: Folders of single datasets that lie elsewhere.
        splits: Folder of the split files, if they do not lie beside the data.
    """
    places = dict(paths or {})
    for key in (*keys, *places):
        find_benchmark(key)
    if not data_root.is_dir():
        raise UserError(f"data_root {data_root}: no such folder")
    return [_finding(BENCHMARKS[key], data_root, split, places.get(key), splits) for key in keys or BENCHMARKS]


def _finding(benchmark: Benchmark, root: Path, split: Split, path: Path | None, splits: Path | None) -> Finding:
    expected = benchmark.counts.get(split)
    try:
        listing, located = read_benchmark(benchmark.key, root, split, path=path, splits=splits)
    except UserError as error:
        note = str(error).removeprefix(f"{benchmark.key}: ")
        return Finding(
            benchmark.key, "missing", "", "", 0, 0, expected, 0, benchmark.classes, "", note, benchmark.fetch
        )
    absent = _absent(listing)
    found = len(listing.items) - len(absent)
    notes = list_problems(benchmark, listing)
    if absent:
        notes.insert(0, f"{len(absent)} images are missing, the first is {shortened(absent[0])}: fetch them again")
    elif expected is not None and found != expected:
        notes.insert(0, f"{found} images where {expected} were published: compare the download with its source")
    note = "; ".join(notes)
    return Finding(
        dataset=benchmark.key,
        state="incomplete" if note else "complete",
        layout=located.layout,
        folder=str(listing.root),
        images=found,
        listed=len(listing.items),
        expected=expected,
        classes=len(listing.class_names),
        expected_classes=benchmark.classes,
        names=names_state(benchmark, listing),
        note=note,
    )


def _absent(listing: Listing) -> list[str]:
    """Listed images that do not exist; one look into each folder, not one per image."""
    present: dict[str, set[str]] = {}
    absent = []
    for item in listing.items:
        folder, _, name = item.path.rpartition("/")
        if folder not in present:
            present[folder] = _files(listing.root / folder)
        if name not in present[folder]:
            absent.append(item.path)
    return absent


def _files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            # Follows links: a broken one is no file.
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def table(findings: Sequence[Finding]) -> str:
    """The findings as text: a table, then one or two lines for each problem."""
    head = ("dataset", "state", "layout", "images", "expected", "classes", "names")
    rows = [
        (
            each.dataset,
            each.state,
            each.layout or "-",
            f"{each.images:,}",
            "?" if each.expected is None else f"{each.expected:,}",
            f"{each.classes} of {each.expected_classes}",
            each.names or "-",
        )
        for each in findings
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    complete = sum(each.state == "complete" for each in findings)
    lines += ["", f"{complete} of {len(findings)} complete"]
    for each in findings:
        lines += [f"  {each.dataset}: {each.note}"] if each.note else []
        lines += [f"    to get it: {each.fetch}"] if each.fetch else []
    return "\n".join(line.rstrip() for line in lines)
