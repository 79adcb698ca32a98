"""Which columns the tables of accuracy and of corruption error have, in the order of the papers, and their means.

The papers' columns, and published numbers, are in ``papers.yaml``.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files
from operator import mul
from statistics import fmean, harmonic_mean
from typing import Final, NamedTuple, TypeAlias

import yaml

from lorattt.data.catalogue import BENCHMARKS
from lorattt.report.measures import mean_and_deviation
from lorattt.report.runs import Corruption


class Published(NamedTuple):
    """A method's published numbers."""

    method: str
    protocol: str  # what was trained, how many views, which prompt
    source: str
    values: Sequence[float] = ()
    """Top-1 in percent in the order of the family's columns, printed means included; empty for a claim."""
    claim: str = ""


class Family(NamedTuple):
    """Datasets that papers have in one table."""

    title: str
    columns: dict[str, list[str]]
    """Names of a dataset in results, by its title in the table; several are names of the same images."""
    averages: dict[str, int]  # titles of means, with the first column that they count
    published: list[Published]


_PAPERS: Final = yaml.safe_load(files("lorattt.report").joinpath("papers.yaml").read_text("utf-8"))
MODEL: Final[str] = _PAPERS["model"]
FAMILIES: Final = [
    Family(**{**each, "published": [Published(**row) for row in each["published"]]}) for each in _PAPERS["families"]
]
ALEXNET_ERRORS: Final[dict[str, float]] = _PAPERS["alexnet"]["errors"]
ALEXNET_CLEAN_ERROR: Final[float] = _PAPERS["alexnet"]["clean_error"]
# Names in results of the dataset that AlexNet's errors are for: ImageNet with all its classes.
BASELINE_DATASETS: Final = ("imagenet", "imagenet-val")
SEVERITIES: Final = (1, 2, 3, 4, 5)
_CIFAR: Final = {"cifar10-test": "CIFAR-10", "cifar100-test": "CIFAR-100"}
_DEMO: Final = "demo-"


@dataclass(frozen=True)
class Value:
    """A column's value in a row."""

    mean: float  # of all seeds; of a mean of columns, that of the columns' means
    seeds: dict[int, float]  # the value of each seed that all parts have

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None of one seed."""
        return mean_and_deviation(list(self.seeds.values()))[1] if self.seeds else None


Values: TypeAlias = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Column:
    """Names of datasets, and a function of a row's values by dataset and seed; None where a part is missing."""

    datasets: list[str]
    value: Callable[[Values], Value | None]


Columns: TypeAlias = list[tuple[str, Column]]


def on(*names: str) -> Column:
    """The value on a dataset, under the first of these names that a row has."""

    def value(values: Values) -> Value | None:
        seeds = next((dict(values[name]) for name in names if values.get(name)), None)
        return None if seeds is None else Value(fmean(seeds.values()), seeds)

    return Column(list(names), value)


def combined(parts: Sequence[Column], function: Callable[[Sequence[float]], float]) -> Column:
    """A function of the values of other columns, where all of them have one."""

    def value(values: Values) -> Value | None:
        known = [found for part in parts if (found := part.value(values)) is not None]
        if len(known) < len(parts):
            return None
        common = sorted(set.intersection(*(set(part.seeds) for part in known)))
        seeds = {seed: function([part.seeds[seed] for part in known]) for seed in common}
        return Value(function([part.mean for part in known]), seeds)

    return Column([name for part in parts for name in part.datasets], value)


def mean_of(parts: Iterable[Column]) -> Column:
    """The mean of columns."""
    return combined(list(parts), fmean)


@dataclass(frozen=True)
class Layout:
    """One table: its title, columns and notes."""

    title: str
    columns: Columns
    notes: Sequence[str] = ()
    measure: str = "top-1 %"  # what the values are, for the title
    errors: bool = False  # whether columns are of errors, of which the smallest is the best, and not of accuracy

    @property
    def datasets(self) -> list[str]:
        """The names of all datasets of its columns."""
        return list(dict.fromkeys(name for _, column in self.columns for name in column.datasets))


def mean_over(datasets: Iterable[str], values: Values) -> Value:
    """The mean over datasets, all of which have values."""
    found = mean_of(map(on, datasets)).value(values)
    assert found is not None
    return found


