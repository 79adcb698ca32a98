"""The columns of the papers' tables, and published numbers, as ``papers.yaml`` has them."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import yaml


@dataclass(frozen=True)
class Published:
    """A method's published numbers.

    Attributes:
        method: The method.
        protocol: What was trained, how many views, which prompt.
        source: Where it is printed.
        values: Top-1 in percent in the order of the family's columns, printed means included; empty for a claim.
        claim: A text where no values are given.
    """

    method: str
    protocol: str
    source: str
    values: tuple[float, ...] = ()
    claim: str = ""


@dataclass(frozen=True)
class Family:
    """Datasets that papers have in one table.

    Attributes:
        title: Of the table.
        columns: Names of a dataset in results, by its title in the table; several are names of the same images.
        averages: Titles of means, with the first column that they count.
        published: Published numbers.
    """

    title: str
    columns: dict[str, tuple[str, ...]]
    averages: dict[str, int]
    published: tuple[Published, ...]


def _family(title: str, columns: dict[str, list[str]], averages: dict[str, int], published: list[Any]) -> Family:
    rows = tuple(Published(**{**each, "values": tuple(each.get("values", ()))}) for each in published)
    return Family(title, {name: tuple(names) for name, names in columns.items()}, averages, rows)


_PAPERS: Final = yaml.safe_load(files("lorattt.report").joinpath("papers.yaml").read_text("utf-8"))
MODEL: Final[str] = _PAPERS["model"]
FAMILIES: Final = tuple(_family(**each) for each in _PAPERS["families"])
ALEXNET_ERRORS: Final[dict[str, float]] = _PAPERS["alexnet"]["errors"]
ALEXNET_CLEAN_ERROR: Final[float] = _PAPERS["alexnet"]["clean_error"]
