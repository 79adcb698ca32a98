"""The plots of a report: accuracy, gain and speed, calibration, coverage, classes, and settings."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np

from lorattt.calibration import calibration_error
from lorattt.report.build import Report
from lorattt.report.compare import BEFORE
from lorattt.report.curves import Change, SweepCurve, changes, coverage, pooled, reliability, sweep_curves
from lorattt.report.layout import Layout, layouts, mean_over
from lorattt.report.predictions import WHEN
from lorattt.report.rows import Row, numbered_apart
from lorattt.report.style import BEFORE_COLOUR, LOST, WON, Picture, finish, look, new_figure, plot_settings, plot_text

_TALLEST: Final = 9.5  # inches, of a page
_CHANGES: Final = 12  # how many of each are shown
_PANELS: Final = 12
_LINES: Final = 10
_OF_CLASSES: Final = 8
Looks = Mapping[int, Mapping[str, Any]]  # how methods look, by the identity of their rows


def draw_plots(report: Report) -> list[Picture]:
    """Draw all plots that the runs have numbers for; ``matplotlib`` must be installed."""
    looks = {id(row): look(place) for place, row in enumerate(report.rows)}
    found: list[Picture] = []
    with plot_settings():
        for backbone in dict.fromkeys(row.backbone for row in report.rows):
            rows = [row for row in report.rows if row.backbone == backbone]
            corrupted = {run.dataset: run.corruption for row in rows for run in row.all_runs()}
            for layout in layouts(corrupted):
                mine = [row for row in rows if any(name in row.runs for name in layout.datasets)]
                found += [_accuracy(layout, mine, looks), *_coverage(layout, mine, looks)]
            found += [*_speed(rows, looks), *_reliability(rows, report.bins)]
            found += islice((picture for row in rows for picture in _classes(row)), _OF_CLASSES)
        curves = sweep_curves(report.rows)
        for key in dict.fromkeys(curve.key for curve in curves):
            found.append(_sweep(key, [curve for curve in curves if curve.key == key]))
    names = numbered_apart([_file_name(picture) for picture in found], "-")
    return [picture._replace(name=name) for picture, name in zip(found, names, strict=True)]


def _file_name(picture: Picture) -> str:
    return re.sub(r"[^a-z0-9]+", "-", picture.name.lower()).strip("-")[:60].strip("-")


def _legend_height(entries: int) -> float:
    """Inches of a legend of three columns."""
    return 0.18 * math.ceil(entries / 3)


def _accuracy(layout: Layout, rows: Sequence[Row], looks: Looks) -> Picture:
    columns = layout.columns
    step = min(0.15, _TALLEST / ((len(rows) + 1) * len(columns)))  # inches, from one method to the next
    figure, (axes,) = new_figure(step * (len(rows) + 1) * len(columns) + 0.9 + _legend_height(len(rows)))
    size = min(5.0, 60 * step)
    legend = []
    for place, row in enumerate(rows):
        # From top to bottom as in the legend.
        offset = (place - (len(rows) - 1) / 2) / (len(rows) + 1)
        style = {**looks[id(row)], "linestyle": "none"}
        bar = {"markersize": size, "elinewidth": 0.8, "capsize": 1.5, **style}
        top1 = [row.top1(when) for when in WHEN]
        for number, (_, column) in enumerate(columns):
            before, after = (column.value(each) for each in top1)
            if before is None or after is None:
                continue
            y = number + offset
            axes.plot([before.mean, after.mean], [y, y], color="#999999", linewidth=0.8, zorder=1)
            axes.plot([before.mean], [y], marker="|", color=BEFORE_COLOUR, markersize=1.6 * size, linestyle="none")
            axes.errorbar([after.mean], [y], xerr=after.deviation, **bar)
        legend.append((plot_text(row.label), *axes.plot([], [], **style)))
    axes.set_yticks(range(len(columns)), [plot_text(title, 30) for title, _ in columns])
    axes.grid(visible=False, axis="y")
    for edge in range(1, len(columns)):
        axes.axhline(edge - 0.5, color="#bbbbbb", linewidth=0.6)
    axes.set(xlabel="top-1 %", ylim=(len(columns) - 0.5, -0.5))
    legend.insert(0, (BEFORE, *axes.plot([], [], marker="|", color=BEFORE_COLOUR, linestyle="none", markersize=8)))
    heading, title = (
        f"{layout.title}: before and after, {rows[0].backbone}",
        f"Accuracy before and after: {layout.title}",
    )
    about = "A vertical stroke is top-1 before adaptation, a marker after it; "
    about += "whiskers are the standard deviation over seeds."
    return finish(figure, legend, heading, f"accuracy-{layout.title}", title, about)


def _coverage(layout: Layout, rows: Sequence[Row], looks: Looks) -> list[Picture]:
    common = [name for name in layout.datasets if all(name in row.runs for row in rows)]
    if not common:
        return []
    shown = rows[:_LINES]
    figure, (axes,) = new_figure(3.6 + _legend_height(len(shown)))
    legend: list[tuple[str, Any]] = []
    drawn: set[tuple[int, bytes]] = set()
    for when in WHEN:
        for row in shown:
            right, sure = pooled(row, common, when)
            if not len(right):
                continue
            xs, ys = coverage(right, sure)
            label, style = row.label, {**looks[id(row)], "markevery": max(1, len(xs) // 6), "markersize": 4}
            if when == "before":
                shape = (len(ys), np.round(ys, 4).tobytes())
                if shape in drawn:
                    continue
                label = f"{BEFORE}, {row.label}" if drawn else BEFORE
                style = {"color": BEFORE_COLOUR, "linestyle": (0, (1, 3)) if drawn else ":", "linewidth": 1.6}
                drawn.add(shape)
            legend.append((plot_text(label), *axes.plot(100 * xs, 100 * ys, **style)))
    axes.set(xlabel="coverage %: the most confident images that are answered", ylabel="top-1 % of these", xlim=(0, 100))
    about = "Only the most confident images are answered. All images of all seeds are pooled"
    about += f", of the {len(common)} datasets that all methods have." if len(common) > 1 else "."
    about += f" The first {_LINES} of {len(rows)} methods." if len(rows) > _LINES else ""
    heading = f"{layout.title}: accuracy against coverage, {rows[0].backbone}"
    title = f"Accuracy against coverage: {layout.title}"
    return [finish(figure, legend, heading, f"coverage-{layout.title}", title, about)]


def _speed(rows: Sequence[Row], looks: Looks) -> list[Picture]:
    datasets = list(dict.fromkeys(name for row in rows for name in row.runs))
    common = [name for name in datasets if all(name in row.runs for row in rows)]
    timed = [(row, speed) for row in rows if (speed := row.speed)]
    if not timed:
        return []
    figure, (axes,) = new_figure(3.2 + _legend_height(len(timed)))
    axes.axhline(0, color=BEFORE_COLOUR, linewidth=0.8)
    legend, shared = [], False
    for row, speed in timed:
        before, after = (mean_over(common or row.runs, row.top1(when)).mean for when in WHEN)
        style = {**looks[id(row)], "linestyle": "none", "markersize": 7}
        if any(run.shared_with for run in row.all_runs() if run.images_per_second > 0):
            shared = True
            style |= {"markerfacecolor": "none", "markeredgewidth": 1.4}
        legend.append((plot_text(row.label), *axes.plot([speed], [after - before], **style)))
    if max(speed for _, speed in timed) > 5 * min(speed for _, speed in timed):
        _powers_of_ten(axes)
    axes.set(xlabel="images a second", ylabel="gain of top-1, points")
    axes.margins(0.08, 0.15)
    about = f"Mean gain over {len(common)} dataset(s) that all methods have."
    if not common:
        about = "Mean gain over each method's own datasets, for they have none in common."
    if shared:
        about += " Hollow markers ran together with other methods: their speed is that of all of them together."
    heading = f"Gain against speed, {rows[0].backbone}"
    return [finish(figure, legend, heading, "speed", "Gain against images a second", about)]


def _reliability(rows: Sequence[Row], bins: int) -> list[Picture]:
    found = [(row, {when: pooled(row, row.runs, when) for when in WHEN}) for row in rows]
    shown = [(row, values) for row, values in found if all(len(right) for right, _ in values.values())][:_PANELS]
    if not shown:
        return []
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    height = 2.3 * lines + 0.6 if columns == 3 else 3.0 * lines + 0.6
    figure, panels = new_figure(height, lines, columns, sharex=True, sharey=True)
    for spare in panels[len(shown) :]:
        spare.set_visible(False)
    legend: list[tuple[str, Any]] = []
    for place, ((row, values), axes) in enumerate(zip(shown, panels, strict=False)):
        axes.plot([0, 100], [0, 100], color="#777777", linewidth=0.8)
        legend = []
        for when, colour, line, marker in (("before", BEFORE_COLOUR, ":", "s"), ("after", WON, "-", "o")):
            xs, ys, share = reliability(*values[when], bins)
            filled = "none" if when == "before" else colour
            style = {"color": colour, "linestyle": line, "linewidth": 1.2}
            axes.plot(100 * xs, 100 * ys, **style)
            dot = {"marker": marker, "facecolor": filled, "edgecolor": colour, "clip_on": False}
            axes.scatter(100 * xs, 100 * ys, s=4 + 260 * share, **dot)
            legend.append((when, *axes.plot([], [], marker=marker, markerfacecolor=filled, **style)))
        before, after = (100 * calibration_error(*values[when], bins) for when in WHEN)
        title = plot_text(row.label, 60 // columns)
        axes.set_title(f"{title}\nECE {before:.1f} \u2192 {after:.1f} %", fontsize=8)
        axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
        if place >= len(shown) - columns:
            axes.set_xlabel("confidence %")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("top-1 %")
    about = f"{bins} bins; a marker's area is its share of the images. All images of all runs of a method are "
    about += "pooled. Below the diagonal a model is too sure."
    about += f" The first {_PANELS} of {len(found)} methods." if len(found) > _PANELS else ""
    return [finish(figure, legend, "", "reliability", "Reliability before and after", about)]


def _classes(row: Row) -> list[Picture]:
    classes, pairs = (found[:_CHANGES] for found in changes(row))
    if not classes:
        return []
    heights = [len(classes) + 0.5, len(pairs) + 0.5]
    figure, panels = new_figure(0.2 * (len(classes) + len(pairs)) + 1.7, 2, 1, height_ratios=heights)
    _diverging(panels[0], classes, "Classes won and lost")
    won, lost = _diverging(panels[1], pairs, "Confusions fixed (won) and made (lost): class \u2192 taken for")
    panels[1].set_xlabel("images lost | won")
    legend = [("won: wrong before, right after", won), ("lost: right before, wrong after", lost)]
    heading, title = f"{row.label}, {row.backbone}", f"Classes won and lost: {row.label}"
    about = f"The {_CHANGES} classes and confusions with most changes, over {len(row.all_runs())} run(s)."
    return [finish(figure, legend, heading, f"classes-{row.label}", title, about)]


def _diverging(axes: Any, found: Sequence[Change], title: str) -> tuple[Any, Any]:
    from matplotlib.ticker import MaxNLocator

    places = range(len(found))
    won = axes.barh(places, [each.won for each in found], color=WON)
    lost = axes.barh(places, [-each.lost for each in found], color=LOST, hatch="////", edgecolor="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [plot_text(each.name, 52) for each in found])
    axes.grid(visible=False, axis="y")
    far = 1.05 * max(max(each.won, each.lost) for each in found)
    axes.set(xlim=(-far, far), ylim=(len(found) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.set_title(title, loc="left")
    return won, lost


def _powers_of_ten(axes: Any) -> None:
    """A logarithmic axis whose numbers are plain: Matplotlib's own are formulas, which our style does not set."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _sweep(key: str, curves: Sequence[SweepCurve]) -> Picture:
    figure, (axes,) = new_figure(3.3 + 0.18 * len(curves))
    legend = []
    for place, curve in enumerate(curves):
        style = look(place)
        spread = [each.deviation or 0.0 for each in curve.after]
        means = [each.mean for each in curve.after]
        axes.errorbar(curve.values, means, yerr=spread if any(spread) else None, capsize=2, elinewidth=0.8, **style)
        legend.append((plot_text(curve.label, 60), *axes.plot([], [], **style)))
    for curve in {tuple(round(each, 4) for each in curve.before): curve for curve in curves}.values():
        line = axes.plot(curve.values, curve.before, color=BEFORE_COLOUR, linestyle=":", linewidth=1.2)
    legend.append((BEFORE, *line))
    values = sorted({value for curve in curves for value in curve.values})
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values if len(values) <= 12 else values[:: math.ceil(len(values) / 12)])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel=plot_text(key, 60), ylabel="top-1 %")
    about = "All other settings are equal along a line. Mean over datasets and seeds; "
    about += "whiskers are the standard deviation over seeds."
    return finish(figure, legend, f"Accuracy against {key}", f"sweep-{key}", f"Accuracy against {key}", about)
