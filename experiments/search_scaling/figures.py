"""Figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.search_scaling.measure import LEARNED, OWN, UNIFORM
from experiments.search_scaling.scores import AT_LEAST, AT_MOST, Scores
from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = (LEARNED, UNIFORM, OWN)
_X_LABELS = {
    "proposals": "proposals per chain and receiver",
    "seconds": "seconds, all problems and chains",
}
_Y_LABELS = {
    "probability": "share of trials at the best-known energy",
    "edge_accuracy": "edge accuracy of the best structure so far",
}
# Bounds are drawn as arrows away from the value that is known.
_ARROWS = {AT_LEAST: "^", AT_MOST: "v"}
_MARKERS = ("o", "s", "p", "D", "h", "P", "X", "*")


def plot_curves(
    scores: Mapping[int, Mapping[tuple[str, str], Scores]],
    *,
    against: str = "proposals",
    quantity: str = "probability",
) -> Figure:
    """Draws searches as rows and sizes as columns, uniform and learned in each.

    Args:
      scores: By number of entities, then by name and kind of a search.
      against: "proposals" or "seconds".
      quantity: "probability" or "edge_accuracy".
    """
    names = list(dict.fromkeys(n for found in scores.values() for n, _ in found))
    figure = figure_style.new_figure(1.0 + 1.75 * len(scores), 1.1 + 1.15 * len(names))
    panels = figure.subplots(
        len(names), len(scores), sharex="col", sharey=True, squeeze=False
    )
    handles: dict[str, Any] = {}
    for column, (size, found) in enumerate(scores.items()):
        panels[0, column].set_title(f"{size} entities", fontsize=9)
        for row, name in enumerate(names):
            axes = panels[row, column]
            for index, kind in enumerate(_KINDS):
                if (name, kind) not in found:
                    continue
                one = found[name, kind]
                (handles[kind],) = axes.plot(
                    getattr(one, against),
                    getattr(one, quantity),
                    label=kind,
                    **figure_style.line_style(index),
                )
            if not any(name == other for other, _ in found):
                axes.text(
                    0.5,
                    0.5,
                    "too many\nstructures",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="0.4",
                    transform=axes.transAxes,
                )
            axes.set_xscale("log")
            axes.set_ylim(-0.04, 1.04)
            axes.grid(**figure_style.GRID)
            axes.tick_params(labelsize=8)
            if not column:
                axes.set_ylabel(name.replace("_", "\n"), fontsize=8)
    figure.supxlabel(_X_LABELS[against], fontsize=9)
    figure.supylabel(_Y_LABELS[quantity], fontsize=9)
    ordered = [handles[kind] for kind in _KINDS if kind in handles]
    figure_style.legend_outside(figure, ordered, "upper", "proposals of the search")
    return figure


def _plot_one(
    axes: Axes, index: int, name: str, by_size: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Draws the speed-ups of one search; returns what the legend shows."""
    points = [
        (int(size), one["factor"], one["kind"])
        for size, one in by_size.items()
        if one["factor"] is not None
    ]
    look = figure_style.line_style(index)
    # More searches than colours: the second round is thin.
    look["linewidth"] = 1.6 if index < len(figure_style.COLORS) else 0.8
    marker = _MARKERS[index % len(_MARKERS)]
    axes.plot([x for x, *_ in points], [y for _, y, _ in points], **look)
    for x, y, kind in points:
        axes.plot(
            x,
            y,
            color=look["color"],
            marker=_ARROWS.get(kind, marker),
            markersize=8 if kind in _ARROWS else 5,
            markerfacecolor="white" if kind in _ARROWS else look["color"],
        )
    label = name.replace("_", " ")
    return axes.plot([], [], marker=marker, label=label, **look)[0]


def plot_speedups(speedups: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws uniform per learned proposals against the number of entities.

    Filled markers are ratios; open arrows are bounds, where one of the two did not get
    there. One panel per share of the trials.

    Args:
      speedups: As in `summary.json`: by search, then by share of the trials.
    """
    shares = list(dict.fromkeys(s for found in speedups.values() for s in found))
    figure = figure_style.new_figure(1.2 + 3.2 * max(len(shares), 1), 3.6)
    panels = figure.subplots(1, max(len(shares), 1), sharey=True, squeeze=False)[0]
    handles = []
    for axes, share in zip(panels, shares, strict=False):
        handles = [
            _plot_one(axes, index, name, found[share]["sizes"])
            for index, (name, found) in enumerate(speedups.items())
        ]
        axes.axhline(1.0, color="0.3", linewidth=1.0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        sizes = sorted({int(s) for f in speedups.values() for s in f[share]["sizes"]})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlim(0.8 * sizes[0], 1.25 * sizes[-1])
        axes.set_title(f"to reach {share} of the trials", fontsize=9)
        axes.set_xlabel("entities")
        axes.grid(**figure_style.GRID)
    # Shared by the panels; plain numbers at powers of two.
    factors = [
        one["factor"]
        for found in speedups.values()
        for by_share in found.values()
        for one in by_share["sizes"].values()
        if one["factor"] is not None
    ]
    lowest = np.floor(np.log2(min([*factors, 1.0])))
    highest = np.ceil(np.log2(max([*factors, 2.0])))
    ticks = 2.0 ** np.arange(lowest, highest + 1)
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_ylim(0.85 * ticks[0], 1.15 * ticks[-1])
    panels[0].set_ylabel("uniform / learned proposals")
    if handles:
        title = "filled: ratio; open arrow: at least (up), at most (down)"
        figure_style.legend_outside(figure, handles, "upper", title)
    return figure
