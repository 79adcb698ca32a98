"""A report made from run folders."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lorattt import __version__
from lorattt.calibration import ECE_BINS
from lorattt.errors import UserError
from lorattt.report.compare import Comparison, compare
from lorattt.report.layout import dataset_title
from lorattt.report.measures import Measures, measure
from lorattt.report.predictions import WHEN
from lorattt.report.render import JSON_FORMAT, KIND, as_latex, as_markdown, plain
from lorattt.report.rows import Row, gather, of_same_images
from lorattt.report.runs import Run, find_runs
from lorattt.report.tables import Table, costs_table, layout_tables, measures_table, pairs_table, published_tables
from lorattt.report.unlabelled import Unlabelled, unlabelled, unlabelled_tables

MOST_BINS: Final = 10_000
_IN_JSON: Final = (
    *("method", "dataset", "backbone", "corruption", "seed", "n", "fallbacks", "skipped"),
    *("images_per_second", "peak_memory_bytes", "shared_with"),
)


@dataclass(frozen=True)
class Report:
    """All that a report holds."""

    runs: list[Run]  # those with labels, in the order given
    rows: list[Row]
    measures: dict[int, dict[str, Measures]]  # of these runs, by their identities, under "before" and "after"
    unlabelled: list[Unlabelled]
    tables: list[Table]  # of our own runs
    comparisons: list[Comparison]
    published: list[Table]  # empty where none belong to ours, or none are wanted
    notes: list[str]
    bins: int  # of the expected calibration error

    @property
    def shown(self) -> list[tuple[str, Run]]:
        """All runs of rows, then those without labels, with their titles."""
        several = len({row.backbone for row in self.rows}) > 1
        found = []
        for row in self.rows:
            for run in row.all_runs():
                seed = f", seed {run.seed}" if len(row.runs[run.dataset]) > 1 else ""
                backbone = f", {run.backbone}" if several else ""
                found.append((f"{row.label}, {dataset_title(run.dataset)}{seed}{backbone}", run))
        unlabelled = [(each.label, each.run) for each in self.unlabelled]
        return found + [(f"{label}, {dataset_title(run.dataset)}, without labels", run) for label, run in unlabelled]

    @property
    def markdown(self) -> str:
        """The report as Markdown."""
        sections = {"Accuracy": "accuracy", "Corruption error": "corruption"}
        of_kinds = [(title, [table for table in self.tables if table.kind == kind]) for title, kind in sections.items()]
        others = [(table.title, [table]) for table in self.tables if table.kind not in sections.values()]
        return as_markdown([*of_kinds, *others, ("Published numbers", self.published)], self.notes)

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
            "runs": [_run_json(run, labels[id(run)], self.measures[id(run)]) for run in self.runs if id(run) in labels],
            "unlabelled": [_run_json(each.run, each.label, each.measures) for each in self.unlabelled],
            "tables": self.tables,
            "comparisons": self.comparisons,
            "published": self.published,
            "notes": self.notes,
        }
        return json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run_json(run: Run, label: str, measures: Mapping[str, Any]) -> dict[str, Any]:
    return {"folder": str(run.folder), **{key: getattr(run, key) for key in _IN_JSON}, "row": label, **measures}


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
        UserError: If there is no finished run, a file is damaged, two runs differ in images, or for the baseline.
    """
    notes: list[str] = []
    found = find_runs(given, notes)
    runs, trials = of_same_images([run for run in found if run.labelled])
    bins, bins_notes = _bins_of(runs, bins)
    rows, same_notes = gather(runs)
    notes += [*trials, *bins_notes, *same_notes]
    shown = [run for row in rows for run in row.all_runs()]
    measures = {id(run): measure(run, bins) for run in shown}
    notes += [line for run in shown for line in _disagreements(run, measures[id(run)], bins)]
    comparisons, pair_notes = compare(rows, baseline)
    notes += [] if comparisons else pair_notes
    tables = layout_tables(rows)
    tables += [measures_table(rows, measures, bins)] if rows else []
    tables += [pairs_table(comparisons, pair_notes)] if comparisons else []
    tables += [costs_table(rows)] if rows else []
    without = unlabelled(found)
    tables += unlabelled_tables(without)
    own = published_tables(tables) if published else []
    return Report(runs, rows, measures, without, tables, comparisons, own, notes, bins)


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


def _disagreements(run: Run, measures: Mapping[str, Measures], bins: int) -> list[str]:
    """Notes where ``results.json`` disagrees with the predictions: an older version wrote it, or a file was edited.

    Older versions took either of two equally probable classes, and did not write down the number of bins.
    """
    notes = []
    names = {"top1": "top-1", **({"ece": "ECE"} if run.results.get("ece_bins") == bins else {})}
    for when in WHEN:
        for key, name in names.items():
            counted, stated = 100 * getattr(measures[when], key), 100 * run.measures.get(f"{key}_{when}", math.nan)
            if abs(counted - stated) > 1e-6:
                notes.append(
                    f"{run.folder}: {name} {when} is {counted:.4f} % by predictions.csv, which counts here, and "
                    f"{stated:.4f} % by results.json."
                )
    return notes
