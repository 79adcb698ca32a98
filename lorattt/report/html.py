"""A report as one page that opens from the disk and needs no network.

The templates escape all that runs contain, and the page's own script shows its data as text. The page's content
security policy allows its one script and its one style, known by their hashes, and ``data:`` pictures; nothing else.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment

from lorattt import __version__
from lorattt.report.build import Report
from lorattt.report.escape import isolated, visible
from lorattt.report.image_browser import Sheets, browser_data
from lorattt.report.layout import dataset_title
from lorattt.report.pictures import address
from lorattt.report.render import MARKDOWN_MARK, environment
from lorattt.report.rows import Row
from lorattt.report.runs import Run
from lorattt.report.style import Picture
from lorattt.report.tables import Table, cells

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


def page_environment() -> Environment:
    """The templates' environment: text is shown on one line, without invisible characters, and escaped."""
    found = environment(lambda text: isolated(visible(text)))
    found.filters["svg"] = lambda content: address("image/svg+xml", content)
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def as_html(
    report: Report,
    pictures: Sequence[Picture],
    views: Mapping[int, Sheets],
    *,
    images: int,
    rows: int,
    no_plots: str,
    messages: list[str],
) -> str:
    """The page; ``no_plots`` says why it has none, and the other arguments are as for :func:`browser_data`."""
    runs, titles = report.shown, _titles(report)
    style, script = (files("lorattt.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    tables = [*report.tables, *report.published, _environment(runs)]
    by_kind = {kind: [table for table in tables if table.kind == kind] for kind in _SECTIONS}
    shown = [kind for kind in _SECTIONS if by_kind[kind] or kind in _WITHOUT_TABLES]
    return (
        page_environment()
        .get_template("page.html")
        .render(
            mark=MARKDOWN_MARK,
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
            version=__version__,
            methods=len(report.rows) + len({each.label for each in report.unlabelled}),
            runs=runs,
            notes=report.notes,
            sections=[(kind, _SECTIONS[kind], by_kind[kind]) for kind in shown],
            pictures=pictures,
            no_plots=no_plots,
            configurations=_configurations(runs, titles),
            data=browser_data(runs, titles, views, images=images, rows=rows, messages=messages),
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


def _configurations(runs: Sequence[Run], titles: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """The titles of the runs of each configuration, and its lines."""
    import yaml

    found: dict[str, list[str]] = {}
    for run, title in zip(runs, titles, strict=True):
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else ""
        found.setdefault(text, []).append(title)
    return [(mine, text.splitlines()) for text, mine in found.items()]


def _environment(runs: Sequence[Run]) -> Table:
    versions = [run.results.get("versions") for run in runs]
    stated: list[dict[Any, Any]] = [each if isinstance(each, dict) else {} for each in versions]
    counts = Counter(tuple((visible(str(name)), str(value)) for name, value in each.items()) for each in stated)
    names = list(dict.fromkeys(name for each in counts for name, _ in each))
    rows = [cells(count, *(dict(each).get(name, "") for name in names)) for each, count in counts.items()]
    return Table("Versions that the runs were made with", ("Runs", *names), rows, kind="environment")
