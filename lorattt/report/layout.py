"""Which columns the tables have, in the order of the papers, and how means are made of them."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from statistics import fmean, harmonic_mean
from typing import Final, TypeAlias

from lorattt.data.catalogue import BENCHMARKS
from lorattt.report.measures import mean_and_deviation
from lorattt.report.published import ALEXNET_ERRORS
from lorattt.report.runs import Corruption

IMAGENET: Final[dict[str, tuple[str, ...]]] = {
    "ImageNet": ("imagenet", "imagenet-val"),  # two names of the same images
    "A": ("imagenet_a",),
    "V2": ("imagenet_v2",),
    "R": ("imagenet_r",),
    "Sketch": ("imagenet_sketch",),
}
FINE_GRAINED: Final[dict[str, tuple[str, ...]]] = {
    "Flower102": ("flowers102",),
    "DTD": ("dtd",),
    "Pets": ("oxford_pets",),
    "Cars": ("stanford_cars",),
    "UCF101": ("ucf101",),
    "Caltech101": ("caltech101",),
    "Food101": ("food101",),
    "SUN397": ("sun397",),
    "Aircraft": ("fgvc_aircraft",),
    "EuroSAT": ("eurosat",),
}
IMAGENET_TITLE: Final = "ImageNet and its variants"
FINE_GRAINED_TITLE: Final = "Fine-grained datasets"
_CIFAR: Final = {"cifar10-test": "CIFAR-10", "cifar100-test": "CIFAR-100"}
_CIFAR_TEST: Final = 10_000
_DEMO: Final = "demo-"


@dataclass(frozen=True)
class Leaf:
    """The value on a dataset, under the first of these names that a row has."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Combined:
    """A function of the values of other columns, where all of them have one."""

    parts: "tuple[Column, ...]"
    function: Callable[[Sequence[float]], float]


Column: TypeAlias = Leaf | Combined
Values: TypeAlias = Mapping[str, Mapping[int, float]]


def mean_of(parts: Iterable[Column]) -> Combined:
    """The mean of columns."""
    return Combined(tuple(parts), fmean)


def weighted_sum(terms: Sequence[tuple[Column, float]]) -> Combined:
    """The sum of columns, each times a number."""
    weights = [weight for _, weight in terms]
    return Combined(tuple(column for column, _ in terms), lambda values: math.fsum(map(mul, values, weights)))


@dataclass(frozen=True)
class Layout:
    """One table's columns.

    Attributes:
        title: Of the table.
        columns: Their titles and how their values are computed.
        notes: What the reader must know.
        measure: What the values are, for the title.
        errors: Whether columns are of errors in percent, of which the smallest is the best, and not of accuracy.
    """

    title: str
    columns: tuple[tuple[str, Column], ...]
    notes: tuple[str, ...] = ()
    measure: str = "top-1 %"
    errors: bool = False

    @property
    def datasets(self) -> list[str]:
        """The names of all datasets of its columns."""
        return list(dict.fromkeys(name for _, column in self.columns for name in _names(column)))


def _names(column: Column) -> list[str]:
    if isinstance(column, Leaf):
        return list(column.names)
    return [name for part in column.parts for name in _names(part)]


