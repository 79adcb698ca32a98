"""A report as one page that opens from the disk and asks nothing of any network.

What runs say enters it in two ways: escaped, in the tables; and as JSON that the page's own script shows as text. The
page's policy lets its one script and its one style run, known by their hashes, and ``data:`` pictures load; nothing
else, wherever it came from.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from lorattt import __version__
from lorattt.report.build import Report
from lorattt.report.escape import html, shorten, visible
from lorattt.report.image_browser import block, browser_data
from lorattt.report.layout import dataset_title
from lorattt.report.pictures import address
from lorattt.report.render import MARKDOWN_MARK
from lorattt.report.rows import Row
from lorattt.report.runs import Run
from lorattt.report.style import Picture
from lorattt.report.tables import Cell, Table
from lorattt.report.topk import TopK

_PLACE: Final = re.compile(r"\{\{([a-z]+)\}\}")
_LONGEST: Final = 160


def as_html(
    report: Report,
    top_k: Mapping[int, TopK],
    pictures: Sequence[Picture],
    *,
    images: int,
    rows: int,
    views: Mapping[int, Mapping[int, dict[str, str]]],
    no_plots: str = "",
    said: list[str] | None = None,
) -> str:
    """The page.

    Args:
        report: The report.
        top_k: Of its runs, by their identities.
        pictures: The plots.
        images: How many images of each run have their pictures in the page.
        rows: How many images the page lists, of all runs together.
        views: Of some runs, by their identities, sheets of views by row.
        no_plots: Why there are no plots.
        said: Where given, a line is added for each dataset of whose images no picture could be read.
    """
    runs, titles = report.shown, _titles(report)
    data = browser_data(runs, titles, top_k, pictured=images, most=rows, views=views, said=said)
    own = {name: files("lorattt.report").joinpath(f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    sections = _sections(report, pictures, no_plots, runs, titles)
    values = {
        "mark": MARKDOWN_MARK,
        "policy": "; ".join(
            [
                "default-src 'none'",
                "img-src data:",
                f"style-src '{_hash(own['css'])}'",
                f"script-src '{_hash(own['js'])}'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        "title": "Report",
        "style": own["css"],
        "script": own["js"],
        "summary": _summary(report, runs),
        "sections": "".join(f'<li><a href="#{name}">{html(title)}</a></li>' for name, title, _ in sections),
        "content": "\n".join(content for _, _, content in sections),
        "data": "\n".join(block(name, value) for name, value in data.items()),
    }
    template = files("lorattt.report").joinpath("page.html").read_text(encoding="utf-8")
    # In one pass: what a value holds is not looked at again.
    return _PLACE.sub(lambda found: values[found.group(1)], template)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _titles(report: Report) -> list[str]:
    """What each of the runs shown is called."""
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
    notes = "".join(f"<li>{html(shorten(note, 600))}</li>" for note in report.notes)
    return f"<p>{parts}. Made by lorattt {html(__version__)}.</p>" + (f"<ul>{notes}</ul>" if notes else "")


def _sections(
    report: Report, pictures: Sequence[Picture], no_plots: str, runs: Sequence[Run], titles: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Id, title and content of each section."""
    plots = "".join(_figure(picture) for picture in pictures)
    plots = f'<div class="plots">{plots}</div>' if plots else f'<p class="note">{html(no_plots or "No plots.")}</p>'
    kinds = (
        ("accuracy", "Accuracy", report.tables),
        ("corruption", "Corruption error", report.tables),
        ("measures", "Measures", report.tables),
        ("pairs", "Differences", report.tables),
        ("costs", "Costs", report.tables),
        ("unlabelled", "Runs without labels", report.tables),
        ("published", "Published numbers", report.published),
    )
    found = []
    for kind, title, tables in kinds:
        mine = [table for table in tables if table.kind == kind]
        if mine:
            found.append((kind, title, _section(kind, title, "".join(_table(table) for table in mine))))
        if kind == "accuracy":
            found.append(("plots", "Plots", _section("plots", "Plots", plots)))
            browser = files("lorattt.report").joinpath("browser.html").read_text(encoding="utf-8")
            found.append(("browse", "Images", browser))
    found.append(("config", "Configuration", _section("config", "Configuration", _configurations(runs, titles))))
    environment = _environment(runs)
    found.append(("environment", "Environment", _section("environment", "Environment", environment)))
    return found


def _section(name: str, title: str, content: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{html(title)}</h2>{content}</section>'


def _figure(picture: Picture) -> str:
    source = address("image/svg+xml", picture.svg)
    text = f"{html(shorten(picture.title))}. {html(picture.about)}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _table(table: Table) -> str:
    numbers = [any(row[place].number for row in table.rows) for place in range(len(table.columns))]
    classes = [' class="number"' if each else "" for each in numbers]
    head = "".join(
        f'<th scope="col"{each}>{html(name)}</th>' for name, each in zip(table.columns, classes, strict=True)
    )
    lines = []
    for row in table.rows:
        cells = [_cell(cell, each) for cell, each in zip(row[1:], classes[1:], strict=True)]
        lines.append(f'<tr><th scope="row"{classes[0]}>{_content(row[0])}</th>{"".join(cells)}</tr>')
    notes = "".join(f'<p class="note">{html(note)}</p>' for note in table.notes)
    title = html(shorten(table.title, _LONGEST))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}"><table><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{notes}"
    )


def _cell(cell: Cell, kind: str) -> str:
    return f"<td{kind}>{_content(cell)}</td>"


def _content(cell: Cell) -> str:
    if cell.text is not None:
        short = shorten(cell.text, _LONGEST)
        whole = f' title="{html(cell.text[:1000])}"' if short != cell.text else ""
        return f"<bdi{whole}>{html(short)}</bdi>"
    shown = cell.number.replace("-", "\u2212")
    shown = f"<strong>{shown}</strong>" if cell.best and shown else shown
    return shown if cell.deviation is None or not shown else f"{shown} ± {cell.deviation:.{cell.digits}f}"


def _configurations(runs: Sequence[Run], titles: Sequence[str]) -> str:
    """Each configuration once, with the runs that had it."""
    import yaml

    of: dict[str, list[str]] = {}
    for run, title in zip(runs, titles, strict=True):
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else ""
        of.setdefault(text, []).append(title)
    found = []
    for text, mine in of.items():
        names = ", ".join(f"<bdi>{html(shorten(title, _LONGEST))}</bdi>" for title in mine[:8])
        names += f" and {len(mine) - 8} more" if len(mine) > 8 else ""
        # Line by line: a break of lines is what the form of YAML is made of.
        lines = "\n".join(html(line) for line in text.splitlines())
        content = f"<pre tabindex=0>{lines}</pre>" if text else '<p class="note">No config.yaml in the folder.</p>'
        found.append(f"<details><summary>{names}</summary>{content}</details>")
    return "".join(found)


def _environment(runs: Sequence[Run]) -> str:
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
    return _table(Table("Versions that the runs were made with", ("Runs", *names), rows, kind="environment"))
