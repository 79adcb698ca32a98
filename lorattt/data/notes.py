"""What a run says of its data that does not end it."""

from lightning.pytorch.utilities import rank_zero_warn


def note(text: str) -> None:
    """Warn, once for all devices; the command line shows it as one line."""
    rank_zero_warn(text, category=UserWarning)
