"""The tables of a report, as values and names; templates write them as text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from lorattt.errors import listed
from lorattt.report.compare import BEFORE, Comparison
from lorattt.report.layout import FAMILIES, MODEL, Layout, Value, corruption_layouts, dataset_title, layouts, whole_size
from lorattt.report.measures import Measures, mean_and_deviation
from lorattt.report.predictions import WHEN
from lorattt.report.rows import Row
from lorattt.report.runs import Corruption
from lorattt.show import speed_digits

_DIGITS: Final = 2
_MOST_NAMED: Final = 10


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, or a value that is the best of its column or not; None or NaN is an empty place."""

    text: str | None = None
    value: float | None = None
    deviation: float | None = None  # standard deviation over seeds, if there are several
    best: bool = False
    digits: int = _DIGITS
    mark: str = ""  # "+": a sign in any case; ",": separated thousands

    @property
    def number(self) -> str:
        """The value as text; empty if there is none."""
        known = self.value is not None and math.isfinite(self.value)
        return f"{self.value:{self.mark}.{self.digits}f}" if known else ""

    @property
    def spread(self) -> str:
        """The deviation as text; empty if there is none."""
        return "" if self.deviation is None else f"{self.deviation:.{self.digits}f}"


Cells = tuple[Cell, ...]


def cells(*values: str | float | Cell | None) -> Cells:
    """A row of a table from texts, whole numbers, numbers of two digits, None for an empty place, and cells."""
    found = []
    for value in values:
        if isinstance(value, str):
            value = Cell(text=value)
        elif isinstance(value, int):
            value = Cell(value=value, digits=0, mark=",")
        found.append(value if isinstance(value, Cell) else Cell(value=value))
    return tuple(found)


@dataclass(frozen=True)
class Table:
    """A table: titles of columns, rows of as many cells, and notes below it."""

    title: str
    # accuracy, corruption, measures, costs, pairs, unlabelled, published or environment
    kind: str = field(kw_only=True)
    columns: tuple[str, ...]
    rows: Sequence[Cells]
    notes: Sequence[str] = ()

    @property
    def numeric(self) -> list[bool]:
        """Which columns have numbers."""
        return [any(row[place].number for row in self.rows) for place in range(len(self.columns))]


def layout_tables(rows: Sequence[Row]) -> list[Table]:
    """For each model, tables of top-1 for each family of datasets, then of errors for those with all severities."""
    tables = []
    for backbone in dict.fromkeys(row.backbone for row in rows):
        mine = [row for row in rows if row.backbone == backbone]
        corrupted = {run.dataset: run.corruption for row in mine for run in row.all_runs()}
        tables += [_table(layout, mine, corrupted) for layout in (*layouts(corrupted), *corruption_layouts(corrupted))]
    return sorted(tables, key=lambda table: table.kind != "accuracy")


def _table(layout: Layout, rows: Sequence[Row], corrupted: Mapping[str, Corruption | None]) -> Table:
    datasets = layout.datasets
    # A run on clean images only has no row in a table of errors on corrupted ones.
    counted = [name for name in datasets if not layout.errors or corrupted.get(name)]
    rows = [row for row in rows if any(name in row.runs for name in counted)]
    values: list[tuple[str, Mapping[str, Mapping[int, float]]]] = [(row.label, row.top1()) for row in rows]
    notes = [*layout.notes, *_size_notes(datasets, rows)]
    before, apart = _before(datasets, rows)
    zero_shot = [row for row in rows if row.method == "zero_shot"]
    if before and not any(set(before) <= set(row.runs) for row in zero_shot):
        values.insert(0, (BEFORE, before))
    if apart:
        names = listed(map(dataset_title, apart), _MOST_NAMED)
        notes.append(f"The methods begin with different texts or models on {names}: no row before adaptation there.")
    if layout.errors:
        values = [(label, _errors(top1)) for label, top1 in values]
    columns = [_column([column.value(each) for _, each in values], layout.errors) for _, column in layout.columns]
    lines = [cells(label, *line) for (label, _), *line in zip(values, *columns, strict=True)]
    title = f"{layout.title}: {layout.measure}, {rows[0].backbone}"
    kind = "corruption" if layout.errors else "accuracy"
    return Table(title, ("Method", *(name for name, _ in layout.columns)), lines, notes, kind=kind)


