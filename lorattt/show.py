"""Numbers as they are shown on the screen and in tables."""

import math


def format_duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def speed(rate: float) -> str:
    """Images a second: one digit behind the point, below 1 two that are not leading zeros, so that no speed is 0.0."""
    return f"{rate:.{speed_digits(rate)}f}"


def speed_digits(rate: float) -> int:
    """How many digits behind the point :func:`speed` gives a number of images a second."""
    return 1 - math.floor(math.log10(rate)) if 0 < rate < 1 else 1
