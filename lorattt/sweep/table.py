"""The table of a sweep: methods by datasets, mean and standard deviation over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorattt.show import speed
from lorattt.sweep.folders import Result
from lorattt.sweep.plan import Run
from lorattt.sweep.scheduler import Outcome

# Two methods have the same zero-shot numbers if these differ by no more than a rounding somewhere.
_SAME = 5e-4


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: Of the method, or whose "before" it is.
        values: Top-1 as fractions by dataset and seed.
        speed: Images per second over all runs; None for a row of "before" or where nothing ran.
        planned: How many seeds each dataset should have.
    """

    name: str
    values: Mapping[str, Mapping[int, float]]
    speed: float | None
    planned: Mapping[str, int]

    def mean(self, dataset: str) -> float | None:
        """Over the seeds there are; None where there is none."""
        found = self.values.get(dataset)
        return statistics.fmean(found.values()) if found else None

    def deviation(self, dataset: str) -> float | None:
        """Of a sample, over seeds; None for fewer than two."""
        found = self.values.get(dataset, {})
        return statistics.stdev(found.values()) if len(found) > 1 else None

    def overall(self, datasets: Sequence[str]) -> dict[int, float]:
        """The mean over datasets by seed, of the seeds that all datasets have; none where a dataset misses a seed."""
        seeds = {frozenset(self.values.get(dataset, {})) for dataset in datasets}
        if len(datasets) < 2 or len(seeds) != 1 or any(self._misses(dataset) for dataset in datasets):
            return {}
        return {
            seed: statistics.fmean(self.values[dataset][seed] for dataset in datasets) for seed in sorted(seeds.pop())
        }

    def _misses(self, dataset: str) -> bool:
        return len(self.values.get(dataset, {})) < self.planned.get(dataset, 0) or not self.planned.get(dataset)


def rows_of(found: Sequence[tuple[Run, Sequence[Result]]], planned: Sequence[Run]) -> list[Row]:
    """Rows of "before", one for each set of methods that begin with the same, then a row for each method.

    Args:
        found: Finished runs with their results.
        planned: All runs of the sweep, in order.
    """
    datasets = list(dict.fromkeys(run.dataset for run in planned))
    after: dict[str, dict[str, dict[int, float]]] = {}
    before: dict[str, dict[str, dict[int, float]]] = {}
    work: dict[str, list[tuple[int, float]]] = {}
    due: dict[str, dict[str, int]] = {}
    order: dict[str, tuple[int, int]] = {}
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(run.row for run in planned))}
    for run, results in found:
        for number, result in enumerate(results):
            name = f"{run.row}/{result.member}" if result.member else run.row
            order.setdefault(name, (ranks[run.row], number))
            work.setdefault(name, []).append((result.n, result.seconds))
            due.setdefault(name, {d: sum(r.row == run.row and r.dataset == d for r in planned) for d in datasets})
            for table, value in ((after, result.after), (before, result.before)):
                values = table.setdefault(name, {})
                if value is not None:
                    values.setdefault(run.dataset, {})[run.seed] = value
    for name, rank in ranks.items():
        if all(run.row != name for run, _ in found):
            order[name], after[name], before[name], work[name], due[name] = (rank, 0), {}, {}, [], {}
    names = sorted(order, key=order.__getitem__)
    return [*_before(names, before, due), *(Row(name, after[name], _speed(work[name]), due[name]) for name in names)]


def _before(
    names: Sequence[str], before: Mapping[str, dict[str, dict[int, float]]], due: Mapping[str, Mapping[str, int]]
) -> list[Row]:
    groups: list[tuple[list[str], dict[str, dict[int, float]], dict[str, int]]] = []
    for name in names:
        if not before[name]:
            continue
        for members, values, planned in groups:
            if _agree(values, before[name]):
                members.append(name)
                for dataset, seeds in before[name].items():
                    values.setdefault(dataset, {}).update(seeds)
                # A seed that one of the methods has is there for all of them.
                planned.update({d: max(n, planned.get(d, 0)) for d, n in due[name].items()})
                break
        else:
            copied = {dataset: dict(seeds) for dataset, seeds in before[name].items()}
            groups.append(([name], copied, dict(due[name])))
    alone = len(groups) == 1
    return [
        Row("before" if alone else f"before ({', '.join(members)})", values, None, planned)
        for members, values, planned in groups
    ]


def _agree(one: Mapping[str, Mapping[int, float]], other: Mapping[str, Mapping[int, float]]) -> bool:
    pairs = [
        (one[dataset][seed], value)
        for dataset, seeds in other.items()
        for seed, value in seeds.items()
        if seed in one.get(dataset, {})
    ]
    return bool(pairs) and all(abs(a - b) <= _SAME for a, b in pairs)


def _speed(work: Sequence[tuple[int, float]]) -> float | None:
    seconds = sum(seconds for _, seconds in work)
    return sum(n for n, _ in work) / seconds if seconds > 0 and math.isfinite(seconds) else None


def markdown(rows: Sequence[Row], datasets: Sequence[str]) -> str:
    """The table as text: percent, mean ± standard deviation; ``(2/3)`` where seeds are missing."""
    with_mean = len(datasets) > 1
    head = ["top-1 %", *datasets, *(["mean"] if with_mean else []), "images/s"]
    lines = [head]
    for row in rows:
        cells = [row.name, *(_cell(row, dataset) for dataset in datasets)]
        if with_mean:
            overall = list(row.overall(datasets).values())
            cells.append(_number(overall) if overall else "")
        lines.append([*cells, "" if row.speed is None else speed(row.speed)])
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    text = []
    for number, line in enumerate(lines):
        first, *others = zip(line, widths, strict=True)
        text.append(" | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))
        if number == 0:
            text.append(" | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]))
    return "\n".join(f"| {line} |" for line in text)


def _cell(row: Row, dataset: str) -> str:
    values = list(row.values.get(dataset, {}).values())
    if not values:
        return ""
    planned = row.planned.get(dataset, 0)
    return _number(values) + (f" ({len(values)}/{planned})" if len(values) < planned else "")


def _number(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line of Markdown for each run that failed."""
    return [
        # As code, so that nothing in a message is taken for Markdown.
        f"- {outcome.run.name}: `{outcome.reason.replace('`', chr(39))}` ({outcome.run.folder / 'log.txt'})"
        for outcome in outcomes.values()
        if outcome.state == "failed"
    ]


def as_json(rows: Sequence[Row], datasets: Sequence[str]) -> list[dict[str, Any]]:
    """The rows for ``sweep.json``: fractions, with all seeds."""
    return [
        {
            "name": row.name,
            "images_per_second": row.speed,
            "datasets": {
                dataset: {
                    "seeds": {str(seed): value for seed, value in row.values[dataset].items()},
                    "mean": row.mean(dataset),
                    "standard_deviation": row.deviation(dataset),
                }
                for dataset in datasets
                if row.values.get(dataset)
            },
        }
        for row in rows
    ]
