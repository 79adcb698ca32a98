"""Tables as Markdown, LaTeX and JSON; templates write the first two."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lorattt.errors import shortened
from lorattt.report.escape import latex, markdown
from lorattt.report.tables import Cell, Table

KIND: Final = "lorattt report"
MARKDOWN_MARK: Final = Markup(f"<!-- {KIND}, written by the command of that name -->")
LATEX_MARK: Final = Markup(f"% {KIND}, written by the command of that name")
JSON_FORMAT: Final = 1
_FOR_LATEX: Final = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
}


def environment(written: Callable[[str], str], **options: Any) -> Environment:
    """An environment of templates that shows every text as ``written`` gives it: for HTML, or as ``Markup``."""
    found = Environment(
        loader=PackageLoader("lorattt.report", ""),
        autoescape=True,
        finalize=lambda value: written(value) if type(value) is str else value,  # not of Markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters["shortened"] = shortened
    return found


def as_markdown(sections: Sequence[tuple[str, Sequence[Table]]], notes: Sequence[str]) -> str:
    """A document of GitHub's Markdown: sections of tables, then notes."""
    template = environment(lambda text: Markup(markdown(text))).get_template("markdown.jinja")
    return template.render(mark=MARKDOWN_MARK, sections=sections, notes=notes).rstrip("\n") + "\n"


def as_latex(tables: Sequence[Table]) -> str:
    """Floats with tabulars, for a document that loads booktabs and takes the file in."""
    template = environment(lambda text: Markup(latex(text)), **_FOR_LATEX).get_template("latex.jinja")
    return template.render(mark=LATEX_MARK, tables=tables).rstrip("\n") + "\n"


def plain(value: Any) -> Any:
    """Data as JSON has it: a dataclass is an object, a cell its text or value, a number that is not finite null."""
    if isinstance(value, Cell):
        number = {"value": value.value, "deviation": value.deviation, "best": value.best}
        return plain(number) if value.text is None else value.text
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