@dataclass(frozen=True)
class Value:
    """A column's value in a row.

    Attributes:
        mean: Of all seeds; of a mean of columns, that of the columns' means.
        seeds: The value of each seed that all parts have.
    """

    mean: float
    seeds: dict[int, float]

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None of one seed."""
        return mean_and_deviation(list(self.seeds.values()))[1] if self.seeds else None


def evaluate(column: Column, values: Values) -> Value | None:
    """The column's value from a row's values by dataset and seed; None where a part is missing."""
    if isinstance(column, Leaf):
        seeds = next((dict(values[name]) for name in column.names if values.get(name)), None)
        return None if seeds is None else Value(fmean(seeds.values()), seeds)
    parts = [evaluate(part, values) for part in column.parts]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    common = sorted(set.intersection(*(set(part.seeds) for part in known)))
    seeds = {seed: column.function([part.seeds[seed] for part in known]) for seed in common}
    return Value(column.function([part.mean for part in known]), seeds)


def layouts(datasets: Mapping[str, Corruption | None]) -> list[Layout]:
    """The tables for these datasets, in the order in which papers have them.

    Args:
        datasets: Names as in ``results.json``, with how the images were corrupted.
    """
    clean = [name for name, corruption in datasets.items() if corruption is None]
    found = []
    families = ((IMAGENET_TITLE, IMAGENET), (FINE_GRAINED_TITLE, FINE_GRAINED))
    for title, family in families:
        if any(name in clean for names in family.values() for name in names):
            found.append(Layout(title, _family(family, imagenet=family is IMAGENET)))
            clean = [name for name in clean if not any(name in names for names in family.values())]
    found += _corrupted({name: corruption for name, corruption in datasets.items() if corruption is not None})
    pairs = _stems(clean)
    found += _base_to_new(pairs)
    clean = [name for name in clean if name.rpartition("-")[0] not in pairs]
    demo = sorted((name for name in clean if name.startswith(_DEMO)), key=_demo_order)
    found += [_plain("Demo", demo)] if demo else []
    rest = [name for name in clean if name not in demo]
    found += [_plain("Other datasets", rest)] if rest else []
    return found


def _family(family: Mapping[str, tuple[str, ...]], *, imagenet: bool) -> tuple[tuple[str, Column], ...]:
    columns: list[tuple[str, Column]] = [(title, Leaf(names)) for title, names in family.items()]
    parts = tuple(column for _, column in columns)
    means: list[tuple[str, Column]] = [("Average", mean_of(parts))]
    if imagenet:
        means.append(("OOD Average", mean_of(parts[1:])))
    return (*columns, *means)


def _corrupted(datasets: Mapping[str, Corruption]) -> list[Layout]:
    found = []
    for of in dict.fromkeys(each.of for each in datasets.values()):
        mine = {name: each for name, each in datasets.items() if each.of == of}
        kinds = published_order({each.name for each in mine.values()})
        columns: list[tuple[str, Column]] = []
        for kind in kinds:
            leaves = [Leaf((name,)) for name, each in sorted(mine.items()) if each.name == kind]
            columns.append((kind, leaves[0] if len(leaves) == 1 else mean_of(leaves)))
        severities = sorted({each.severity for each in mine.values()})
        listed = ", ".join(map(str, severities))
        note = f"A column is the mean of the severities there are of {listed}; " if len(severities) > 1 else ""
        note += "the corruptions are lorattt's, not the published files."
        title = f"{dataset_title(of)}-C, severity {listed}"
        found.append(Layout(title, (*columns, ("Mean", mean_of(each for _, each in columns))), (note,)))
    return found


def published_order(corruptions: Iterable[str]) -> list[str]:
    """Corruptions in ImageNet-C's order, others behind them by name."""
    order = {name: place for place, name in enumerate(ALEXNET_ERRORS)}
    return sorted(corruptions, key=lambda name: (order.get(name, len(order)), name))


def _stems(names: Collection[str]) -> list[str]:
    """Datasets whose classes were divided into base and new: both are there, or it is one that lorattt divides."""
    halves = [name.rpartition("-") for name in names]
    stems = dict.fromkeys(stem for stem, _, half in halves if stem and half in ("base", "new"))

    def known(stem: str) -> bool:
        both = f"{stem}-base" in names and f"{stem}-new" in names
        return both or stem.split("-")[0] in BENCHMARKS or stem.startswith(_DEMO)

    return [stem for stem in stems if known(stem)]


def _base_to_new(stems: list[str]) -> list[Layout]:
    halves = [(Leaf((f"{stem}-base",)), Leaf((f"{stem}-new",))) for stem in stems]
    found = [
        _three(f"Base to new classes, {dataset_title(stem)}", *pair) for stem, pair in zip(stems, halves, strict=True)
    ]
    if len(stems) > 1:
        base, new = (mean_of(pair[place] for pair in halves) for place in (0, 1))
        found.insert(0, _three(f"Base to new classes, mean of {len(stems)} datasets", base, new))
    return found


def _three(title: str, base: Column, new: Column) -> Layout:
    return Layout(
        title, (("Base", base), ("New", new), ("H", Combined((base, new), harmonic_mean))), ("H = 2bn / (b + n).",)
    )


def _plain(title: str, names: list[str]) -> Layout:
    columns: list[tuple[str, Column]] = [(dataset_title(name), Leaf((name,))) for name in names]
    if len(columns) > 1:
        columns.append(("Mean", mean_of(column for _, column in columns)))
    return Layout(title, tuple(columns))


def _demo_order(name: str) -> tuple[int, str]:
    from lorattt.demo import DOMAINS  # with Pillow, which no other table needs

    domain = name.removeprefix(_DEMO)
    return (DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS), name)


def dataset_title(name: str) -> str:
    """A dataset's name in tables: that of the papers where they have one."""
    return BENCHMARKS[name].title if name in BENCHMARKS else _CIFAR.get(name, name)


def whole_size(name: str) -> int | None:
    """How many test images a dataset has; None where that is not known."""
    if name in _CIFAR:
        return _CIFAR_TEST
    name = "imagenet" if name == "imagenet-val" else name
    return BENCHMARKS[name].counts.get("test") if name in BENCHMARKS else None
