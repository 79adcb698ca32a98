"""The one exception that stands for a user's mistake rather than a defect of the program."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a key or a value.

    The message is one line that names the thing and the mend. The command line prints it without a
    traceback and exits with code 2; from Python it is an ordinary exception.

    Not a ``ValueError``: jsonargparse catches those while it builds objects and wraps them in a long
    report of types that were tried.
    """