def layouts(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    """The tables for datasets, by name and with how they were corrupted, in the order in which papers have them."""
    clean = [name for name, corruption in datasets.items() if corruption is None]
    found = []
    for family in FAMILIES:
        known = {name for names in family.columns.values() for name in names}
        if known.intersection(clean):
            columns: Columns = [(title, on(*names)) for title, names in family.columns.items()]
            parts = [column for _, column in columns]
            columns += [(title, mean_of(parts[first:])) for title, first in family.averages.items()]
            found.append(Layout(family.title, columns))
            clean = [name for name in clean if name not in known]
    found += _corrupted(datasets)
    stems = _divided(clean)
    found += _base_to_new(stems)
    clean = [name for name in clean if name.rpartition("-")[0] not in stems]
    demo = sorted((name for name in clean if name.startswith(_DEMO)), key=_demo_order)
    rest = [name for name in clean if name not in demo]
    for title, names in (("Demo", demo), ("Other datasets", rest)):
        columns = [(dataset_title(name), on(name)) for name in names]
        columns += [("Mean", mean_of(column for _, column in columns))] if len(names) > 1 else []
        found += [Layout(title, columns)] if names else []
    return found


def _corrupted(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    found = []
    for of, kinds in _corruptions(datasets).items():
        columns: Columns = []
        for kind, by_severity in kinds.items():
            leaves = [on(name) for names in by_severity.values() for name in names]
            columns.append((kind, leaves[0] if len(leaves) == 1 else mean_of(leaves)))
        columns.append(("Mean", mean_of(column for _, column in columns)))
        severities = sorted({severity for by_severity in kinds.values() for severity in by_severity})
        listed = ", ".join(map(str, severities))
        note = f"A column is the mean of the severities there are of {listed}; " if len(severities) > 1 else ""
        note += "the corruptions are lorattt's, not the published files."
        found.append(Layout(f"{dataset_title(of)}-C, severity {listed}", columns, [note]))
    return found


def _corruptions(datasets: Mapping[str, Corruption | None]) -> dict[str, dict[str, dict[int, list[str]]]]:
    """Names of the corrupted datasets, by clean dataset, corruption (in ImageNet-C's order, then by name), severity."""
    found: dict[str, dict[str, dict[int, list[str]]]] = {each.of: {} for each in datasets.values() if each}
    order = {name: place for place, name in enumerate(ALEXNET_ERRORS)}
    stated = [(order.get(each.name, len(order)), each.name, name, each) for name, each in datasets.items() if each]
    for _, kind, name, each in sorted(stated, key=lambda one: one[:3]):
        found[each.of].setdefault(kind, {}).setdefault(each.severity, []).append(name)
    return found


def _divided(names: Collection[str]) -> list[str]:
    """Datasets whose classes were divided into base and new: both are there, or it is one that lorattt divides."""
    halves = [name.rpartition("-") for name in names]
    stems = dict.fromkeys(stem for stem, _, half in halves if stem and half in ("base", "new"))
    whole = {stem for stem in stems if f"{stem}-base" in names and f"{stem}-new" in names}
    return [stem for stem in stems if stem in whole or stem.split("-")[0] in BENCHMARKS or stem.startswith(_DEMO)]


def _base_to_new(stems: Sequence[str]) -> list[Layout]:
    halves: dict[str, tuple[Column, Column]] = {
        dataset_title(stem): (on(f"{stem}-base"), on(f"{stem}-new")) for stem in stems
    }
    if len(stems) > 1:
        base, new = (mean_of(pair[place] for pair in halves.values()) for place in (0, 1))
        halves = {f"mean of {len(stems)} datasets": (base, new), **halves}
    return [
        Layout(
            f"Base to new classes, {title}",
            [("Base", pair[0]), ("New", pair[1]), ("H", combined(pair, harmonic_mean))],
            ["H = 2bn / (b + n)."],
        )
        for title, pair in halves.items()
    ]


def _demo_order(name: str) -> tuple[str, int, str]:
    from lorattt.demo import DOMAINS  # with Pillow, which no other table needs

    domain, _, variant = name.removeprefix(_DEMO).partition("-")
    return (variant, DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS), name)


def corruption_layouts(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    """A table for each clean dataset that has corruptions at all five severities; columns are of top-1 errors.

    For ImageNet with all its classes, a corruption's column is its corruption error: CE = sum of the errors over the
    severities / the same sum of AlexNet's published errors. For all else, it is the mean error over the severities.
    """
    clean = {name for name, each in datasets.items() if each is None}
    found = []
    for of, kinds in _corruptions(datasets).items():
        leaves = {
            kind: [on(*by_severity[severity]) for severity in SEVERITIES]
            for kind, by_severity in kinds.items()
            if set(SEVERITIES) <= by_severity.keys()
        }
        notes = _left_out(kinds.keys() - leaves.keys(), "not all severities from 1 to 5 are there")
        relative = of in BASELINE_DATASETS
        if relative:
            notes += _left_out(leaves.keys() - ALEXNET_ERRORS.keys(), "AlexNet's errors are not published")
            leaves = {kind: columns for kind, columns in leaves.items() if kind in ALEXNET_ERRORS}
            missing = [kind for kind in ALEXNET_ERRORS if kind not in leaves]
            notes += [f"The mean is not the papers' mCE, which also counts {', '.join(missing)}."] if missing else []
        if leaves:
            columns, about = _relative(leaves, clean) if relative else _absolute(of, leaves, clean)
            about += " The corruptions are lorattt's, not the published files."
            title, measure = f"Corruption error, {dataset_title(of)}-C", "CE %" if relative else "top-1 error %"
            found.append(Layout(title, columns, [about, *notes], measure, errors=True))
    return found


def _relative(leaves: Mapping[str, list[Column]], clean: Set[str]) -> tuple[Columns, str]:
    mean = "mCE" if leaves.keys() == ALEXNET_ERRORS.keys() else "Mean CE"
    errors: Columns = [(kind, _ratio(columns, ALEXNET_ERRORS[kind])) for kind, columns in leaves.items()]
    columns = [*errors, (mean, mean_of(column for _, column in errors))]
    about = (
        "CE: the sum of the top-1 errors over severities 1 to 5, in percent of AlexNet's as published with "
        "ImageNet-C; smaller is better."
    )
    if not clean.isdisjoint(BASELINE_DATASETS):
        leaf = on(*BASELINE_DATASETS)
        rises = [_ratio(of, ALEXNET_ERRORS[kind] - ALEXNET_CLEAN_ERROR, leaf) for kind, of in leaves.items()]
        columns = [("Clean error", leaf), *columns, (f"Relative {mean}", mean_of(rises))]
        about += " Relative CE: the rise above the clean error, in percent of AlexNet's rise."
    return columns, about


def _absolute(of: str, leaves: Mapping[str, list[Column]], clean: Set[str]) -> tuple[Columns, str]:
    errors: Columns = [(kind, mean_of(of_kind)) for kind, of_kind in leaves.items()]
    columns: Columns = [("Clean error", on(of))] if of in clean else []
    about = (
        "Top-1 error, mean over severities 1 to 5; smaller is better. Not relative to AlexNet, whose errors are "
        "published for the 1,000 classes of ImageNet alone."
    )
    return [*columns, *errors, ("Mean error", mean_of(column for _, column in errors))], about


def _left_out(kinds: Set[str], reason: str) -> list[str]:
    return [f"Left out, as {reason}: {', '.join(sorted(kinds))}."] if kinds else []


def _ratio(severities: Sequence[Column], baseline: float, clean: Column | None = None) -> Column:
    """Mean error over the severities, less the clean error if given, relative to the baseline's."""
    parts, weights = list(severities), [1 / (len(severities) * baseline)] * len(severities)
    if clean is not None:
        parts, weights = [*parts, clean], [*weights, -1 / baseline]
    return combined(parts, lambda values: math.fsum(map(mul, values, weights)))


def dataset_title(name: str) -> str:
    """A dataset's name in tables: that of the papers where they have one."""
    return BENCHMARKS[name].title if name in BENCHMARKS else _CIFAR.get(name, name)


def whole_size(name: str) -> int | None:
    """How many test images a dataset has; None where that is not known."""
    if name in _CIFAR:
        return 10_000
    name = "imagenet" if name == "imagenet-val" else name
    return BENCHMARKS[name].counts.get("test") if name in BENCHMARKS else None
