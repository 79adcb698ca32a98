"""The exception for users' mistakes, and helpers for the text of its message."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: a file, a key or a value.

    The message is one line that names the thing and the fix. The command line prints it without a traceback and exits
    with code 2. Not a ``ValueError``: jsonargparse catches those while it builds objects, and wraps them in a long
    report of types that were tried.
    """

    resumable = False  # whether the run can be resumed as it is, since nothing has to be fixed


def quoted(value: object, most: int = 100) -> str:
    """A value as Python writes it, on one line, see :func:`shortened`."""
    try:
        text = repr(value)
    except Exception:  # a class's own __repr__ may raise; a number of thousands of digits has no text
        text = f"<{type(value).__name__}>"
    return shortened(" ".join(text.split()) if "\n" in text else text, most)


def shortened(text: str, most: int = 100) -> str:
    """A text, cut in the middle where it has more than ``most`` characters: a wrong file must not fill the screen."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 5]} ... {text[-end:]}"


def some(values: Iterable[object], most: int = 3) -> str:
    """The first of several values, quoted, and how many more there are."""
    return _first_of([quoted(value, 60) for value in values], most)


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first of several names as they are, and how many more there are."""
    return _first_of([shortened(one_line(name), 80) for name in names], most)


def _first_of(texts: list[str], most: int) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def one_line(text: object) -> str:
    """A text, or an error's message, without line breaks and with single spaces."""
    return " ".join(str(text).split())


ERROR = "lorattt: error:"
"""How the last line of a failed command begins."""


def error_line(text: object) -> str:
    """The last line of a failed command, of bounded length."""
    return f"{ERROR} {shortened(one_line(text), 2000)}"


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message, at most that many characters; its type if it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shortened(one_line(lines[0]), most)
