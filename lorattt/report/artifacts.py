"""The files of a report besides its tables: plots and the page."""

from lorattt.errors import UserError
from lorattt.report.build import Format, Report
from lorattt.report.files import PLOTS
from lorattt.report.image_browser import choose_pictured
from lorattt.report.landscape import check_plots
from lorattt.report.topk import read_top_k, share_names

PAGE = "report.html"


def draw_artifacts(
    report: Report, form: Format, *, plots: bool | None, images: int, rows: int, views: bool
) -> tuple[dict[str, bytes], list[str]]:
    """Draw the plots and build the page.

    Args:
        report: The report.
        form: The page is made for ``html`` and ``all``.
        plots: Whether plots are drawn; None for with the page, if matplotlib is installed.
        images: How many images of each run have their pictures in the page.
        rows: How many images the page lists, of all runs together.
        views: Whether the page has these images' views, which takes the models and torch.

    Returns:
        Files by path below the report's folder, and lines for the terminal.

    Raises:
        UserError: If plots are asked for and matplotlib is not installed, or a run's files are damaged.
    """
    paged = form in ("html", "all")
    if not paged and not plots:
        return {}, []
    runs = report.shown
    top_k = {id(run): read_top_k(run) for run in runs}
    share_names([run for run in runs if run.labelled], top_k)  # others may have other classes under the same name
    messages: list[str] = []
    no_plots = "No plots were asked for." if plots is False else "No run has labels: there is nothing to plot."
    pictures, files = [], {}
    if plots is not False:
        try:
            check_plots()
        except UserError as error:
            if plots:
                raise
            no_plots = f"no plots: {error}"
            messages.append(no_plots)
        else:
            from lorattt.report.plots import draw_plots

            pictures = draw_plots(report, top_k)
            for picture in pictures:
                files[f"{PLOTS}/{picture.name}.png"] = picture.png
                files[f"{PLOTS}/{picture.name}.svg"] = picture.svg
    if paged:
        from lorattt.report.html import as_html

        sheets = {}
        if views:
            from lorattt.report.views import view_sheets

            for run in runs:
                sheets[id(run)], problem = view_sheets(run, choose_pictured(run.predictions, images))
                messages += [f"no views of {run.folder}: {problem}"] if problem else []
        page = as_html(
            report,
            top_k,
            pictures,
            images=images,
            rows=rows,
            views=sheets,
            no_plots=no_plots,
            messages=messages,
        )
        files[PAGE] = page.encode("utf-8")
    return files, messages
