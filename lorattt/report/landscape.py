"""The picture of a landscape: one panel for each quantity, over two directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorattt.errors import UserError


@dataclass(frozen=True)
class Panel:
    """A quantity over a square of places."""

    title: str
    unit: str  # for the colour bar
    values: Sequence[Sequence[float]]  # (P, P); [i][j] is at coordinates[i] along direction 1, [j] along direction 2


def check_plots() -> None:
    """Raise a ``UserError`` if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("matplotlib is not installed, and pictures need it: pip install matplotlib") from None


def draw_landscape(
    panels: Sequence[Panel], coordinates: Sequence[float], path: Path, *, title: str, rho: float
) -> None:
    """Draw the panels side by side as PNG, with the origin marked and a circle of radius ``rho``, if any, around it.

    The P coordinates along either direction rise; they are L2 distances from the origin.
    """
    check_plots()
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    # Without pyplot: no window system is asked for, and no state is left behind.
    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    places = np.asarray(coordinates, dtype=float)
    legible = {"color": "white", "path_effects": [withStroke(linewidth=2, foreground="black")]}  # on any colour
    for number, (panel, axes) in enumerate(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True)):
        values = np.asarray(panel.values, dtype=float).T  # rows are the vertical axis, the second direction
        colours = axes.pcolormesh(places, places, values, shading="gouraud", cmap="viridis")
        if values.min() < values.max():
            axes.contour(places, places, values, levels=8, colors="white", linewidths=0.6, alpha=0.7)
        axes.plot([0], [0], marker="X", markersize=10, color="red", markeredgecolor="white", linestyle="none")
        axes.annotate("prompt", (0, 0), (6, 6), textcoords="offset points", fontsize=9, **legible)
        if rho:
            axes.add_patch(Circle((0, 0), rho, fill=False, edgecolor="red", linestyle="--", linewidth=1.2))
        if rho and number == 0:
            place = {"xy": (0, -rho), "xytext": (0, -11), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"distance {rho:g}", **place, **legible)
        if number == 0:
            axes.set_ylabel("step along direction 2 (L2 distance)")
        axes.set_title(panel.title, fontsize=11)
        limits = (places[0], places[-1])
        axes.set(xlabel="step along direction 1 (L2 distance)", aspect="equal", xlim=limits, ylim=limits)
        figure.colorbar(colours, ax=axes, label=panel.unit, fraction=0.046)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=150, format="png")
