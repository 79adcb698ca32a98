"""Checks of users' input: text files, numbers in range, the nearest known word."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from lorattt.errors import UserError, quoted


def read_text(file: Path, fix: str = "allow reading it, and save it as UTF-8", *, what: str = "") -> str:
    """A text file in UTF-8, with or without a byte-order mark; line ends are left as they are.

    Raises:
        UserError: If it cannot be read or is no text in UTF-8. The message calls it ``what``, by default its path, and
            ends with ``fix``.
    """
    what = what or str(file)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not a text file in UTF-8 ({error.reason}, byte {error.start}): {fix}") from error
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror or error}): {fix}") from error
    if "\0" in text:  # the CSV reader of Python 3.10 raises for it, later ones accept it
        raise UserError(f"{what} is not a text file (it holds NUL bytes): {fix}")
    return text


def at_least(least: int, hint: str = "", **numbers: float | None) -> None:
    """Require numbers of at least ``least``, by key, with ``__`` for a dot; None is accepted.

    Raises:
        UserError: If one is lower or NaN. The message ends with ``hint``, such as ``, or null for all``.
    """
    for key, value in numbers.items():
        if value is not None and not value >= least:
            raise UserError(f"{key.replace('__', '.')} {quoted(value)}: must be at least {least}{hint}")


def finite(hint: str = "", **numbers: float | None) -> None:
    """Require finite numbers of at least 0, as :func:`at_least` does."""
    for key, value in numbers.items():
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"{key.replace('__', '.')} {quoted(value)}: must be a finite number of at least 0{hint}")


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The nearest known word; None where none is near."""
    found = difflib.get_close_matches(str(word)[:100], dict.fromkeys(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(word: object, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """``did you mean 'a' or 'b'?`` with the nearest of the known words, or another hint where none is near."""
    near = difflib.get_close_matches(str(word)[:100], dict.fromkeys(known), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(map(quoted, near))}?" if near else otherwise
