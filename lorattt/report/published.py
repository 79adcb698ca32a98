"""The columns of the papers' tables, and published numbers, as ``papers.yaml`` has them."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final, NamedTuple

import yaml


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
