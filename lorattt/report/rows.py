"""Runs gathered into the rows of a table: one method with its settings, on several datasets, with several seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from lorattt.errors import UserError, shortened
from lorattt.report.escape import visible
from lorattt.report.runs import Run
from lorattt.settings import affects_results, dotted

_LISTED = 3
_IGNORED = ("seed", "view_chunk")  # the latter in configurations of earlier versions


@dataclass
class Row:
    """One row of the tables: a method's runs by dataset and seed."""

    label: str  # the method's name, with the settings that tell it from others of that method
    method: str
    backbone: str
    runs: dict[str, dict[int, Run]] = field(default_factory=dict)

    def all_runs(self) -> list[Run]:
        """The runs of all datasets and seeds."""
        return [run for seeds in self.runs.values() for run in seeds.values()]

    @property
    def speed(self) -> float | None:
        """Images a second over all runs; None where no run has a speed: an earlier attempt predicted all images."""
        timed = [run for run in self.all_runs() if run.images_per_second > 0]
        seconds = math.fsum(run.n / run.images_per_second for run in timed)
        return sum(run.n for run in timed) / seconds if seconds else None

    def top1(self, when: str = "after") -> dict[str, dict[int, float]]:
        """Accuracy in percent, by dataset and seed."""
        return {
            name: {seed: 100 * run.predictions.top1(when) for seed, run in seeds.items()}
            for name, seeds in self.runs.items()
        }


def of_same_images(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Leave out runs with fewer images than others of their dataset, such as short trials; and a note for each."""
    largest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: -run.n):  # a stable order: the first of the largest
        largest.setdefault(run.dataset, run)
    kept, notes = [], []
    for run in runs:
        other = largest[run.dataset]
        mine, theirs = run.predictions, other.predictions
        if run is not other:
            _check_common(run, other)
        if np.array_equal(mine.index, theirs.index):
            kept.append(run)
        else:
            notes.append(
                f"{run.folder}: left out, as its {len(mine.index):,} images of {run.dataset} are not the "
                f"{len(theirs.index):,} of {other.folder}. Name such runs alone to report them."
            )
    return kept, notes


def _check_common(run: Run, other: Run) -> None:
    """Require the same image and label under each number that both runs have."""
    mine, theirs = run.predictions, other.predictions
    common, here, there = np.intersect1d(mine.index, theirs.index, assume_unique=True, return_indices=True)
    paths = [number for number, (i, j) in enumerate(zip(here, there, strict=True)) if mine.path[i] != theirs.path[j]]
    labels = np.flatnonzero(mine.label[here] != theirs.label[there])
    apart = sorted({*paths, *labels.tolist()})
    if apart:
        path = shortened(visible(theirs.path[there[apart[0]]]))
        raise UserError(
            f"{other.folder} and {run.folder}: both are of {run.dataset} with different "
            f"{'images' if paths else 'labels'}: {len(apart)} of {len(common)} differ, such as number "
            f"{common[apart[0]]} ({path}): report them apart"
        )


def gather(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """Rows in the order in which their first runs were given, zero-shot first, and notes for the reader.

    Runs of one method are of one row, unless two on the same dataset have other settings: then these settings tell
    rows apart. Settings that differ only between datasets do not, as papers choose them per dataset.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.name or run.method, run.backbone), []).append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for (label, backbone), members in groups.items():
        stated = [settings(run) for run in members]
        telling = _telling(members, stated)
        found: dict[str, Row] = {}
        for run, own in zip(members, stated, strict=True):
            values = {key: own.get(key) for key in telling}
            row = found.setdefault(as_text(values), Row(_label(label, values), run.method, backbone))
            first = row.runs.setdefault(run.dataset, {}).setdefault(run.seed, run)
            alike = (first.n, first.skipped, first.measures) == (run.n, run.skipped, run.measures)
            if first is not run and alike:
                notes.append(f"{run.folder} has the results of {first.folder}: counted once.")
            elif first is not run:
                raise UserError(
                    f"{first.folder} and {run.folder}: two runs of {label} on {run.dataset} with seed "
                    f"{run.seed} and other results: name one of them, or tell them apart as NAME=FOLDER"
                )
        for row, numbered in zip(
            found.values(), numbered_apart([row.label for row in found.values()], " #"), strict=True
        ):
            row.label = numbered
        rows += found.values()
    rows.sort(key=lambda row: row.method != "zero_shot")  # what the others start from comes first
    return rows, notes


def settings(run: Run) -> dict[str, Any]:
    """The method's settings in the configuration that affect results, by dotted keys, without the seed."""
    if not run.configured("model", "init_args"):
        return {}
    own = dotted(run.method_arguments).items()
    found = {key: value for key, value in own if key not in _IGNORED and affects_results(("model", *key.split(".")))}
    return {**found, "trainer.precision": run.configured("trainer").get("precision")}


def _telling(runs: Sequence[Run], stated: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which two runs on the same dataset differ, of those that both state."""
    found: set[str] = set()
    for (one, first), (other, second) in combinations(zip(runs, stated, strict=True), 2):
        if one.dataset == other.dataset:
            differing = {key for key in first.keys() & second.keys() if first[key] != second[key]}
            # With another seed a prompt may be learned anew; such runs belong to one row.
            found |= differing - ({"prompt.file"} if one.seed != other.seed else set())
    return sorted(found)


def _label(label: str, values: Mapping[str, Any]) -> str:
    parts = [f"{key}={shortened(as_text(value), 32)}" for key, value in values.items()]
    if len(parts) > _LISTED:
        parts = [*parts[:_LISTED], "..."]
    return f"{label} ({', '.join(parts)})" if parts else label


def as_text(value: Any) -> str:
    """A setting's value as text."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def numbered_apart(names: Sequence[str], mark: str) -> list[str]:
    """The names, repeated ones with a mark and a number appended."""
    places = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [f"{name}{mark}{number}" if number > 1 else name for name, number in zip(names, places, strict=True)]
