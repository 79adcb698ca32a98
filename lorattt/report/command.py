"""``lorattt report``: tables, statistics, plots and a page of finished runs, without torch."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lorattt.errors import UserError, error_line
from lorattt.inputs import at_least

_IMAGES = 24
_ROWS = 100_000
_DESCRIPTION = (
    "Tables, statistics, plots and a page of finished runs: accuracy in the papers' order of columns with mean and "
    "standard deviation over seeds, calibration, paired differences with intervals and McNemar's test, costs, "
    "published numbers in tables of their own, and the images that changed; of runs without labels the classes "
    "predicted, confidence and entropy. Reads the runs' folders; loads no model "
    "and no torch, unless --views asks for it."
)


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lorattt: error: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str]) -> int:
    """The command line after ``lorattt report``; returns the exit code: 0, or 2 for a user's mistake."""
    given = _parser().parse_args(arguments)
    # Imported here: --help need not wait for numpy.
    from lorattt.report.build import build_report
    from lorattt.report.files import report_files, write_files
    from lorattt.report.runs import named_folder

    try:
        _check(given)
        report = build_report(given.runs, bins=given.bins, baseline=given.baseline, published=given.published)
        first = named_folder(given.runs[0])[1]
        beside = first / "report" if first.name in ("", "..") else first.parent / "report"
        folder = beside if given.out is None else given.out
        files, messages = report_files(
            report, given.format, plots=given.plots, images=given.images, rows=given.rows, views=given.views
        )
        write_files(folder, files)
    except UserError as error:
        print(error_line(error), file=sys.stderr)
        return 2
    # The other formats show the notes themselves.
    for line in [*messages, *(report.notes if given.format == "latex" else [])]:
        print(f"lorattt: {line}", file=sys.stderr)
    shown = report.latex if given.format == "latex" else report.markdown
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    try:
        print(f"{shown}\nwritten to {folder}", flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe; Python must not report it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _check(given: argparse.Namespace) -> None:
    at_least(0, **{"--images": given.images})
    at_least(1, **{"--rows": given.rows})
    if given.views and given.format not in ("html", "all"):
        raise UserError(f"--views: only the page shows views, and --format {given.format} has none: use html or all")
    if given.plots:
        from lorattt.report.landscape import check_plots

        check_plots()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lorattt report", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    runs = "folder of a run, or one that holds runs at any depth; NAME=FOLDER calls their rows NAME"
    add("runs", nargs="+", metavar="RUN", help=runs)
    add("--out", type=Path, metavar="FOLDER", help="where to write (default: report, beside the first)")
    form = "report.md, tables.tex, report.html or all of them with plots (default); report.json is always written"
    add("--format", choices=("markdown", "latex", "html", "all"), default="all", help=form)
    bins = "of the expected calibration error (default: as in the runs' results.json)"
    add("--bins", type=int, metavar="N", help=bins)
    baseline = "compare each method with this one, or with its own predictions before adaptation: before"
    add("--baseline", metavar="METHOD", help=baseline)
    plots = "PNG and SVG files below plots, and in the page (default: with html and all, if matplotlib is installed)"
    add("--plots", action=argparse.BooleanOptionalAction, help=plots)
    images = f"images of each run whose pictures are in the page, those that changed most (default: {_IMAGES})"
    add("--images", type=int, default=_IMAGES, metavar="N", help=images)
    rows = f"images that the page lists, of all runs together (default: {_ROWS})"
    add("--rows", type=int, default=_ROWS, metavar="N", help=rows)
    views = "show the views of these images with those kept marked: loads the models and computes them again"
    add("--views", action="store_true", help=views)
    add("--no-published", dest="published", action="store_false", help="leave published numbers out")
    return parser
