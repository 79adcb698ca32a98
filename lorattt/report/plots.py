"""The plots of a report: accuracy, gain and speed, calibration, coverage, classes, and settings."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import numpy as np

from lorattt.calibration import calibration_error
from lorattt.report.build import Report
from lorattt.report.compare import BEFORE
from lorattt.report.curves import Change, changes, coverage, mean_over, reliability, sweep_curves
from lorattt.report.layout import Layout, evaluate, layouts
from lorattt.report.predictions import WHEN
from lorattt.report.rows import Row
from lorattt.report.style import (
    BEFORE_COLOUR,
    LOST,
    WON,
    Picture,
    finish,
    legend_below,
    look,
    new_figure,
    plot_settings,
    plot_text,
)
from lorattt.report.topk import TopK

_TALLEST: Final = 9.5  # inches, of a page
_LISTED: Final = 12
_PANELS: Final = 12
_LINES: Final = 10
_OF_CLASSES: Final = 8


def draw_plots(report: Report, top_k: Mapping[int, TopK]) -> list[Picture]:
    """Draw all plots that the runs have numbers for.

    Args:
        report: The report; ``matplotlib`` must be installed.
        top_k: Of its runs, by their identities.
    """
    looks = {id(row): look(place) for place, row in enumerate(report.rows)}
    found: list[Picture] = []
    with plot_settings():
        for backbone in dict.fromkeys(row.backbone for row in report.rows):
            rows = [row for row in report.rows if row.backbone == backbone]
            corrupted = {run.dataset: run.corruption for row in rows for run in row.all_runs()}
            for layout in layouts(corrupted):
                found += [_accuracy(report, layout, rows, looks), *_coverage(layout, rows, looks)]
            found += [*_speed(report, rows, looks), *_reliability(report, rows)]
            pictures = (picture for row in rows for picture in _classes(row, top_k))
            found += islice(pictures, _OF_CLASSES)
        found += _sweeps(report)
    return _named_apart(found)


def _named_apart(found: Sequence[Picture]) -> list[Picture]:
    """The pictures with file names, a number appended to repeated ones."""
    seen: dict[str, int] = {}
    apart = []
    for picture in found:
        name = re.sub(r"[^a-z0-9]+", "-", picture.name.lower()).strip("-")[:60].strip("-")
        seen[name] = number = seen.get(name, 0) + 1
        name = f"{name}-{number}" if number > 1 else name
        apart.append(replace(picture, name=name))
    return apart


def _accuracy(report: Report, layout: Layout, rows: Sequence[Row], looks: Mapping[int, Any]) -> Picture:
    names = layout.datasets
    rows = [row for row in rows if any(name in row.runs for name in names)]
    step = min(0.15, _TALLEST / ((len(rows) + 1) * len(layout.columns)))  # inches, from one method to the next
    height = step * (len(rows) + 1) * len(layout.columns) + 0.9 + 0.18 * math.ceil(len(rows) / 3)
    figure, (axes,) = new_figure(height)
    size = min(5.0, 60 * step)
    handles = []
    for place, row in enumerate(rows):
        # From top to bottom as in the legend.
        offset = (place - (len(rows) - 1) / 2) / (len(rows) + 1)
        for number, (_, column) in enumerate(layout.columns):
            values = [
                evaluate(
                    column, {n: {s: report.measured.top1(run, w) for s, run in row.runs[n].items()} for n in row.runs}
                )
                for w in WHEN
            ]
            before, after = values
            if before is None or after is None:
                continue
            y = number + offset
            axes.plot([before.mean, after.mean], [y, y], color="#999999", linewidth=0.8, zorder=1)
            axes.plot([before.mean], [y], marker="|", color=BEFORE_COLOUR, markersize=1.6 * size, linestyle="none")
            mine = {**looks[id(row)], "linestyle": "none"}
            axes.errorbar([after.mean], [y], xerr=after.deviation, markersize=size, elinewidth=0.8, capsize=1.5, **mine)
        handles.append(_handle(axes, looks[id(row)], line=False))
    axes.set_yticks(range(len(layout.columns)), [plot_text(title, 30) for title, _ in layout.columns])
    axes.set_ylim(len(layout.columns) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for edge in range(1, len(layout.columns)):
        axes.axhline(edge - 0.5, color="#bbbbbb", linewidth=0.6)
    axes.set_xlabel("top-1 %")
    figure.suptitle(plot_text(f"{layout.title}: before and after, {rows[0].backbone}", 80), fontsize=9)
    (tick,) = axes.plot([], [], marker="|", color=BEFORE_COLOUR, linestyle="none", markersize=8)
    legend_below(figure, [tick, *handles], [BEFORE, *(plot_text(row.label) for row in rows)])
    return finish(
        figure,
        f"accuracy-{layout.title}",
        f"Accuracy before and after: {layout.title}",
        "A vertical stroke is top-1 before adaptation, a marker after it; whiskers are the standard deviation over "
        "seeds.",
    )


def _handle(axes: Any, style: Mapping[str, Any], *, line: bool) -> Any:
    (handle,) = axes.plot([], [], **{**style, **({} if line else {"linestyle": "none"})})
    return handle


def _pooled(row: Row, datasets: Sequence[str], when: str) -> tuple[Any, Any]:
    """Right or not, and confidence, of the labelled images of all runs on these datasets, where it is finite."""
    right, sure = [np.zeros(0, dtype=np.bool_)], [np.zeros(0)]
    for name in datasets:
        for run in row.runs.get(name, {}).values():
            right.append(run.predictions.right(when))
            sure.append(run.predictions.confidence[when][run.predictions.known])
    rights, confidence = np.concatenate(right), np.concatenate(sure)
    finite = np.isfinite(confidence)
    return rights[finite], confidence[finite]


def _coverage(layout: Layout, rows: Sequence[Row], looks: Mapping[int, Any]) -> list[Picture]:
    mine = [row for row in rows if any(name in row.runs for name in layout.datasets)]
    common = [name for name in layout.datasets if all(name in row.runs for row in mine)]
    if not common:
        return []
    all_of_them, mine = len(mine), mine[:_LINES]
    figure, (axes,) = new_figure(3.6 + 0.18 * math.ceil(len(mine) / 3))
    handles: list[Any] = []
    labels: list[str] = []
    drawn: set[tuple[int, bytes]] = set()
    for row in mine:
        right, sure = _pooled(row, common, "before")
        if not len(right):
            continue
        xs, ys = coverage(right, sure)
        if (shape := (len(ys), np.round(ys, 4).tobytes())) not in drawn:
            style = {"color": BEFORE_COLOUR, "linestyle": ":" if not drawn else (0, (1, 3)), "linewidth": 1.6}
            handles += axes.plot(100 * xs, 100 * ys, **style)
            labels.append(BEFORE if not drawn else plot_text(f"{BEFORE}, {row.label}"))
            drawn.add(shape)
    for row in mine:
        right, sure = _pooled(row, common, "after")
        if len(right):
            xs, ys = coverage(right, sure)
            marks = {"markevery": max(1, len(xs) // 6), "markersize": 4}
            handles += axes.plot(100 * xs, 100 * ys, **looks[id(row)], **marks)
            labels.append(plot_text(row.label))
    axes.set_xlabel("coverage %: the most confident images that are answered")
    axes.set_ylabel("top-1 % of these")
    axes.set_xlim(0, 100)
    figure.suptitle(plot_text(f"{layout.title}: accuracy against coverage, {mine[0].backbone}", 80), fontsize=9)
    legend_below(figure, handles, labels)
    about = "Only the most confident images are answered. All images of all seeds are pooled"
    about += f", of the {len(common)} datasets that all methods have." if len(common) > 1 else "."
    about += f" The first {_LINES} of {all_of_them} methods." if all_of_them > _LINES else ""
    return [finish(figure, f"coverage-{layout.title}", f"Accuracy against coverage: {layout.title}", about)]


def _speed(report: Report, rows: Sequence[Row], looks: Mapping[int, Any]) -> list[Picture]:
    datasets = list(dict.fromkeys(name for row in rows for name in row.runs))
    common = [name for name in datasets if all(name in row.runs for row in rows)]
    points = []
    for row in rows:
        timed = [run for run in row.all_runs() if run.images_per_second > 0]
        if timed:
            speed = sum(run.n for run in timed) / math.fsum(run.n / run.images_per_second for run in timed)
            means = [mean_over(row, common or list(row.runs), report.measured, when)[0] for when in WHEN]
            points.append((row, speed, means[1] - means[0], any(run.shared_with for run in timed)))
    if not points:
        return []
    figure, (axes,) = new_figure(3.2 + 0.18 * math.ceil(len(points) / 3))
    axes.axhline(0, color=BEFORE_COLOUR, linewidth=0.8)
    handles, labels = [], []
    for row, speed, gain, shared in points:
        style = {**looks[id(row)], "linestyle": "none", "markersize": 7}
        hollow = {"markerfacecolor": "none", "markeredgewidth": 1.4} if shared else {}
        handles += axes.plot([speed], [gain], **style, **hollow)
        labels.append(plot_text(row.label))
    speeds = [speed for _, speed, _, _ in points]
    if max(speeds) > 5 * min(speeds):
        _powers_of_ten(axes)
    axes.set_xlabel("images a second")
    axes.set_ylabel("gain of top-1, points")
    figure.suptitle(plot_text(f"Gain against speed, {rows[0].backbone}", 80), fontsize=9)
    axes.margins(0.08, 0.15)
    legend_below(figure, handles, labels)
    about = f"Mean gain over {len(common)} dataset(s) that all methods have." if common else "Mean gain over each "
    about += "" if common else "method's own datasets, for they have none in common."
    if any(shared for *_, shared in points):
        about += " Hollow markers ran together with other methods: their speed is that of all of them together."
    return [finish(figure, "speed", "Gain against images a second", about)]


def _reliability(report: Report, rows: Sequence[Row]) -> list[Picture]:
    pooled = [(row, {when: _pooled(row, list(row.runs), when) for when in WHEN}) for row in rows]
    shown = [(row, found) for row, found in pooled if all(len(right) for right, _ in found.values())][:_PANELS]
    if not shown:
        return []
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    height = 2.3 * lines + 0.6 if columns == 3 else 3.0 * lines + 0.6
    figure, panels = new_figure(height, lines, columns, sharex=True, sharey=True)
    for spare in panels[len(shown) :]:
        spare.set_visible(False)
    handles: list[Any] = []
    for place, ((row, found), axes) in enumerate(zip(shown, panels, strict=False)):
        axes.plot([0, 100], [0, 100], color="#777777", linewidth=0.8)
        handles = []
        title = plot_text(row.label, 60 // columns)
        for when, colour, line, marker in (("before", BEFORE_COLOUR, ":", "s"), ("after", WON, "-", "o")):
            right, sure = found[when]
            xs, ys, share = reliability(right, sure, report.bins)
            filled = "none" if when == "before" else colour
            style = {"color": colour, "linestyle": line, "linewidth": 1.2}
            axes.plot(100 * xs, 100 * ys, **style)
            axes.scatter(
                100 * xs, 100 * ys, s=4 + 260 * share, marker=marker, facecolor=filled, edgecolor=colour, clip_on=False
            )
            handles += axes.plot([], [], marker=marker, markerfacecolor=filled, **style)
        errors = [100 * calibration_error(*found[when], report.bins) for when in WHEN]
        axes.set_title(f"{title}\nECE {errors[0]:.1f} \u2192 {errors[1]:.1f} %", fontsize=8)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        if place >= len(shown) - columns:
            axes.set_xlabel("confidence %")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("top-1 %")
    legend_below(figure, handles, ["before", "after"])
    about = f"{report.bins} bins; a marker's area is its share of the images. All images of all runs of a method are "
    about += "pooled. Below the diagonal a model is too sure."
    about += f" The first {_PANELS} of {len(pooled)} methods." if len(pooled) > _PANELS else ""
    return [finish(figure, "reliability", "Reliability before and after", about)]


def _classes(row: Row, top_k: Mapping[int, TopK]) -> list[Picture]:
    classes, pairs = changes(row, top_k)
    if not classes:
        return []
    classes, pairs = classes[:_LISTED], pairs[:_LISTED]
    height = 0.2 * (len(classes) + len(pairs)) + 1.7
    figure, panels = new_figure(height, 2, 1, height_ratios=[len(classes) + 0.5, len(pairs) + 0.5])
    titles = ("Classes won and lost", "Confusions fixed (won) and made (lost): class \u2192 taken for")
    handles: list[Any] = []
    for axes, found, title in zip(panels, (classes, pairs), titles, strict=True):
        handles = _diverging(axes, found)
        axes.set_title(title, loc="left")
    panels[-1].set_xlabel("images lost | won")
    figure.suptitle(plot_text(f"{row.label}, {row.backbone}", 80), fontsize=9)
    legend_below(figure, handles, ["won: wrong before, right after", "lost: right before, wrong after"])
    runs = len(row.all_runs())
    about = f"The {_LISTED} classes and confusions with most changes, over {runs} run(s)."
    return [finish(figure, f"classes-{row.label}", f"Classes won and lost: {row.label}", about)]


def _diverging(axes: Any, found: Sequence[Change]) -> list[Any]:
    places = range(len(found))
    won = axes.barh(places, [each.won for each in found], color=WON)
    lost = axes.barh(places, [-each.lost for each in found], color=LOST, hatch="////", edgecolor="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [plot_text(each.name, 52) for each in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    far = max(max(each.won, each.lost) for each in found)
    axes.set_xlim(-far * 1.05, far * 1.05)
    _whole_numbers(axes)
    return [won, lost]


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    shown: Callable[[float, int], str] = lambda value, _: f"{abs(value):g}"  # noqa: E731
    axes.xaxis.set_major_formatter(FuncFormatter(shown))


def _powers_of_ten(axes: Any) -> None:
    """A logarithmic axis whose numbers are plain: Matplotlib's own are formulas, which our style does not set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _sweeps(report: Report) -> list[Picture]:
    curves = sweep_curves(report.measured)
    found = []
    for key in dict.fromkeys(curve.key for curve in curves):
        mine = [curve for curve in curves if curve.key == key]
        figure, (axes,) = new_figure(3.3 + 0.18 * len(mine))
        handles, labels = [], []
        for place, curve in enumerate(mine):
            style = look(place)
            spread = [each or 0.0 for each in curve.deviation] if any(curve.deviation) else None
            axes.errorbar(curve.values, curve.after, yerr=spread, capsize=2, elinewidth=0.8, **style)
            handles.append(_handle(axes, style, line=True))
            labels.append(plot_text(curve.label, 60))
        before = {tuple(round(each, 4) for each in curve.before): curve for curve in mine}
        for curve in before.values():
            (line,) = axes.plot(curve.values, curve.before, color=BEFORE_COLOUR, linestyle=":", linewidth=1.2)
        handles.append(line)
        labels.append(BEFORE)
        values = sorted({value for curve in mine for value in curve.values})
        if values[0] > 0 and values[-1] >= 8 * values[0]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(values if len(values) <= 12 else values[:: math.ceil(len(values) / 12)])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(plot_text(key, 60))
        axes.set_ylabel("top-1 %")
        figure.suptitle(plot_text(f"Accuracy against {key}", 80), fontsize=9)
        legend_below(figure, handles, labels)
        about = "All other settings are equal along a line. Mean over datasets and seeds; whiskers are the standard "
        about += "deviation over seeds."
        found.append(finish(figure, f"sweep-{key}", f"Accuracy against {key}", about))
    return found
