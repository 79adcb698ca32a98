"""Runs gathered into the rows of a table: one method with its settings, on several datasets, with several seeds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from lorattt.errors import UserError, shortened
from lorattt.report.runs import Run

# Settings that affect only speed or memory, and the seed: runs of one row may differ in them.
_WITHOUT_EFFECT: Final = frozenset(("seed", "chunk", "view_chunk"))
_LISTED = 3


@dataclass
class Row:
    """One row of the tables.

    Attributes:
        label: Its name in tables: the method's, with the settings that tell it from others of that method.
        method: The method's name.
        backbone: The model's name.
        runs: The runs by dataset and seed.
    """

    label: str
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


def gather(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """Rows in the order in which their first runs were given, zero-shot first, and notes for the reader.

    Runs of one method are of one row, unless two on the same dataset have other settings: then these settings tell
    rows apart. Settings that differ only between datasets do not, as papers choose them per dataset.

    Raises:
        UserError: If two runs of one row, dataset and seed have other results.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.name or run.method, run.backbone), []).append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for (label, backbone), members in groups.items():
        stated = {id(run): settings(run) for run in members}
        telling = _telling(members, stated)
        found: dict[str, Row] = {}
        for run in members:
            values = {key: stated[id(run)].get(key) for key in telling}
            told = json.dumps(values, sort_keys=True, default=str)
            row = found.setdefault(told, Row(_label(label, values), run.method, backbone))
            same = row.runs.setdefault(run.dataset, {})
            if run.seed not in same:
                same[run.seed] = run
            elif _results(same[run.seed]) == _results(run):
                notes.append(f"{run.folder} has the results of {same[run.seed].folder}: counted once.")
            else:
                raise UserError(
                    f"{same[run.seed].folder} and {run.folder}: two runs of {label} on {run.dataset} with seed "
                    f"{run.seed} and other results: name one of them, or tell them apart as NAME=FOLDER"
                )
        rows += _numbered(found.values())
    rows.sort(key=lambda row: row.method != "zero_shot")  # what the others start from comes first
    return rows, notes


def settings(run: Run) -> dict[str, Any]:
    """The method's settings in the configuration, by dotted keys; empty without a configuration."""
    if not run.configured("model", "init_args"):
        return {}
    return {**_flat(run.method_arguments), "trainer.precision": run.configured("trainer").get("precision")}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not above and key in _WITHOUT_EFFECT:
            continue
        if isinstance(value, dict):
            found.update(_flat(value, f"{above}{key}."))
        else:
            found[f"{above}{key}"] = value
    return found


def _telling(runs: Sequence[Run], stated: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The settings in which two runs on the same dataset differ, of those that both state."""
    found: set[str] = set()
    for one, other in combinations(runs, 2):
        if one.dataset != other.dataset:
            continue
        first, second = stated[id(one)], stated[id(other)]
        # With another seed a prompt may be learned anew; such runs belong to one row.
        found |= {
            key
            for key in first.keys() & second.keys()
            if first[key] != second[key] and not (key == "prompt.file" and one.seed != other.seed)
        }
    return sorted(found)


def _label(label: str, values: Mapping[str, Any]) -> str:
    parts = [f"{key}={shortened(as_text(value), 32)}" for key, value in values.items()]
    if len(parts) > _LISTED:
        parts = [*parts[:_LISTED], "..."]
    return f"{label} ({', '.join(parts)})" if parts else label


def as_text(value: Any) -> str:
    """A setting's value as text."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _numbered(rows: Iterable[Row]) -> list[Row]:
    """The rows, with a number appended to repeated labels."""
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        seen[row.label] = number = seen.get(row.label, 0) + 1
        row.label = f"{row.label} #{number}" if number > 1 else row.label
        found.append(row)
    return found


def _results(run: Run) -> tuple[Any, ...]:
    return run.n, run.skipped, sorted(run.measures.items())
