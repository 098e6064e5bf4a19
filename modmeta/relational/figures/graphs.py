"""Figures of inferred relations and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modmeta.relational.evaluation.calibration import (
    expected_calibration_error,
    reliability_bins,
)
from modmeta.relational.evaluation.checks import check_probabilities, check_relations
from modmeta.relational.evaluation.export import real_nodes
from modmeta.relational.evaluation.matching import relabel, relabel_probabilities
from modmeta.runtime import figure_style
from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_MAXIMUM_LABELLED_NODES = 10
_POINTS_PER_INCH = 72


def plot_adjacency(
    edges: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
    num_systems: int = 4,
    *,
    matching: npt.ArrayLike | None = None,
    relation_names: Sequence[str] | None = None,
    system_names: Sequence[Any] | None = None,
    node_names: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Draws inferred and true adjacency matrices of the first systems.

    Rows are receivers, columns are senders; entries without an edge are hatched, and
    padded nodes are cut off. Inferred entries that differ from the truth carry a
    cross. With probabilities and two relations the colour is the probability of
    relation 1; otherwise it is the relation.

    Args:
      edges: `[systems, nodes, nodes]`, integers.
      labels: `[systems, nodes, nodes]`, integers, or None for data without labels;
        there is no second row then.
      probabilities: `[systems, nodes, nodes, relations]`, or None.
      num_systems: how many systems to draw at most.
      matching: `[relations]`, the result of `match_relations`, applied to edges and
        probabilities. None takes the names as they are.
      relation_names: one name per (true) relation. None means 0, 1, ....
      system_names: one name or number per system. None means 0, 1, ....
      node_names: one name per node of every system, written where nodes are few. None
        means 0, 1, ....

    Raises:
      ImportError: if matplotlib is not installed.
      TypeError: if an array has a wrong dtype.
      ValueError: if shapes disagree, a relation is out of range, relation names are
        missing, or there is nothing to draw.
    """
    edges = check_relations("edges", edges)
    if probabilities is not None:
        probabilities = check_probabilities(probabilities, edges.shape)
    if matching is not None:
        edges = relabel(edges, matching)
        if probabilities is not None:
            probabilities = relabel_probabilities(probabilities, matching)
    if labels is not None:
        labels = check_relations("labels", labels)
        if labels.shape != edges.shape:
            raise ValueError(
                f"labels: found shape {list(labels.shape)}, expected "
                f"{list(edges.shape)}, as edges has"
            )
    names = _relation_names(relation_names, edges, labels, probabilities)
    shown = min(num_systems, len(edges))
    if shown < 1:
        raise ValueError("systems: found none to draw, expected at least one")

    graded = probabilities is not None and len(names) == 2
    colors, limits = figure_style.relation_colors(len(names)), (-0.5, len(names) - 0.5)
    if graded:
        matplotlib = import_optional("matplotlib", "plots")
        colors, limits = matplotlib.colormaps["cividis"], (0.0, 1.0)
    num_rows = 1 if labels is None else 2
    num_nodes = real_nodes(edges if labels is None else np.maximum(edges, labels)).sum(
        axis=1
    )
    side = float(np.clip(0.14 * num_nodes[:shown].max(), 1.7, 4.0))
    width, height = 1.4 + (side + 0.2) * shown, 0.5 + (side + 0.4) * num_rows
    figure = figure_style.new_figure(width, height, layout="compressed")
    grid = figure.subplots(num_rows, shown, squeeze=False)
    for system in range(shown):
        size = int(num_nodes[system])
        window = (system, slice(size), slice(size))
        inferred = edges[window]
        values = probabilities[window][..., 1] if graded else inferred
        title = f"system {system if system_names is None else system_names[system]}"
        if labels is not None:
            truth = labels[window]
            _draw_matrix(grid[1, system], truth, truth >= 0, colors, limits)
            compared = (truth >= 0) & (inferred >= 0)
            is_wrong = compared & (truth != inferred)
            title += f"\n{is_wrong.sum()} of {compared.sum()} wrong"
            _cross_out(grid[0, system], is_wrong, side)
        image = _draw_matrix(grid[0, system], values, inferred >= 0, colors, limits)
        grid[0, system].set_title(title)
        grid[-1, system].set_xlabel("sender (column)")
        if node_names is not None and size <= _MAXIMUM_LABELLED_NODES:
            shortened = [figure_style.shortened(n) for n in node_names[system][:size]]
            for axes in grid[:, system]:
                axes.set_xticks(range(size), shortened, rotation=90)
                axes.set_yticks(range(size), shortened)
    for axes, row in zip(grid[:, 0], ("inferred", "true"), strict=False):
        axes.set_ylabel(f"{row}\nreceiver (row)")
    bar = figure.colorbar(image, ax=grid, shrink=0.9 if num_rows == 1 else 0.6)
    if graded:
        # Names such as "relation 1" say themselves what they are.
        name = f"relation {names[1]}" if names[1] == "1" else names[1]
        bar.set_label(f"probability of {name}")
    else:
        bar.set_label("relation")
        bar.set_ticks(range(len(names)), labels=names)
        bar.ax.minorticks_off()
    return figure


