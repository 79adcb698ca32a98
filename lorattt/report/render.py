"""Tables as Markdown, LaTeX and JSON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from lorattt.errors import shortened
from lorattt.report.escape import latex, markdown
from lorattt.report.tables import Cell, Table

KIND: Final = "lorattt report"
MARKDOWN_MARK: Final = f"<!-- {KIND}, written by the command of that name -->"
LATEX_MARK: Final = f"% {KIND}, written by the command of that name"
JSON_FORMAT: Final = 1
_WIDE: Final = 8  # columns that a page of two columns still has room for


def as_markdown(sections: Sequence[tuple[str, Sequence[Table]]], notes: Sequence[str]) -> str:
    """A document of GitHub's Markdown: sections of tables, then notes."""
    lines = [MARKDOWN_MARK, "# Report", ""]
    for title, tables in sections:
        if tables:
            lines += [f"## {markdown(title)}", ""]
        for table in tables:
            if table.title != title:
                lines += [f"### {markdown(table.title)}", ""]
            lines += _markdown_table(table)
            lines += [*(f"- {markdown(note)}" for note in table.notes), *([""] if table.notes else [])]
    if notes:
        lines += ["## Notes", "", *(f"- {markdown(note)}" for note in notes), ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    lines = [
        _line([markdown(name) for name in table.columns]),
        _line(["---:" if each else "---" for each in table.numeric]),
    ]
    lines += [_line([_written(cell, markdown, "**{}**", "{} ± {}") for cell in row]) for row in table.rows]
    return [*lines, ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_latex(tables: Sequence[Table]) -> str:
    """Floats with tabulars, for a document that loads booktabs and takes the file in."""
    lines = [LATEX_MARK, "% Needs \\usepackage{booktabs,graphicx} and \\usepackage[T1]{fontenc}.", ""]
    for table in tables:
        kinds = "".join("r" if each else "l" for each in table.numeric)
        notes = " ".join(latex(note) for note in table.notes)
        wide = len(table.columns) > _WIDE
        lines += [
            r"\begin{table}[tb]",
            r"\centering",
            f"\\caption{{{latex(table.title)}.{' ' + notes if notes else ''}}}",
            *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
            f"\\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            _row([latex(name) for name in table.columns]),
            r"\midrule",
            *(_row([_written(cell, latex, r"\textbf{{{}}}", r"{} $\pm$ {}") for cell in row]) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}" + ("}" if wide else ""),
            r"\end{table}",
            "",
        ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _written(cell: Cell, escape: Callable[[str], str], bold: str, spread: str) -> str:
    if cell.text is not None:
        return escape(shortened(cell.text, 160))
    shown = cell.number
    if not shown:
        return ""
    if escape is latex:
        shown = shown.replace("-", "$-$")  # else a hyphen
    shown = bold.format(shown) if cell.best else shown
    return spread.format(shown, cell.spread) if cell.spread else shown


def as_json(table: Table) -> dict[str, Any]:
    """A table's content: a cell is its text, or its value with what belongs to it."""
    return {
        "title": table.title,
        "kind": table.kind,
        "columns": list(table.columns),
        "rows": [[_cell_json(cell) for cell in row] for row in table.rows],
        "notes": list(table.notes),
    }


def _cell_json(cell: Cell) -> Any:
    if cell.text is not None:
        return cell.text
    return {"value": cell.value, "deviation": cell.deviation, "best": cell.best}


def plain(value: Any) -> Any:
    """Data without what JSON does not have: a number that is not finite is null, a dataclass an object."""
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
