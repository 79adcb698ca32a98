"""Corruption errors of finished runs, from their ``results.json``."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorattt.data.corruption_error import ALEXNET_ERRORS, BASELINE_DATASETS, SEVERITIES, corruption_error
from lorattt.errors import UserError

_WHEN = ("before", "after")


@dataclass
class Group:
    """Runs of one method, model and dataset that differ in corruption alone.

    Attributes:
        method: The method's name.
        backbone: The model's name.
        dataset: The clean dataset's name.
        errors: Of ``before`` and ``after``: corruption to severity to top-1 error in [0, 1].
        clean: Of ``before`` and ``after``: top-1 error on the clean images, where such a run is among them.
    """

    method: str
    backbone: str
    dataset: str
    errors: dict[str, dict[str, dict[int, float]]] = field(default_factory=lambda: {when: {} for when in _WHEN})
    clean: dict[str, float] = field(default_factory=dict)


def collect(folders: Sequence[Path]) -> list[Group]:
    """Find all runs below some folders.

    Raises:
        UserError: If a folder does not exist, a ``results.json`` is damaged, no run has a corruption, or two
            runs are of the same corruption.
    """
    groups: dict[tuple[str, str, str], Group] = {}
    files = [file for folder in folders for file in _results(folder)]
    for file in files:
        row = _row(file)
        corruption = row.get("corruption")
        dataset = corruption["of"] if corruption else str(row["dataset"])
        key = (str(row["method"]), str(row["backbone"]), dataset)
        group = groups.setdefault(key, Group(*key))
        if corruption and corruption["severity"] in group.errors["before"].get(corruption["name"], {}):
            what = f"{corruption['name']} {corruption['severity']} on {dataset} with {key[0]}"
            raise UserError(f"{file}: a second run of {what}: name the folders of one run each")
        for when in _WHEN:
            error = 1 - float(row[f"top1_{when}"])
            if corruption:
                group.errors[when].setdefault(corruption["name"], {})[corruption["severity"]] = error
            else:
                group.clean[when] = error
    found = [group for group in groups.values() if group.errors["before"]]
    if not found:
        raise UserError(f"no run with a corruption among {len(files)} results.json: run one with data.corruption")
    return found


def _results(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(folder.rglob("results.json"))


def _row(file: Path) -> dict[str, Any]:
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        needed = ["method", "backbone", "dataset", *(f"top1_{when}" for when in _WHEN)]
        missing = [key for key in needed if key not in row]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: not a results.json of lorattt ({error})") from error
    if missing:
        raise UserError(f"{file}: has no {missing[0]}: it is not of a run on labelled images")
    found: dict[str, Any] = row
    return found


def table(groups: Sequence[Group]) -> str:
    """Errors in percent, mean over the severities there are; for ImageNet with all five also CE relative to AlexNet."""
    return "\n\n\n".join(_one_table(group) for group in groups)


def _one_table(group: Group) -> str:
    errors = {when: _means(group, when) for when in _WHEN}
    relative = {when: _relative(group, when) for when in _WHEN}
    columns = [errors["before"], errors["after"], *([relative[when] for when in _WHEN] if relative["before"] else [])]
    heads = ["before", "after", "CE before", "CE after"][: len(columns)]

    def line(name: str, severities: str, cells: Sequence[str]) -> str:
        return f"{name:18}  {severities:>10}" + "".join(f"  {cell:>9}" for cell in cells)

    lines = [f"{group.method} on {group.dataset}, {group.backbone}: top-1 error %", "", line("", "severities", heads)]
    for name, severities in sorted(group.errors["before"].items()):
        cells = [f"{100 * column[name]:.2f}" if name in column else "-" for column in columns]
        lines.append(line(name, ",".join(map(str, sorted(severities))), cells))
    lines.append(line("mean", "", [f"{100 * math.fsum(column.values()) / len(column):.2f}" for column in columns]))
    absent = [name for name in ALEXNET_ERRORS if name not in relative["before"]]
    if relative["before"] and absent:
        lines += ["", f"The mean CE is not the mCE of papers, which also counts {', '.join(absent)}."]
    return "\n".join(lines)


def _means(group: Group, when: str) -> dict[str, float]:
    return {name: math.fsum(of.values()) / len(of) for name, of in group.errors[when].items()}


def _relative(group: Group, when: str) -> dict[str, float]:
    """CE of the corruptions with all five severities; of ImageNet alone, whose baseline is known."""
    whole = {
        name: [severities[severity] for severity in SEVERITIES]
        for name, severities in group.errors[when].items()
        if set(severities) == set(SEVERITIES) and name in ALEXNET_ERRORS
    }
    return corruption_error(whole).ce if whole and group.dataset in BASELINE_DATASETS else {}
