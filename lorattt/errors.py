"""The one exception that stands for a user's mistake rather than a defect of the program, and quotes for its text."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a key or a value.

    The message is one line that names the thing and the mend. The command line prints it without a
    traceback and exits with code 2; from Python it is an ordinary exception.

    Not a ``ValueError``: jsonargparse catches those while it builds objects and wraps them in a long
    report of types that were tried.
    """


def quoted(value: object, most: int = 100) -> str:
    """A value as Python writes it, on one line; cut in the middle where that is longer than ``most`` characters.

    Messages quote what users gave through this, so that a file taken for another does not fill the screen.
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a class's own text does; a number of thousands of digits has none
        text = f"<{type(value).__name__}>"
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 5]} ... {text[-end:]}"
