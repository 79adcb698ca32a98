"""``lorattt report``: tables, statistics, plots and a page of finished runs, without torch."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lorattt.errors import UserError, error_line

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
    """The command line after ``lorattt report``.

    Returns:
        The exit code: 0; 2 for a user's mistake.
    """
    given = _parser().parse_args(arguments)
    # Imported here: --help need not wait for numpy.
    from lorattt.report.artifacts import draw_artifacts
    from lorattt.report.build import build_report, write_report

    try:
        _check(given)
        report = build_report(given.runs, bins=given.bins, baseline=given.baseline, published=given.published)
        folder = given.out if given.out is not None else _beside(given.runs[0])
        more, messages = draw_artifacts(
            report, given.format, plots=given.plots, images=given.images, rows=given.rows, views=given.views
        )
        write_report(report, folder, given.format, more)
    except UserError as error:
        _print(error_line(error), sys.stderr)
        return 2
    # The other formats show the notes themselves.
    for line in [*messages, *(report.notes if given.format == "latex" else [])]:
        _print(f"lorattt: {line}", sys.stderr)
    shown = report.latex if given.format == "latex" else report.markdown
    try:
        _print(f"{shown}\nwritten to {folder}", sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe; Python must not report it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _check(given: argparse.Namespace) -> None:
    """Validate the options before long work starts."""
    for name, least in (("images", 0), ("rows", 1)):
        if getattr(given, name) < least:
            raise UserError(f"--{name} {getattr(given, name)}: must be at least {least}")
    if given.views and given.format not in ("html", "all"):
        raise UserError(f"--views: only the page shows views, and --format {given.format} has none: use html or all")
    if given.plots:
        from lorattt.report.landscape import check_plots

        check_plots()


def _beside(first: str) -> Path:
    """The folder ``report`` beside the first that was given."""
    folder = Path(first)
    if not folder.exists() and "=" in first:
        folder = Path(first.partition("=")[2]).expanduser()
    return folder / "report" if folder.name in ("", "..") else folder.parent / "report"


def _print(text: str, stream: object) -> None:
    """Print, with escapes for characters that the terminal's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)  # type: ignore[call-overload]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lorattt report", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, or one that holds runs at any depth; NAME=FOLDER calls their rows NAME",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: report, beside the first)")
    parser.add_argument(
        "--format",
        choices=("markdown", "latex", "html", "all"),
        default="all",
        help="report.md, tables.tex, report.html or all of them with plots (default); report.json is always written",
    )
    parser.add_argument(
        "--bins",
        type=int,
        metavar="N",
        help="of the expected calibration error (default: as in the runs' results.json)",
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="compare each method with this one, or with its own predictions before adaptation: before",
    )
    parser.add_argument(
        "--plots",
        action=argparse.BooleanOptionalAction,
        help="PNG and SVG files below plots, and in the page (default: with html and all, if matplotlib is installed)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=_IMAGES,
        metavar="N",
        help=f"images of each run whose pictures are in the page, those that changed most (default: {_IMAGES})",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=_ROWS,
        metavar="N",
        help=f"images that the page lists, of all runs together (default: {_ROWS})",
    )
    parser.add_argument(
        "--views",
        action="store_true",
        help="show the views of these images with those kept marked: loads the models and computes them again",
    )
    parser.add_argument("--no-published", dest="published", action="store_false", help="leave published numbers out")
    return parser
