"""Which columns the tables of corruption error have: Hendrycks and Dietterich's CE where it is defined, else errors."""

from collections.abc import Mapping
from typing import Final

from lorattt.report.layout import Column, Layout, Leaf, Mean, Weighted, dataset_title
from lorattt.report.published import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from lorattt.report.runs import Corruption

BASELINE_DATASETS: Final = ("imagenet", "imagenet-val")
"""Names in results of the dataset that AlexNet's errors are for: ImageNet with all its classes."""
SEVERITIES: Final = (1, 2, 3, 4, 5)
_OURS: Final = "The corruptions are lorattt's, not the published files."


def corruption_layouts(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    """A table for each clean dataset that has corruptions at all five severities; columns are of top-1 errors.

    For ImageNet with all its classes, a corruption's column is its corruption error: CE = sum of the errors over the
    severities / the same sum of AlexNet's published errors. For all else, it is the mean error over the severities.

    Args:
        datasets: Names as in ``results.json``, with how the images were corrupted.
    """
    corrupted = {name: each for name, each in datasets.items() if each is not None}
    found = []
    for of in dict.fromkeys(each.of for each in corrupted.values()):
        kinds: dict[str, dict[int, list[str]]] = {}
        for name, each in sorted(corrupted.items()):
            if each.of == of:
                kinds.setdefault(each.name, {}).setdefault(each.severity, []).append(name)
        whole = {kind: _leaves(names) for kind, names in kinds.items() if set(SEVERITIES) <= names.keys()}
        notes = _left_out(sorted(kinds.keys() - whole.keys()), "not all severities from 1 to 5 are there")
        clean = Leaf(BASELINE_DATASETS if of in BASELINE_DATASETS else (of,))
        has_clean = any(datasets.get(name, of) is None for name in clean.names)
        if of in BASELINE_DATASETS:
            layout = _relative(of, whole, clean if has_clean else None, notes)
        else:
            layout = _plain(of, whole, clean if has_clean else None, notes)
        found += [layout] if layout is not None else []
    return found


def _leaves(names: Mapping[int, list[str]]) -> tuple[Leaf, ...]:
    return tuple(Leaf(tuple(names[severity])) for severity in SEVERITIES)


def _left_out(kinds: list[str], reason: str) -> list[str]:
    return [f"Left out, as {reason}: {', '.join(kinds)}."] if kinds else []


def _plain(of: str, whole: Mapping[str, tuple[Leaf, ...]], clean: Leaf | None, notes: list[str]) -> Layout | None:
    if not whole:
        return None
    order = {kind: place for place, kind in enumerate(ALEXNET_ERRORS)}
    kinds = sorted(whole, key=lambda kind: (order.get(kind, len(order)), kind))
    means: list[tuple[str, Column]] = [(kind, Mean(whole[kind])) for kind in kinds]
    columns = [*_clean(clean), *means, ("Mean error", Mean(tuple(column for _, column in means)))]
    about = (
        "Top-1 error, mean over severities 1 to 5; smaller is better. Not relative to AlexNet, whose errors are "
        f"published for the 1,000 classes of ImageNet alone. {_OURS}"
    )
    return Layout(f"Corruption error, {dataset_title(of)}-C", tuple(columns), (about, *notes), "top-1 error %", True)


def _relative(of: str, whole: Mapping[str, tuple[Leaf, ...]], clean: Leaf | None, notes: list[str]) -> Layout | None:
    kinds = [kind for kind in ALEXNET_ERRORS if kind in whole]
    if not kinds:
        return None
    notes = [*notes, *_left_out(sorted(whole.keys() - set(kinds)), "AlexNet's errors are not published")]
    errors: list[tuple[str, Column]] = [
        (kind, Weighted(tuple((leaf, 1 / (len(SEVERITIES) * ALEXNET_ERRORS[kind])) for leaf in whole[kind])))
        for kind in kinds
    ]
    missing = [kind for kind in ALEXNET_ERRORS if kind not in whole]
    mean = "Mean CE" if missing else "mCE"
    columns = [*_clean(clean), *errors, (mean, Mean(tuple(column for _, column in errors)))]
    about = (
        "CE: the sum of the top-1 errors over severities 1 to 5, in percent of AlexNet's as published with ImageNet-C; "
        "smaller is better."
    )
    if clean is not None:
        rises = tuple(_rise(whole[kind], clean, ALEXNET_ERRORS[kind] - ALEXNET_CLEAN_ERROR) for kind in kinds)
        columns.append((f"Relative {mean}", Mean(rises)))
        about += " Relative CE: the rise above the clean error, in percent of AlexNet's rise."
    if missing:
        notes.append(f"The mean is not the papers' mCE, which also counts {', '.join(missing)}.")
    return Layout(
        f"Corruption error, {dataset_title(of)}-C", tuple(columns), (f"{about} {_OURS}", *notes), "CE %", True
    )


def _clean(clean: Leaf | None) -> list[tuple[str, Column]]:
    return [] if clean is None else [("Clean error", clean)]


def _rise(severities: tuple[Leaf, ...], clean: Leaf, baseline: float) -> Weighted:
    each = tuple((leaf, 1 / (len(severities) * baseline)) for leaf in severities)
    return Weighted((*each, (clean, -1 / baseline)))
