"""How plots look: colours, markers and lines that tell methods apart without colour too, and how files are made."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any, Final, NamedTuple

from lorattt.errors import shortened
from lorattt.report.escape import visible
from lorattt.report.render import KIND

# Okabe and Ito's colours without yellow, which is hard to see on white, and black, which is "before".
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_LINES: Final[tuple[Any, ...]] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
BEFORE_COLOUR: Final = "#000000"
WON: Final = "#0072B2"
LOST: Final = "#E69F00"
WIDTH: Final = 6.3  # of a figure in inches: that of a page's text
_DPI: Final = 200


class Picture(NamedTuple):
    """A plot as files."""

    name: str  # of its files, without their endings
    title: str  # what it shows, in few words
    about: str  # how to read it, for a caption and for those who do not see it
    png: bytes
    svg: bytes


def look(place: int) -> dict[str, Any]:
    """Colour, marker and line of the method of that number; pairs repeat after 42."""
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _LINES[place % len(_LINES)],
    }


def plot_text(text: str, longest: int = 44) -> str:
    """A name as matplotlib shows it: on one line, and in the legend too where it begins with an underscore."""
    shown = shortened(visible(text), longest)
    return f"\u200a{shown}" if shown.startswith("_") else shown


@contextmanager
def plot_settings() -> Iterator[None]:
    """The settings for a plot, and no others."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings(), as_file(files("lorattt.report")) as folder:
        matplotlib.rcdefaults()
        matplotlib.rc_file(folder / "plots.mplstyle")
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box is drawn instead
        yield


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of the page's width and a list of its panels, row by row."""
    from matplotlib.figure import Figure

    # Without pyplot: no window system is asked for, and no state is left behind.
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def finish(figure: Any, legend: Sequence[tuple[str, Any]], heading: str, name: str, title: str, about: str) -> Picture:
    """Add legend and heading (empty for none), and draw both files: the same bytes for the same figure."""
    if heading:
        figure.suptitle(plot_text(heading, 80), fontsize=9)
    labels = [label for label, _ in legend]
    # As many columns as the labels leave room for.
    columns = max(1, min(len(labels), int(110 / (max(map(len, labels), default=1) + 8))))
    figure.legend([handle for _, handle in legend], labels, loc="outside lower center", ncols=columns)
    contents = []
    figure.get_layout_engine().set(h_pad=0.06)
    figure.draw_without_rendering()  # lays out, which takes as long as both files together
    figure.set_layout_engine("none")
    for form, metadata in (("png", {"Software": KIND}), ("svg", {"Creator": KIND, "Date": None})):
        content = io.BytesIO()
        figure.savefig(content, format=form, dpi=_DPI, metadata=metadata)
        contents.append(content.getvalue())
    return Picture(name, title, about, *contents)
