"""What messages quote, each on one line and with a bound."""

import textwrap


def some(names: list[str], most: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    shown = ", ".join(short(name, 80) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def short(text: str, most: int = 200) -> str:
    """A text on one line, cut to so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return textwrap.shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 200, placeholder=" ...")
