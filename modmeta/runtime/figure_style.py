"""Looks shared by the figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Neighbours differ in hue (also for colour-blind readers) and in luminance, so that
# they stay apart on grey paper; line style and marker repeat the distinction.
COLORS = ("#12284b", "#d1641c", "#6fb1de", "#7b2d5b", "#e3b62e", "#2f7d5b")
LINE_STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
MARKERS_PER_LINE = 10
GRID = {"color": "0.88", "linewidth": 0.6}
_LONGEST_NAME = 10
# The hatch of entries that hold no edge.
HATCH_GREY = "0.8"


def new_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """Returns an empty figure (inches) that arranges its own spacing."""
    module = import_optional("matplotlib.figure", "plots")
    return module.Figure(figsize=(width, height), layout=layout)


def line_style(index: int, num_points: int | None = None) -> dict[str, Any]:
    """Returns `Axes.plot` arguments for the line number `index` of an axes.

    Args:
      index: which line; styles repeat after six.
      num_points: number of points of the line, for markers at about ten of them. None
        means no markers.
    """
    index %= len(COLORS)
    style: dict[str, Any] = {"color": COLORS[index], "linestyle": LINE_STYLES[index]}
    style["linewidth"] = 1.6
    if num_points is not None:
        every = max(1, math.ceil(num_points / MARKERS_PER_LINE))
        # Lines start their markers at different points, where they may coincide.
        start = index % every if num_points > MARKERS_PER_LINE else 0
        style |= {
            "marker": MARKERS[index],
            "markersize": 4,
            "markevery": (start, every),
        }
    return style


def node_colors(num_nodes: int) -> list[Any]:
    """Returns one colour per node, from dark to light."""
    if num_nodes <= len(COLORS):
        return list(COLORS[:num_nodes])
    matplotlib = import_optional("matplotlib", "plots")
    # The lightest end is invisible on white.
    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, num_nodes)))


def relation_colors(num_relations: int) -> Colormap:
    """Returns a colour map with one colour per relation, from dark to light."""
    matplotlib = import_optional("matplotlib", "plots")
    colors = matplotlib.colormaps["cividis"](np.linspace(0.0, 1.0, num_relations))
    return import_optional("matplotlib.colors", "plots").ListedColormap(colors)


def shortened(name: str) -> str:
    """A name that must not be longer than what it stands beside."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def log_if_positive(axes: Axes) -> None:
    """Makes the y axis logarithmic unless a line has a value of zero or below."""
    values = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    if values and all((value > 0).all() for value in values):
        axes.set_yscale("log")


def legend_outside(
    figure: Figure, handles: list[Any], place: str, title: str | None = None
) -> None:
    """Adds one legend for all axes of a figure, "upper" or "lower" of them."""
    # Unknown to the type stubs of matplotlib.
    location: Any = f"outside {place} center"
    figure.legend(
        handles=handles,
        loc=location,
        ncols=min(len(handles), 4),
        frameon=False,
        title=title,
    )
