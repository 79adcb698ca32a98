"""Reading text files, and hints for misspelled words."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from lorattt.errors import UserError, quoted


def read_text(file: Path, fix: str, *, what: str = "") -> str:
    """A text file in UTF-8, with or without a byte-order mark; line ends are left as they are.

    Args:
        file: The file.
        fix: What messages advise.
        what: What messages call the file; its path by default.

    Raises:
        UserError: If it cannot be read or is no text in UTF-8.
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


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """``did you mean 'a' or 'b'?`` with the nearest of the known words, or another hint where none is near."""
    near = difflib.get_close_matches(word, dict.fromkeys(known), n=3)
    return f"did you mean {' or '.join(map(quoted, near))}?" if near else otherwise