def _relation_names(
    given: Sequence[str] | None,
    edges: np.ndarray,
    labels: np.ndarray | None,
    probabilities: np.ndarray | None,
) -> list[str]:
    """A name for every relation that occurs, of two at least."""
    count = max(2, int(edges.max(initial=-1)) + 1)
    if probabilities is not None:
        count = max(count, probabilities.shape[-1])
    if labels is not None:
        count = max(count, int(labels.max(initial=-1)) + 1)
    if given is None:
        return [str(relation) for relation in range(count)]
    if len(given) < count:
        raise ValueError(f"relation_names: found {len(given)}, expected {count} names")
    return [str(name) for name in given[:count]]


def plot_edge_probability_calibration(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    matching: npt.ArrayLike | None = None,
    num_bins: int = 10,
) -> Figure:
    """Draws a reliability diagram: how often edges of a given confidence are right.

    Args:
      probabilities: `[systems, nodes, nodes, relations]`, NaN or all zero where there
        is no edge.
      labels: `[systems, nodes, nodes]`, integers, -1 where there is no edge.
      matching: `[relations]`, the result of `match_relations`. None takes the names
        as they are.
      num_bins: number of bins between 0 and 1.

    Raises:
      ImportError: if matplotlib is not installed.
      TypeError: if an array has a wrong dtype.
      ValueError: if shapes disagree, probabilities do not sum to 1, no edge has both
        a probability and a label, or `num_bins` is not positive.
    """
    bins = reliability_bins(probabilities, labels, matching, num_bins)
    error = expected_calibration_error(probabilities, labels, matching, num_bins)
    filled = bins.count > 0
    width = 1.0 / num_bins
    # The most probable of F relations has a probability of at least 1/F.
    start = float(bins.boundaries[:-1][filled].min())

    figure = figure_style.new_figure(4.8, 5.4)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot(
        [0, 1], [0, 1], color="0.5", linestyle="--", label="perfectly calibrated"
    )
    upper.plot(
        bins.confidence[filled],
        bins.accuracy[filled],
        label=f"edges (calibration error {error:.3f})",
        **figure_style.line_style(0, int(filled.sum())),
    )
    margin = 0.03
    bottom = min(start, float(bins.accuracy[filled].min())) - margin
    upper.set(ylabel="fraction of right relations", ylim=(bottom, 1.0 + margin))
    upper.legend(loc="best")
    lower.bar(
        bins.boundaries[:-1],
        bins.count,
        width,
        align="edge",
        color=figure_style.COLORS[2],
        edgecolor="white",
    )
    lower.set(
        xlabel="probability of the inferred relation",
        ylabel="edges",
        xlim=(start - margin, 1.0 + margin),
    )
    # The margin is for markers: no probability is above 1.
    for axis in (upper.yaxis, lower.xaxis):
        low, _ = axis.get_view_interval()
        axis.set_ticks([t for t in axis.get_ticklocs() if low <= t < 1.0 + 1e-6])
    for axes in (upper, lower):
        axes.set_axisbelow(True)
        axes.grid(**figure_style.GRID)
    figure.align_ylabels()
    return figure


def _draw_matrix(
    axes: Axes,
    values: np.ndarray,
    present: np.ndarray,
    colors: Colormap,
    limits: tuple[float, float],
) -> AxesImage:
    axes.patch.set(hatch="////", edgecolor=figure_style.HATCH_GREY)
    image = axes.imshow(
        np.ma.masked_where(~present, values),
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    size = len(present)
    if size <= _MAXIMUM_LABELLED_NODES:
        axes.set_xticks(range(size))
        axes.set_yticks(range(size))
    else:
        ticker = import_optional("matplotlib.ticker", "plots")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    return image


def _cross_out(axes: Axes, is_wrong: np.ndarray, side: float) -> None:
    """Puts a cross on the marked entries of a matrix, `side` inches wide."""
    receivers, senders = np.nonzero(is_wrong)
    axes.scatter(
        senders,
        receivers,
        marker="X",
        s=(0.8 * _POINTS_PER_INCH * side / max(len(is_wrong), 8)) ** 2,
        color="white",
        edgecolor="black",
        linewidth=0.6,
    )
