"""The tables of a report, as values and names; ``render`` and the page's templates write them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lorattt.errors import listed
from lorattt.report.compare import BEFORE, Comparison
from lorattt.report.corruption import corruption_layouts
from lorattt.report.layout import (
    FINE_GRAINED_TITLE,
    IMAGENET_TITLE,
    Layout,
    Value,
    dataset_title,
    evaluate,
    layouts,
    whole_size,
)
from lorattt.report.measures import Measures, mean_and_deviation
from lorattt.report.predictions import WHEN
from lorattt.report.published import MODEL, PUBLISHED
from lorattt.report.rows import Row
from lorattt.report.runs import Corruption, Run
from lorattt.show import speed_digits

_DIGITS: Final = 2
_MOST_NAMED: Final = 10
_FAMILIES: Final = {IMAGENET_TITLE: "imagenet", FINE_GRAINED_TITLE: "fine_grained"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text or a value.

    Attributes:
        text: Not escaped; None for a value.
        value: The value; None, or NaN, for an empty place.
        deviation: Its standard deviation over seeds, if there are several.
        best: Whether it is the best of its column.
        digits: Digits behind the point.
        signed: Whether a plus is written.
        grouped: Whether thousands are separated.
    """

    text: str | None = None
    value: float | None = None
    deviation: float | None = None
    best: bool = False
    digits: int = _DIGITS
    signed: bool = False
    grouped: bool = False

    @property
    def number(self) -> str:
        """The value as text; empty if there is none."""
        if self.value is None or not math.isfinite(self.value):
            return ""
        sign, comma = "+" if self.signed else "", "," if self.grouped else ""
        return f"{self.value:{sign}{comma}.{self.digits}f}"

    @property
    def spread(self) -> str:
        """The deviation as text; empty if there is none."""
        return "" if self.deviation is None else f"{self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Above it.
        columns: Their titles; the first is that of the rows' names.
        rows: Each as long as ``columns``.
        notes: Below it.
        kind: ``accuracy``, ``corruption``, ``measures``, ``costs``, ``pairs``, ``unlabelled`` or ``published``.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    kind: str = "accuracy"

    @property
    def numeric(self) -> list[bool]:
        """Which columns have numbers."""
        return [any(row[place].number for row in self.rows) for place in range(len(self.columns))]


@dataclass
class Measured:
    """Runs with their measures.

    Attributes:
        rows: The rows.
        measures: Measures of a run, by its identity, under ``before`` and ``after``.
    """

    rows: Sequence[Row]
    measures: dict[int, dict[str, Measures]] = field(default_factory=dict)

    def top1(self, run: Run, when: str = "after") -> float:
        """Accuracy in percent."""
        return 100 * self.measures[id(run)][when].top1


def accuracy_tables(found: Measured) -> list[Table]:
    """A table for each model and each family of datasets there is; top-1 after adaptation, in percent."""
    return _tables(found, layouts, "accuracy")


def corruption_tables(found: Measured) -> list[Table]:
    """A table for each model and each dataset with corruptions at all five severities; errors after adaptation."""
    return _tables(found, corruption_layouts, "corruption")


def _tables(
    found: Measured, layouts_of: Callable[[Mapping[str, Corruption | None]], list[Layout]], kind: str
) -> list[Table]:
    tables = []
    backbones = list(dict.fromkeys(row.backbone for row in found.rows))
    for backbone in backbones:
        rows = [row for row in found.rows if row.backbone == backbone]
        corrupted = {run.dataset: run.corruption for row in rows for run in row.all_runs()}
        tables += [_table(layout, rows, found, kind) for layout in layouts_of(corrupted)]
    return tables


def _table(layout: Layout, rows: Sequence[Row], found: Measured, kind: str) -> Table:
    datasets = layout.datasets
    # A run on clean images only has no row in a table of errors on corrupted ones.
    counted = [name for name in datasets if not layout.errors or _is_corrupted(name, rows)]
    rows = [row for row in rows if any(name in row.runs for name in counted)]
    values: list[tuple[str, Mapping[str, Mapping[int, float]]]] = [
        (row.label, {name: {seed: found.top1(run) for seed, run in row.runs[name].items()} for name in row.runs})
        for row in rows
    ]
    notes = [*layout.notes, *_size_notes(datasets, rows)]
    before, apart = _before(datasets, rows, found)
    zero_shot = [row for row in rows if row.method == "zero_shot"]
    if before and not any(set(before) <= set(row.runs) for row in zero_shot):
        values.insert(0, (BEFORE, before))
    if apart:
        names = listed(map(dataset_title, apart), _MOST_NAMED)
        notes.append(f"The methods begin with different texts or models on {names}: no row before adaptation there.")
    shown = [_errors(each) if layout.errors else each for _, each in values]
    columns = [[evaluate(column, each) for each in shown] for _, column in layout.columns]
    best = [_best(column, min if layout.errors else max) for column in columns]
    lines = tuple(
        (Cell(text=label), *(_cell(column[place], place in mine) for column, mine in zip(columns, best, strict=True)))
        for place, (label, _) in enumerate(values)
    )
    title = f"{layout.title}: {layout.measure}, {rows[0].backbone}"
    return Table(title, ("Method", *(name for name, _ in layout.columns)), lines, tuple(notes), kind)


