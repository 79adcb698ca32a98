"""Checks of users' input: text files, numbers in range, the nearest known word, names matched by position."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lorattt.errors import UserError, quoted

_CODE = re.compile(r"n\d{8}|\d+")


def read_text(file: Path, fix: str = "allow reading it, and save it as UTF-8", *, what: str = "") -> str:
    """A text file in UTF-8, with or without a byte-order mark; line ends are left as they are.

    The message of an error calls it ``what``, by default its path, and ends with ``fix``.
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
    """Require numbers of at least ``least``, by key, with ``__`` for a dot; None is accepted, NaN is not.

    The message of an error ends with ``hint``, such as ``, or null for all``.
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


def _plain(name: str) -> str:
    """A name for comparison, without differences of case, underscores, hyphens and spaces."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def check_order(what: str, known: Sequence[str], names: Sequence[str], fix: str) -> None:
    """Reject a list of ``names``, called ``what``, in another order than the known ones: two or more are moved."""
    ours, theirs = [_plain(name) for name in known], [_plain(name) for name in names]
    times = Counter(ours)  # a name of two classes has no one place
    place = {name: label for label, name in enumerate(ours) if times[name] == 1}
    moved = [label for label, name in enumerate(theirs) if name in place and name != ours[label]]
    if len(moved) > 1:
        first = moved[0]
        raise UserError(
            f"{what} is in another order than the classes: name {first + 1} is {quoted(names[first])}, which is what "
            f"class {place[theirs[first]] + 1} is called, and class {first + 1} is called {quoted(known[first])}: {fix}"
        )


def pairs(known: Sequence[str], names: Sequence[str]) -> str:
    """Which class got which name, as text: the first few and the last; empty if no name differs from the known one."""
    if all(_plain(one) == _plain(other) for one, other in zip(known, names, strict=True)):
        return ""
    shown = [f"{quoted(one, 60)} is {quoted(other, 60)}" for one, other in zip(known, names, strict=True)]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:3], "...", shown[-1]])


def are_codes(names: Sequence[str]) -> bool:
    """Whether all names are numbers or ImageNet's wnids, which mean nothing to a text encoder."""
    return bool(names) and all(_CODE.fullmatch(name.strip()) for name in names)
