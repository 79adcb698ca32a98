"""The columns of corruption error tables: Hendrycks and Dietterich's CE where it is defined, else errors."""

from collections.abc import Mapping, Sequence, Set
from typing import Final

from lorattt.report.layout import Column, Columns, Layout, dataset_title, mean_of, on, published_order, weighted_sum
from lorattt.report.published import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from lorattt.report.runs import Corruption

BASELINE_DATASETS: Final = ("imagenet", "imagenet-val")
"""Names in results of the dataset that AlexNet's errors are for: ImageNet with all its classes."""
SEVERITIES: Final = (1, 2, 3, 4, 5)
_OURS: Final = " The corruptions are lorattt's, not the published files."


def corruption_layouts(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    """A table for each clean dataset that has corruptions at all five severities; columns are of top-1 errors.

    For ImageNet with all its classes, a corruption's column is its corruption error: CE = sum of the errors over the
    severities / the same sum of AlexNet's published errors. For all else, it is the mean error over the severities.
    """
    clean = {name for name, each in datasets.items() if each is None}
    names: dict[str, dict[str, dict[int, list[str]]]] = {each.of: {} for each in datasets.values() if each is not None}
    for name, each in sorted(datasets.items()):
        if each is not None:
            names[each.of].setdefault(each.name, {}).setdefault(each.severity, []).append(name)
    found = []
    for of, kinds in names.items():
        leaves = {
            kind: [on(*by_severity[severity]) for severity in SEVERITIES]
            for kind, by_severity in kinds.items()
            if set(SEVERITIES) <= by_severity.keys()
        }
        notes = _left_out(kinds.keys() - leaves.keys(), "not all severities from 1 to 5 are there")
        layout = _relative if of in BASELINE_DATASETS else _absolute
        found += layout(of, {kind: leaves[kind] for kind in published_order(leaves)}, clean, notes)
    return found


def _relative(of: str, leaves: Mapping[str, list[Column]], clean: Set[str], notes: list[str]) -> list[Layout]:
    notes += _left_out(leaves.keys() - ALEXNET_ERRORS.keys(), "AlexNet's errors are not published")
    kinds = [kind for kind in leaves if kind in ALEXNET_ERRORS]
    if not kinds:
        return []
    missing = [kind for kind in ALEXNET_ERRORS if kind not in kinds]
    mean = "Mean CE" if missing else "mCE"
    errors: Columns = [(kind, _ratio(leaves[kind], ALEXNET_ERRORS[kind])) for kind in kinds]
    columns = [*errors, (mean, mean_of(column for _, column in errors))]
    about = (
        "CE: the sum of the top-1 errors over severities 1 to 5, in percent of AlexNet's as published with "
        "ImageNet-C; smaller is better."
    )
    if not clean.isdisjoint(BASELINE_DATASETS):
        leaf = on(*BASELINE_DATASETS)
        rises = [_ratio(leaves[kind], ALEXNET_ERRORS[kind] - ALEXNET_CLEAN_ERROR, leaf) for kind in kinds]
        columns = [("Clean error", leaf), *columns, (f"Relative {mean}", mean_of(rises))]
        about += " Relative CE: the rise above the clean error, in percent of AlexNet's rise."
    if missing:
        notes.append(f"The mean is not the papers' mCE, which also counts {', '.join(missing)}.")
    return [_layout(of, columns, [about + _OURS, *notes], "CE %")]


def _absolute(of: str, leaves: Mapping[str, list[Column]], clean: Set[str], notes: list[str]) -> list[Layout]:
    if not leaves:
        return []
    errors: Columns = [(kind, mean_of(of_kind)) for kind, of_kind in leaves.items()]
    columns: Columns = [("Clean error", on(of))] if of in clean else []
    columns += [*errors, ("Mean error", mean_of(column for _, column in errors))]
    about = (
        "Top-1 error, mean over severities 1 to 5; smaller is better. Not relative to AlexNet, whose errors are "
        "published for the 1,000 classes of ImageNet alone."
    )
    return [_layout(of, columns, [about + _OURS, *notes], "top-1 error %")]


def _layout(of: str, columns: Columns, notes: Sequence[str], measure: str) -> Layout:
    return Layout(f"Corruption error, {dataset_title(of)}-C", columns, notes, measure, errors=True)


def _left_out(kinds: Set[str], reason: str) -> list[str]:
    return [f"Left out, as {reason}: {', '.join(sorted(kinds))}."] if kinds else []


def _ratio(severities: Sequence[Column], baseline: float, clean: Column | None = None) -> Column:
    """Mean error over the severities, less the clean error if given, relative to the baseline's."""
    terms = [(leaf, 1 / (len(severities) * baseline)) for leaf in severities]
    return weighted_sum([*terms, (clean, -1 / baseline)] if clean is not None else terms)
