"""``python -m lorattt.cli.dry``: check command lines without running them, as ``lorattt sweep`` does before its runs.

Reads a JSON list of command lines, each a list of words, and writes a JSON list of what is wrong with each: a text, or
null. No model and no data are made.
"""

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from lorattt.cli import LorattCLI, main
from lorattt.errors import ERROR


class _ParsedError(Exception):
    """Raised when a command line has been parsed, in place of running it."""


class SharedParserCLI(LorattCLI):
    """Parses all command lines of a process with one parser: making it takes longer than using it."""

    _made: ClassVar[dict[str, Any]] = {}

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Make the parser, or take the one of an earlier command line."""
        if not self._made:
            before = set(vars(self))
            super().setup_parser(*args, **kwargs)
            self._made.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(self._made)


class _DryCLI(SharedParserCLI):
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        raise _ParsedError

    def check_run_folder(self) -> None:
        """The sweep judges its runs' folders itself: with --redo it clears them first."""


def problem(words: Sequence[str]) -> str | None:
    """What is wrong with a command line, in the command's own words; None for nothing."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main(list(words), _DryCLI)
    except _ParsedError:
        return None
    except SystemExit as end:
        if end.code:
            lines = said.getvalue().strip().splitlines()  # the error comes last, behind any warnings
            return (lines[-1] if lines else f"exit code {end.code}").removeprefix(f"{ERROR} ")
    return None


if __name__ == "__main__":
    print(json.dumps([problem(words) for words in json.load(sys.stdin)]))
