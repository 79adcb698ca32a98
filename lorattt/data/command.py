"""``lorattt data``: which datasets are there, and what is missing of the others."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lorattt.data.catalogue import BENCHMARKS
from lorattt.errors import UserError, error_line


def main(arguments: Sequence[str]) -> int:
    """The command line after ``lorattt data``; the exit code is 1 if something is missing, 2 for a user's mistake."""
    if list(arguments[:1]) == ["corruption-error"]:
        print(error_line("data corruption-error: the report has it: lorattt report RUNS"), file=sys.stderr)
        return 2
    given = _parser().parse_args(arguments)
    from lorattt.data import check  # with numpy and Pillow, which --help need not wait for

    try:
        findings = check.check(
            given.data_root.expanduser(),
            given.datasets,
            split=given.split,
            paths=dict(map(_pair, given.path)),
            splits=given.splits,
        )
    except UserError as error:
        print(error_line(error), file=sys.stderr)
        return 2
    print(json.dumps([asdict(each) for each in findings], indent=2) if given.json else check.table(findings))
    return 0 if all(each.state == "complete" for each in findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lorattt data", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="check")
    look = commands.add_parser("check", help="what is there, what is missing, and how to fix it")
    look.add_argument("--data_root", type=Path, default=Path("data"), help="folder of all datasets (default: data)")
    look.add_argument("--datasets", nargs="+", default=[], metavar="KEY", help=f"of {', '.join(BENCHMARKS)}")
    look.add_argument("--split", choices=("train", "val", "test"), default="test")
    look.add_argument("--path", action="append", default=[], metavar="KEY=FOLDER", help="where a dataset lies instead")
    look.add_argument("--splits", type=Path, help="folder of the split files")
    look.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _pair(text: str) -> tuple[str, Path]:
    key, equals, folder = text.partition("=")
    if not equals:
        raise UserError(f"--path {text}: write it as KEY=FOLDER")
    return key, Path(folder).expanduser()
