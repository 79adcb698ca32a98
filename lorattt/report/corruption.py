"""The columns of corruption error tables: Hendrycks and Dietterich's CE where it is defined, else errors."""

from collections.abc import Mapping, Sequence, Set
from typing import Final

from lorattt.report.layout import Column, Layout, Leaf, dataset_title, mean_of, published_order, weighted_sum
from lorattt.report.published import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from lorattt.report.runs import Corruption

BASELINE_DATASETS: Final = ("imagenet", "imagenet-val")
"""Names in results of the dataset that AlexNet's errors are for: ImageNet with all its classes."""
SEVERITIES: Final = (1, 2, 3, 4, 5)


def corruption_layouts(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    """A table for each clean dataset that has corruptions at all five severities; columns are of top-1 errors.

    For ImageNet with all its classes, a corruption's column is its corruption error: CE = sum of the errors over the
    severities / the same sum of AlexNet's published errors. For all else, it is the mean error over the severities.

    Args:
        datasets: Names as in ``results.json``, with how the images were corrupted.
    """
    corrupted = {name: each for name, each in datasets.items() if each is not None}
    found = (
        _layout(of, corrupted, datasets.keys() - corrupted) for of in dict.fromkeys(e.of for e in corrupted.values())
    )
    return [layout for layout in found if layout is not None]


def _layout(of: str, corrupted: Mapping[str, Corruption], clean_names: Set[str]) -> Layout | None:
    names: dict[str, dict[int, list[str]]] = {}
    for name, each in sorted(corrupted.items()):
        if each.of == of:
            names.setdefault(each.name, {}).setdefault(each.severity, []).append(name)
    leaves = {
        kind: [Leaf(tuple(by_severity[severity])) for severity in SEVERITIES]
        for kind, by_severity in names.items()
        if set(SEVERITIES) <= by_severity.keys()
    }
    notes = _left_out(names.keys() - leaves.keys(), "not all severities from 1 to 5 are there")
    relative = of in BASELINE_DATASETS
    if relative:
        notes += _left_out(leaves.keys() - ALEXNET_ERRORS.keys(), "AlexNet's errors are not published")
    kinds = [kind for kind in published_order(leaves) if not relative or kind in ALEXNET_ERRORS]
    if not kinds:
        return None
    clean = Leaf(BASELINE_DATASETS if relative else (of,))
    columns: list[tuple[str, Column]] = [("Clean error", clean)] if not clean_names.isdisjoint(clean.names) else []
    if relative:
        missing = [kind for kind in ALEXNET_ERRORS if kind not in kinds]
        mean = "Mean CE" if missing else "mCE"
        errors = [(kind, _ratio(leaves[kind], ALEXNET_ERRORS[kind])) for kind in kinds]
        about = (
            "CE: the sum of the top-1 errors over severities 1 to 5, in percent of AlexNet's as published with "
            "ImageNet-C; smaller is better."
        )
        rises = []
        if columns:
            rises = [_ratio(leaves[kind], ALEXNET_ERRORS[kind] - ALEXNET_CLEAN_ERROR, clean) for kind in kinds]
            about += " Relative CE: the rise above the clean error, in percent of AlexNet's rise."
        if missing:
            notes.append(f"The mean is not the papers' mCE, which also counts {', '.join(missing)}.")
    else:
        mean, rises = "Mean error", []
        errors = [(kind, mean_of(leaves[kind])) for kind in kinds]
        about = (
            "Top-1 error, mean over severities 1 to 5; smaller is better. Not relative to AlexNet, whose errors are "
            "published for the 1,000 classes of ImageNet alone."
        )
    columns += [*errors, (mean, mean_of(column for _, column in errors))]
    columns += [(f"Relative {mean}", mean_of(rises))] if rises else []
    title = f"Corruption error, {dataset_title(of)}-C"
    about += " The corruptions are lorattt's, not the published files."
    return Layout(title, tuple(columns), (about, *notes), "CE %" if relative else "top-1 error %", errors=True)


def _left_out(kinds: Set[str], reason: str) -> list[str]:
    return [f"Left out, as {reason}: {', '.join(sorted(kinds))}."] if kinds else []


def _ratio(severities: Sequence[Leaf], baseline: float, clean: Leaf | None = None) -> Column:
    """Mean error over the severities, less the clean error if given, relative to the baseline's."""
    terms = [(leaf, 1 / (len(severities) * baseline)) for leaf in severities]
    return weighted_sum([*terms, (clean, -1 / baseline)] if clean is not None else terms)
