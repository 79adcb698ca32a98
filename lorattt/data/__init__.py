"""Where images and labels come from; nothing here knows of models."""


def note(text: str) -> None:
    """Warn, once for all devices; the command line shows it as one line."""
    from lightning.pytorch.utilities import rank_zero_warn  # takes seconds, which ``lorattt data`` need not wait for

    rank_zero_warn(text, category=UserWarning)