def _is_corrupted(dataset: str, rows: Sequence[Row]) -> bool:
    return any(run.corruption is not None for row in rows for run in row.runs.get(dataset, {}).values())


def _errors(top1: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    return {name: {seed: 100 - value for seed, value in seeds.items()} for name, seeds in top1.items()}


def _before(
    datasets: Sequence[str], rows: Sequence[Row], found: Measured
) -> tuple[dict[str, dict[int, float]], list[str]]:
    """Accuracy before adaptation on the datasets where all runs agree, and the datasets where they do not."""
    known: dict[str, dict[int, float]] = {}
    apart = []
    for name in datasets:
        runs = [run for row in rows for run in row.runs.get(name, {}).values()]
        values = {round(found.top1(run, "before"), 6) for run in runs}
        if len(values) == 1:
            known[name] = {0: found.top1(runs[0], "before")}
        elif values:
            apart.append(name)
    return known, apart


def _size_notes(datasets: Sequence[str], rows: Sequence[Row]) -> list[str]:
    notes = []
    for name in datasets:
        run = next((run for row in rows for run in row.runs.get(name, {}).values()), None)
        if run is None:
            continue
        whole = whole_size(run.corruption.of if run.corruption else name)
        title = f"{dataset_title(run.corruption.of)}-C" if run.corruption else dataset_title(name)
        if whole is not None and run.n != whole:
            notes.append(f"{title}: {run.n:,} of {whole:,} test images, so not the papers' images.")
    return list(dict.fromkeys(notes))  # the corruptions of a dataset have the same


def _best(column: Sequence[Value | None], choose: Callable[..., float]) -> set[int]:
    """Rows with the best value of a column, rounded as shown; none if there is only one value."""
    shown = {place: round(value.mean, _DIGITS) for place, value in enumerate(column) if value is not None}
    return {place for place, value in shown.items() if value == choose(shown.values())} if len(shown) > 1 else set()


def _cell(value: Value | None, best: bool) -> Cell:
    return Cell() if value is None else Cell(value=value.mean, deviation=value.deviation, best=best)


def measures_table(found: Measured, bins: int) -> Table:
    """Each method on each dataset, before and after."""
    columns = ["Method", "Dataset", "Images", "Seeds", "Top-1 % before", "Top-1 % after", "Change", "Class mean %"]
    columns += [f"{name} {when}" for name in ("ECE %", "NLL", "AURC") for when in WHEN]
    several = len({row.backbone for row in found.rows}) > 1
    with_brier = any(each["after"].brier is not None for each in found.measures.values())
    columns += [f"Brier {when}" for when in WHEN] if with_brier else []
    rows = []
    for row in found.rows:
        for dataset, seeds in row.runs.items():
            pairs = [found.measures[id(run)] for run in seeds.values()]
            first = next(iter(seeds.values()))

            def cell(name: str, when: str, pairs: Sequence[dict[str, Measures]] = pairs) -> Cell:
                values = [getattr(each[when], name) for each in pairs]
                likely = name in ("nll", "brier")
                return _mean_cell(values, 1 if likely else 100, 4 if likely else _DIGITS)

            change = _mean_cell([each["after"].top1 - each["before"].top1 for each in pairs], 100, _DIGITS, signed=True)
            line = [
                Cell(text=f"{row.label}, {row.backbone}" if several else row.label),
                Cell(text=dataset_title(dataset)),
                Cell(value=first.n, digits=0, grouped=True),
                Cell(text=", ".join(map(str, sorted(seeds)))),
                *(cell("top1", when) for when in WHEN),
                change,
                cell("per_class", "after"),
            ]
            shown = ["ece", "nll", "aurc", *(["brier"] if with_brier else [])]
            line += [cell(name, when) for name in shown for when in WHEN]
            rows.append(tuple(line))
    notes = (
        f"ECE with {bins} bins. AURC, times 100: area under error against coverage, smaller is better. "
        "Several seeds: mean ± standard deviation.",
    )
    return Table("Measures", tuple(columns), tuple(rows), notes, kind="measures")


def _mean_cell(values: Sequence[float | None], scale: float, digits: int, *, signed: bool = False) -> Cell:
    known = [scale * value for value in values if value is not None]
    if len(known) < len(values):
        return Cell()
    mean, deviation = mean_and_deviation(known)
    return Cell(value=mean, deviation=deviation, digits=digits, signed=signed)


def costs_table(rows: Sequence[Row]) -> Table:
    """Speed and memory of each method, over all of its runs."""
    lines, notes = [], []
    several = len({row.backbone for row in rows}) > 1
    for row in rows:
        runs = row.all_runs()
        timed = [run for run in runs if run.images_per_second > 0]  # 0 if an earlier attempt predicted all images
        seconds = math.fsum(run.n / run.images_per_second for run in timed)
        images = sum(run.n for run in runs)
        shared = any(run.shared_with for run in runs)
        peak = max(run.peak_memory_bytes for run in runs)
        label = f"{row.label}, {row.backbone}" if several else row.label
        lines.append(
            (
                Cell(text=label + (" *" if shared else "")),
                Cell(value=len(runs), digits=0),
                Cell(value=images, digits=0, grouped=True),
                speed_cell(sum(run.n for run in timed) / seconds if seconds else None),
                Cell(value=peak / 2**20 if peak else None, digits=0, grouped=True),
                Cell(value=sum(run.fallbacks for run in runs), digits=0, grouped=True),
                Cell(value=sum(run.skipped for run in runs), digits=0, grouped=True),
            )
        )
        if shared:
            notes = ["* In one run with other methods: speed and memory are those of all of them together."]
    notes.append(
        "Images a second over all runs; peak memory is the largest of any run and device. Not adapted: images that "
        "kept their zero-shot prediction. Unreadable: images left out."
    )
    columns = ("Method", "Runs", "Images", "Images/s", "Peak memory MiB", "Not adapted", "Unreadable")
    return Table("Costs", columns, tuple(lines), tuple(notes), kind="costs")


def speed_cell(rate: float | None) -> Cell:
    """Images a second; empty where that is not known."""
    known = rate if rate else None
    return Cell(value=known, digits=speed_digits(known or 0.0), grouped=True)


def pairs_table(comparisons: Sequence[Comparison], notes: Sequence[str]) -> Table:
    """One row for each comparison."""
    several = len({each.backbone for each in comparisons}) > 1
    rows = []
    for each in comparisons:
        rows.append(
            (
                Cell(text=f"{each.first}, {each.backbone}" if several else each.first),
                Cell(text=each.second),
                Cell(text=dataset_title(each.dataset)),
                Cell(value=each.images, digits=0, grouped=True),
                Cell(value=each.difference, signed=True),
                Cell(text=f"{each.low:+.2f} to {each.high:+.2f}"),
                Cell(text="; ".join(f"{test.won} / {test.lost}" for test in each.tests)),
                Cell(text="; ".join(_probability(test.p) for test in each.tests)),
            )
        )
    columns = ("A", "B", "Dataset", "Images", "A - B, points", "95 % interval", "A / B alone right", "McNemar p")
    about = (
        "The interval is of 10,000 bootstrap resamples of the images, of the mean over seeds. McNemar's test is exact "
        "below 25 discordant pairs, else by chi-square with continuity correction; one for each seed."
    )
    return Table("Differences on the same images", columns, tuple(rows), (about, *notes), kind="pairs")


def _probability(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def published_tables(tables: Sequence[Table]) -> list[Table]:
    """Published numbers in the columns of those tables of ours that have published counterparts."""
    found = []
    for title, family in _FAMILIES.items():
        ours = next((table for table in tables if table.title.startswith(f"{title}: ")), None)
        if ours is None:
            continue
        rows = []
        for each in PUBLISHED:
            if each.family == family:
                values = [Cell(value=value) for value in each.values] or [Cell() for _ in ours.columns[1:]]
                protocol = f"{each.protocol}; {each.claim}" if each.claim else each.protocol
                rows.append((Cell(text=each.method), *values, Cell(text=protocol), Cell(text=each.source)))
        notes = ("Copied from the sources, not measured by lorattt. Their protocols differ from each other.",)
        columns = (*ours.columns, "Protocol", "Source")
        found.append(Table(f"Published, {title}: top-1 %, {MODEL}", columns, tuple(rows), notes, kind="published"))
    return found
