"""A report as one page that opens from the disk and needs no network.

The templates escape all that runs contain, and the page's own script shows its data as text. The page's content
security policy allows its one script and its one style, known by their hashes, and ``data:`` pictures; nothing else.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment

from lorattt import __version__
from lorattt.report.build import Report
from lorattt.report.escape import isolated, visible
from lorattt.report.pictures import address
from lorattt.report.render import MARKDOWN_MARK, environment
from lorattt.report.style import Picture
from lorattt.report.tables import Table, cells


def page_environment() -> Environment:
    """The templates' environment: text is shown on one line, without invisible characters, and escaped."""
    found = environment(lambda text: isolated(visible(text)))
    found.filters["svg"] = lambda content: address("image/svg+xml", content)
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def as_html(report: Report, pictures: Sequence[Picture], no_plots: str, data: Mapping[str, Any]) -> str:
    """The page, with the plots or why there are none, and the data of the image browser."""
    style, script = (files("lorattt.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    template = page_environment().get_template("page.html")
    return template.render(
        mark=MARKDOWN_MARK,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
        methods=len(report.rows) + len({each.label for each in report.unlabelled}),
        runs=[run for _, run in report.shown],
        notes=report.notes,
        tables=[*report.tables, *report.published, _environment(report)],
        pictures=pictures,
        no_plots=no_plots,
        configurations=_configurations(report),
        data=data,
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _configurations(report: Report) -> list[tuple[list[str], list[str]]]:
    """The titles of the runs of each configuration, and its lines."""
    found: dict[str, list[str]] = {}
    for title, run in report.shown:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else ""
        found.setdefault(text, []).append(title)
    return [(titles, text.splitlines()) for text, titles in found.items()]


def _environment(report: Report) -> Table:
    versions = [run.results.get("versions") for _, run in report.shown]
    stated: list[dict[Any, Any]] = [each if isinstance(each, dict) else {} for each in versions]
    counts = Counter(tuple((visible(str(name)), str(value)) for name, value in each.items()) for each in stated)
    names = list(dict.fromkeys(name for each in counts for name, _ in each))
    rows = [cells(count, *(dict(each).get(name, "") for name in names)) for each, count in counts.items()]
    return Table("Versions that the runs were made with", ("Runs", *names), rows, kind="environment")
