"""Warnings about data that do not end a run."""

from lightning.pytorch.utilities import rank_zero_warn


def note(text: str) -> None:
    """Warn, once for all devices; the command line shows it as one line."""
    rank_zero_warn(text, category=UserWarning)
