"""A report made from run folders, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lorattt import __version__
from lorattt.calibration import ECE_BINS
from lorattt.errors import UserError
from lorattt.report.compare import Comparison, compare
from lorattt.report.files import write_files
from lorattt.report.measures import measure
from lorattt.report.render import JSON_FORMAT, KIND, as_json, as_latex, as_markdown, plain
from lorattt.report.rows import Row, gather
from lorattt.report.runs import Run, find_runs
from lorattt.report.same_images import of_same_images
from lorattt.report.tables import (
    Measured,
    Table,
    accuracy_tables,
    corruption_tables,
    costs_table,
    measures_table,
    pairs_table,
    published_tables,
)
from lorattt.report.unlabelled import Unlabelled, unlabelled, unlabelled_tables

MOST_BINS: Final = 10_000
Format = Literal["markdown", "latex", "html", "all"]
_MARKDOWN, _LATEX, _JSON = "report.md", "tables.tex", "report.json"


@dataclass(frozen=True)
class Report:
    """All that a report holds.

    Attributes:
        runs: The runs with labels, in the order given.
        rows: Their rows in tables.
        measured: The rows with their measures.
        unlabelled: The runs without labels.
        tables: Of our own runs: accuracy, corruption error, measures, differences, costs, runs without labels.
        comparisons: The differences as numbers.
        published: Tables of published numbers; empty where none belong to ours, or none are wanted.
        notes: Notes for the reader.
        bins: Of the expected calibration error.
    """

    runs: list[Run]
    rows: list[Row]
    measured: Measured
    unlabelled: list[Unlabelled]
    tables: list[Table]
    comparisons: list[Comparison]
    published: list[Table]
    notes: list[str]
    bins: int

    @property
    def shown(self) -> list[Run]:
        """All runs of rows, then those without labels."""
        return [*(run for row in self.rows for run in row.all_runs()), *(each.run for each in self.unlabelled)]

    @property
    def markdown(self) -> str:
        """The report as Markdown."""
        accuracy = [table for table in self.tables if table.kind == "accuracy"]
        corruption = [table for table in self.tables if table.kind == "corruption"]
        others = [(table.title, [table]) for table in self.tables if table.kind not in ("accuracy", "corruption")]
        own = [("Accuracy", accuracy), ("Corruption error", corruption), *others]
        return as_markdown([*own, ("Published numbers", self.published)], self.notes)

    @property
    def latex(self) -> str:
        """The tables as LaTeX."""
        return as_latex([*self.tables, *self.published])

    @property
    def json(self) -> str:
        """All numbers as JSON."""
        labels = {id(run): row.label for row in self.rows for run in row.all_runs()}
        found = {
            "kind": KIND,
            "format": JSON_FORMAT,
            "lorattt": __version__,
            "bins": self.bins,
            "runs": [_run_json(run, labels[id(run)], self.measured) for run in self.runs if id(run) in labels],
            "unlabelled": [_unlabelled_json(each) for each in self.unlabelled],
            "tables": [as_json(table) for table in self.tables],
            "comparisons": self.comparisons,
            "published": [as_json(table) for table in self.published],
            "notes": self.notes,
        }
        return json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run_json(run: Run, label: str, measured: Measured) -> dict[str, Any]:
    return {**_about(run), "row": label, **measured.measures[id(run)]}


def _unlabelled_json(found: Unlabelled) -> dict[str, Any]:
    measured = {key: getattr(found, key) for key in ("changed", "before", "after", "classes")}
    return {**_about(found.run), "row": found.label, **measured}


def _about(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "method": run.method,
        "dataset": run.dataset,
        "backbone": run.backbone,
        "corruption": run.corruption,
        "seed": run.seed,
        "n": run.n,
        "fallbacks": run.fallbacks,
        "skipped": run.skipped,
        "images_per_second": run.images_per_second,
        "peak_memory_bytes": run.peak_memory_bytes,
        "shared_with": run.shared_with,
    }


def build_report(
    given: Sequence[str], *, bins: int | None = None, baseline: str | None = None, published: bool = True
) -> Report:
    """Read runs and measure them.

    Args:
        given: Folders, or ``NAME=FOLDER``, as :func:`lorattt.report.runs.find_runs` takes them.
        bins: Of the expected calibration error; None for the number that the runs have in ``results.json``.
        baseline: The method with which the others are compared, as :func:`lorattt.report.compare.compare` takes it.
        published: Whether published numbers are added, in tables of their own.

    Raises:
        UserError: If there is no finished run, a file is damaged, two runs have different images under one dataset's
            name, or the baseline is not known.
    """
    notes: list[str] = []
    found = find_runs(given, notes)
    runs, trials = of_same_images([run for run in found if run.labelled])
    bins, bins_notes = _bins_of(runs, bins)
    notes += [*trials, *bins_notes]
    rows, more = gather(runs)
    measured = Measured(rows)
    for row in rows:
        for run in row.all_runs():
            measured.measures[id(run)] = measure(run, bins)
            more += _disagreements(run, measured, bins)
    comparisons, pair_notes = compare(rows, baseline)
    tables = [*accuracy_tables(measured), *corruption_tables(measured)]
    tables += [measures_table(measured, bins)] if rows else []
    if comparisons:
        tables.append(pairs_table(comparisons, pair_notes))
    else:
        more += pair_notes
    tables += [costs_table(rows)] if rows else []
    without = unlabelled(found)
    tables += unlabelled_tables(without)
    return Report(
        runs=runs,
        rows=rows,
        measured=measured,
        unlabelled=without,
        tables=tables,
        comparisons=comparisons,
        published=published_tables(tables) if published else [],
        notes=[*notes, *more],
        bins=bins,
    )


def _bins_of(runs: Sequence[Run], asked: int | None) -> tuple[int, list[str]]:
    """The number of bins asked for, else that of the runs; and notes about it."""
    if asked is not None and not 1 <= asked <= MOST_BINS:
        raise UserError(f"--bins {asked}: must be from 1 to {MOST_BINS}")
    stated = sorted({run.ece_bins for run in runs}) or [ECE_BINS]
    bins = asked or (stated[0] if len(stated) == 1 else ECE_BINS)
    if stated == [bins]:
        return bins, []
    listed = ", ".join(map(str, stated))
    return bins, [f"ECE is of {bins} bins here, of {listed} in the runs' own results.json: compare like with like."]


def _disagreements(run: Run, measured: Measured, bins: int) -> list[str]:
    """Notes where ``results.json`` disagrees with the predictions: an older version wrote it, or a file was edited.

    Older versions took either of two equally probable classes, and did not write down the number of bins.
    """
    notes = []
    names = {"top1": "top-1", **({"ece": "ECE"} if run.results.get("ece_bins") == bins else {})}
    for when in ("before", "after"):
        for key, name in names.items():
            counted = 100 * getattr(measured.measures[id(run)][when], key)
            stated = 100 * run.measures.get(f"{key}_{when}", float("nan"))
            if abs(counted - stated) > 1e-6:
                notes.append(
                    f"{run.folder}: {name} {when} is {counted:.4f} % by predictions.csv, which counts here, and "
                    f"{stated:.4f} % by results.json."
                )
    return notes


def write_report(report: Report, folder: Path, form: Format, more: Mapping[str, bytes] | None = None) -> list[Path]:
    """Write ``report.md``, ``tables.tex`` (as asked for) and ``report.json``, each whole or not at all.

    Args:
        report: The report.
        folder: Where; created if needed.
        form: Which of the two texts are written.
        more: Other files, by path below the folder: the page, plots.

    Raises:
        UserError: If the folder cannot be made or written, or a file there is not one of a report.
    """
    texts = {_MARKDOWN: report.markdown} if form in ("markdown", "all") else {}
    texts |= {_LATEX: report.latex} if form in ("latex", "all") else {}
    texts[_JSON] = report.json
    contents = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
    return write_files(folder, {**contents, **(more or {})})
