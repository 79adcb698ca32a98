"""The files of a report: texts, plots and the page; each written whole, and only over files of an earlier report."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lorattt.errors import UserError
from lorattt.report.build import Report
from lorattt.report.image_browser import browser_data, choose_pictured
from lorattt.report.landscape import check_plots
from lorattt.report.render import KIND, LATEX_MARK, MARKDOWN_MARK
from lorattt.report.runs import Run

PLOTS: Final = "plots"


def report_files(
    report: Report, form: str, *, plots: bool | None, images: int, rows: int, views: bool
) -> tuple[dict[str, bytes], list[str]]:
    """Files by path below the report's folder, as the command's options of these names say; and lines to print."""
    texts = {"report.md": report.markdown} if form in ("markdown", "all") else {}
    texts |= {"tables.tex": report.latex} if form in ("latex", "all") else {}
    texts["report.json"] = report.json
    files = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
    paged = form in ("html", "all")
    if not paged and not plots:
        return files, []
    runs = [run for _, run in report.shown]
    _share_names([run for run in runs if run.labelled])  # others may have other classes under the same name
    messages: list[str] = []
    no_plots = "No plots were asked for." if plots is False else "No run has labels: there is nothing to plot."
    if plots is None:
        try:
            check_plots()
        except UserError as error:
            plots, no_plots = False, f"no plots: {error}"
            messages.append(no_plots)
    pictures = []
    if plots is not False:
        from lorattt.report.plots import draw_plots

        pictures = draw_plots(report)
        files |= {f"{PLOTS}/{each.name}.{kind}": getattr(each, kind) for each in pictures for kind in ("png", "svg")}
    if paged:
        from lorattt.report.html import as_html

        if views:
            from lorattt.report.views import view_sheets
        sheets = {}
        for run in runs if views else ():
            sheets[id(run)], problem = view_sheets(run, choose_pictured(run.predictions, images))
            messages += [f"no views of {run.folder}: {problem}"] if problem else []
        data = browser_data(report.shown, sheets, images, rows, messages)
        files["report.html"] = as_html(report, pictures, no_plots, data).encode("utf-8")
    return files, messages


def _share_names(runs: Sequence[Run]) -> None:
    """Give each run the class names that others of the same dataset have, where it has none of its own."""
    known: dict[str, dict[int, str]] = {}
    for run in runs:
        known[run.dataset] = run.top_k.names | known.get(run.dataset, {})
    for run in runs:
        run.top_k.names.update(known[run.dataset] | run.top_k.names)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by path below a folder, and remove plots of an earlier report that this one does not have.

    A ``UserError`` if the folder cannot be written, or a file there is not one of a report.
    """
    files = {folder / name: content for name, content in contents.items()}
    for file in files:
        if os.path.lexists(file) and not _is_ours(file):
            raise UserError(
                f"{file}: is not a report of lorattt, and is not overwritten: name another --out, or remove it"
            )
    try:
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{file.name}.{os.getpid()}")
            new.write_bytes(content)
            new.replace(file)
        if any(name.startswith(f"{PLOTS}/") for name in contents):
            for file in sorted((folder / PLOTS).iterdir()):
                if file not in files and file.suffix in (".png", ".svg") and _is_ours(file):
                    file.unlink()
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be written ({error.strerror or error}): name another folder"
        ) from error


def _is_ours(file: Path) -> bool:
    try:
        if file.suffix in (".png", ".svg"):
            with file.open("rb") as opened:
                return KIND.encode() in opened.read(4096)  # the beginning names a picture's creator
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            found = json.loads(text)
            return isinstance(found, dict) and found.get("kind") == KIND
    except (OSError, ValueError):
        return False
    return text.removeprefix("<!DOCTYPE html>\n").startswith((MARKDOWN_MARK, LATEX_MARK))
