"""A report as one page that opens from the disk and needs no network.

The templates escape all that runs contain, and the page's own script shows its data as text. The page's content
security policy allows its one script and its one style, known by their hashes, and ``data:`` pictures; nothing else.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from lorattt import __version__
from lorattt.errors import shortened
from lorattt.report.build import Report
from lorattt.report.escape import isolated, visible
from lorattt.report.image_browser import browser_data
from lorattt.report.layout import dataset_title
from lorattt.report.pictures import address
from lorattt.report.render import MARKDOWN_MARK
from lorattt.report.rows import Row
from lorattt.report.runs import Run
from lorattt.report.style import Picture
from lorattt.report.tables import Cell, Table
from lorattt.report.topk import TopK

_SECTIONS: Final = {
    "accuracy": "Accuracy",
    "plots": "Plots",
    "browse": "Images",
    "corruption": "Corruption error",
    "measures": "Measures",
    "pairs": "Differences",
    "costs": "Costs",
    "unlabelled": "Runs without labels",
    "published": "Published numbers",
    "config": "Configuration",
    "environment": "Environment",
}
_WITHOUT_TABLES: Final = ("plots", "browse", "config")


def environment() -> Environment:
    """The templates' environment: text is shown on one line, without invisible characters, and escaped."""
    found = Environment(
        loader=PackageLoader("lorattt.report", ""),
        autoescape=True,
        finalize=lambda value: isolated(visible(value)) if type(value) is str else value,  # not of Markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"shortened": shortened, "svg": lambda content: address("image/svg+xml", content)}
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def as_html(
    report: Report,
    top_k: Mapping[int, TopK],
    pictures: Sequence[Picture],
    *,
    images: int,
    rows: int,
    views: Mapping[int, Mapping[int, dict[str, str]]],
    no_plots: str,
    messages: list[str],
) -> str:
    """The page.

    Args:
        report: The report.
        top_k: The classes listed for the images of its runs, by the runs' identities.
        pictures: The plots.
        images: How many images of each run have their pictures in the page.
        rows: How many images the page lists, of all runs together.
        views: Of some runs, by their identities, sheets of views by row.
        no_plots: Why there are no plots.
        messages: Gets a line for each dataset of whose images no picture could be read.
    """
    runs, titles = report.shown, _titles(report)
    style, script = (files("lorattt.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    tables = [*report.tables, *report.published, _environment(runs)]
    by_kind = {kind: [table for table in tables if table.kind == kind] for kind in _SECTIONS}
    shown = [kind for kind in _SECTIONS if by_kind[kind] or kind in _WITHOUT_TABLES]
    return (
        environment()
        .get_template("page.html")
        .render(
            mark=MARKDOWN_MARK,
            policy=(
                f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
                "base-uri 'none'; form-action 'none'"
            ),
            style=style,
            script=script,
            summary=_summary(report, runs),
            notes=report.notes,
            sections=[(kind, _SECTIONS[kind], by_kind[kind]) for kind in shown],
            pictures=pictures,
            no_plots=no_plots,
            configurations=_configurations(runs, titles),
            data=browser_data(runs, titles, top_k, pictured=images, most=rows, views=views, messages=messages),
        )
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _titles(report: Report) -> list[str]:
    """A title for each of the runs shown."""
    labelled = [_title(row, run, report.rows) for row in report.rows for run in row.all_runs()]
    return labelled + [f"{each.label}, {dataset_title(each.run.dataset)}, without labels" for each in report.unlabelled]


def _title(row: Row, run: Run, rows: Sequence[Row]) -> str:
    backbone = f", {run.backbone}" if len({each.backbone for each in rows}) > 1 else ""
    seeds = f", seed {run.seed}" if len(row.runs[run.dataset]) > 1 else ""
    return f"{row.label}, {dataset_title(run.dataset)}{seeds}{backbone}"


def _summary(report: Report, runs: Sequence[Run]) -> str:
    counts = [
        (len(report.rows) + len({each.label for each in report.unlabelled}), "method", "methods"),
        (len({run.dataset for run in runs}), "dataset", "datasets"),
        (len(runs), "run", "runs"),
        (sum(run.n for run in runs), "prediction before and after", "predictions before and after"),
    ]
    parts = ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in counts)
    return f"{parts}. Made by lorattt {__version__}."


def _configurations(runs: Sequence[Run], titles: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """The titles of the runs of each configuration, and its lines."""
    import yaml

    found: dict[str, list[str]] = {}
    for run, title in zip(runs, titles, strict=True):
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else ""
        found.setdefault(text, []).append(title)
    return [(mine, text.splitlines()) for text, mine in found.items()]


def _environment(runs: Sequence[Run]) -> Table:
    of: dict[tuple[tuple[str, str], ...], int] = {}
    for run in runs:
        stated: Any = run.results.get("versions")
        stated = stated if isinstance(stated, dict) else {}
        key = tuple((visible(str(name)), str(value)) for name, value in stated.items())
        of[key] = of.get(key, 0) + 1
    names = list(dict.fromkeys(name for key in of for name, _ in key))
    rows = tuple(
        (Cell(value=count, digits=0), *(Cell(text=dict(key).get(name, "")) for name in names))
        for key, count in of.items()
    )
    return Table("Versions that the runs were made with", ("Runs", *names), rows, kind="environment")