def _errors(top1: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    return {name: {seed: 100 - value for seed, value in seeds.items()} for name, seeds in top1.items()}


def _before(datasets: Sequence[str], rows: Sequence[Row]) -> tuple[dict[str, dict[int, float]], list[str]]:
    """Accuracy before adaptation on the datasets where all runs agree, and the datasets where they do not."""
    known: dict[str, dict[int, float]] = {}
    apart = []
    found = [row.top1("before") for row in rows]
    for name in datasets:
        values = [value for each in found for value in each.get(name, {}).values()]
        if len({round(value, 6) for value in values}) > 1:
            apart.append(name)
        elif values:
            known[name] = {0: values[0]}
    return known, apart


def _size_notes(datasets: Sequence[str], rows: Sequence[Row]) -> list[str]:
    notes = []
    for name in datasets:
        runs = [run for row in rows for run in row.runs.get(name, {}).values()]
        if not runs:
            continue
        clean, ending = (runs[0].corruption.of, "-C") if runs[0].corruption else (name, "")
        whole = whole_size(clean)
        if whole is not None and whole != runs[0].n:
            title = f"{dataset_title(clean)}{ending}"
            notes.append(f"{title}: {runs[0].n:,} of {whole:,} test images, so not the papers' images.")
    return list(dict.fromkeys(notes))  # the corruptions of a dataset have the same


def _column(values: Sequence[Value | None], errors: bool) -> list[Cell]:
    """A column's cells; the best are those of the best value as shown, none if there is only one value."""
    shown = [round(value.mean, _DIGITS) for value in values if value is not None]
    best = (min if errors else max)(shown) if len(shown) > 1 else None
    found = []
    for each in values:
        filled = each and Cell(value=each.mean, deviation=each.deviation, best=round(each.mean, _DIGITS) == best)
        found.append(filled or Cell())
    return found


def with_model(row: Row, rows: Sequence[Row]) -> str:
    """A row's label, with its model where rows have several."""
    return f"{row.label}, {row.backbone}" if len({each.backbone for each in rows}) > 1 else row.label


def measures_table(rows: Sequence[Row], measures: Mapping[int, Mapping[str, Measures]], bins: int) -> Table:
    """Each method on each dataset, before and after; ``measures`` are those of runs, by their identities."""
    with_brier = any(each["after"].brier is not None for each in measures.values())
    pairs = {"ECE %": "ece", "NLL": "nll", "AURC": "aurc", **({"Brier": "brier"} if with_brier else {})}
    columns = ["Method", "Dataset", "Images", "Seeds", "Top-1 % before", "Top-1 % after", "Change", "Class mean %"]
    columns += [f"{title} {when}" for title in pairs for when in WHEN]
    lines = []
    for row in rows:
        for dataset, seeds in row.runs.items():
            found = [measures[id(run)] for run in seeds.values()]
            images = next(iter(seeds.values())).n
            line: list[str | Cell | int] = [with_model(row, rows), dataset_title(dataset), images]
            line.append(", ".join(map(str, sorted(seeds))))
            line += [_mean([each[when].top1 for each in found]) for when in WHEN]
            line.append(replace(_mean([each["after"].top1 - each["before"].top1 for each in found]), mark="+"))
            line.append(_mean([each["after"].per_class for each in found]))
            for name in pairs.values():
                digits, scale = (4, 1) if name in ("nll", "brier") else (_DIGITS, 100)
                for when in WHEN:
                    line.append(_mean([getattr(each[when], name) for each in found], scale, digits))
            lines.append(cells(*line))
    note = (
        f"ECE with {bins} bins. AURC, times 100: area under error against coverage, smaller is better. "
        "Several seeds: mean ± standard deviation."
    )
    return Table("Measures", tuple(columns), lines, [note], kind="measures")


def _mean(values: Sequence[float | None], scale: float = 100, digits: int = _DIGITS) -> Cell:
    known = [scale * value for value in values if value is not None]
    mean, deviation = mean_and_deviation(known) if len(known) == len(values) else (None, None)
    return Cell(value=mean, deviation=deviation, digits=digits)


def costs_table(rows: Sequence[Row]) -> Table:
    """Speed and memory of each method, over all of its runs."""
    lines, notes = [], []
    for row in rows:
        runs = row.all_runs()
        label = with_model(row, rows)
        if any(run.shared_with for run in runs):
            label += " *"
            notes = ["* In one run with other methods: speed and memory are those of all of them together."]
        peak = max(run.peak_memory_bytes for run in runs)
        memory = Cell(value=peak / 2**20 if peak else None, digits=0, mark=",")
        fallbacks, skipped = sum(run.fallbacks for run in runs), sum(run.skipped for run in runs)
        images = sum(run.n for run in runs)
        lines.append(cells(label, len(runs), images, speed_cell(row.speed), memory, fallbacks, skipped))
    notes.append(
        "Images a second over all runs; peak memory is the largest of any run and device. Not adapted: images that "
        "kept their zero-shot prediction. Unreadable: images left out."
    )
    columns = ("Method", "Runs", "Images", "Images/s", "Peak memory MiB", "Not adapted", "Unreadable")
    return Table("Costs", columns, lines, notes, kind="costs")


def speed_cell(rate: float | None) -> Cell:
    """Images a second; empty where not known."""
    return Cell(value=rate or None, digits=speed_digits(rate or 0.0), mark=",")


def pairs_table(comparisons: Sequence[Comparison], notes: Sequence[str]) -> Table:
    """One row for each comparison."""
    several = len({each.backbone for each in comparisons}) > 1
    rows = [
        cells(
            f"{each.first}, {each.backbone}" if several else each.first,
            each.second,
            dataset_title(each.dataset),
            each.images,
            Cell(value=each.difference, mark="+"),
            f"{each.low:+.2f} to {each.high:+.2f}",
            "; ".join(f"{test.won} / {test.lost}" for test in each.tests),
            "; ".join("< 0.0001" if test.p < 0.0001 else f"{test.p:.4f}" for test in each.tests),
        )
        for each in comparisons
    ]
    columns = ("A", "B", "Dataset", "Images", "A - B, points", "95 % interval", "A / B alone right", "McNemar p")
    about = (
        "The interval is of 10,000 bootstrap resamples of the images, of the mean over seeds. McNemar's test is exact "
        "below 25 discordant pairs, else by chi-square with continuity correction; one for each seed."
    )
    return Table("Differences on the same images", columns, rows, [about, *notes], kind="pairs")


def published_tables(tables: Sequence[Table]) -> list[Table]:
    """Published numbers in the columns of those tables of ours that have published counterparts."""
    found = []
    for family in FAMILIES:
        ours = next((table for table in tables if table.title.startswith(f"{family.title}: ")), None)
        if ours is None:
            continue
        rows = []
        for each in family.published:
            values: Sequence[float | None] = each.values or [None] * (len(ours.columns) - 1)
            protocol = f"{each.protocol}; {each.claim}" if each.claim else each.protocol
            rows.append(cells(each.method, *values, protocol, each.source))
        notes = ["Copied from the sources, not measured by lorattt. Their protocols differ from each other."]
        columns = (*ours.columns, "Protocol", "Source")
        found.append(Table(f"Published, {family.title}: top-1 %, {MODEL}", columns, rows, notes, kind="published"))
    return found
