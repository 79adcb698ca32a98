"""Lists of names that are matched to classes by position."""

import re
from collections import Counter
from collections.abc import Sequence

from lorattt.errors import UserError, quoted

_CODE = re.compile(r"n\d{8}|\d+")


def plain(name: str) -> str:
    """A name for comparison, without differences of case, underscores, hyphens and spaces."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def check_order(what: str, known: Sequence[str], names: Sequence[str], fix: str) -> None:
    """Reject names in another order: if two or more are those of other classes.

    Args:
        what: What the message calls the list.
        known: The classes' names so far, in label order: their folders, or the dataset's names.
        names: The names given for them, as many.
        fix: What to do, for the message.
    """
    ours, theirs = [plain(name) for name in known], [plain(name) for name in names]
    times = Counter(ours)  # a name of two classes has no one place
    place = {name: label for label, name in enumerate(ours) if times[name] == 1}
    moved = [label for label, name in enumerate(theirs) if name in place and name != ours[label]]
    if len(moved) > 1:
        first = moved[0]
        raise UserError(
            f"{what} is in another order than the classes: name {first + 1} is {quoted(names[first])}, which is what "
            f"class {place[theirs[first]] + 1} is called, and class {first + 1} is called {quoted(known[first])}: {fix}"
        )


def pairs(known: Sequence[str], names: Sequence[str], most: int = 3) -> str:
    """Which class got which name, as text: the first few and the last; empty if no name differs from the known one."""
    if all(plain(one) == plain(other) for one, other in zip(known, names, strict=True)):
        return ""
    shown = [f"{quoted(one, 60)} is {quoted(other, 60)}" for one, other in zip(known, names, strict=True)]
    return ", ".join(shown if len(shown) <= most + 1 else [*shown[:most], "...", shown[-1]])


def are_codes(names: Sequence[str]) -> bool:
    """Whether all names are numbers or ImageNet's wnids, which mean nothing to a text encoder."""
    return bool(names) and all(_CODE.fullmatch(name.strip()) for name in names)
