"""Figures of laws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modmeta.relational.laws.curves import LawCurve
from modmeta.runtime import figure_style
from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_laws(
    curves: Sequence[LawCurve],
    truths: Sequence[Callable[[np.ndarray], np.ndarray] | None] | None = None,
    *,
    names: Sequence[str] | None = None,
    rate_unit: str = "rate towards the sender",
) -> Figure:
    """Draws every law with its band, over the inputs that occur.

    Distances have a logarithmic axis; so have rates, on both sides of zero, where they
    span more than a factor of thirty.

    Args:
      curves: At least one curve.
      truths: True law of every curve, where it is known.
      names: Title of every curve; by default the number of the relation.
      rate_unit: What the rates are, for the axis.

    Raises:
      ImportError: If matplotlib is not installed.
      ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("curves: found none, expected at least one")
    ticker = import_optional("matplotlib.ticker", "plots")
    figure = figure_style.new_figure(3.6 * len(curves) + 0.4, 3.2)
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    sizes = np.concatenate([np.abs(curve.rates) for curve in curves])
    largest = sizes.max()
    typical = np.median(sizes[sizes > 1e-3 * largest]) if largest > 0 else 1.0
    for index, (curve, axes) in enumerate(zip(curves, panels, strict=True)):
        style = figure_style.line_style(0)
        axes.fill_between(
            curve.inputs,
            curve.lower,
            curve.upper,
            color=style["color"],
            alpha=0.25,
            linewidth=0,
            label="95 % band",
        )
        axes.plot(curve.inputs, curve.rates, **style, label="found")
        truth = truths[index] if truths is not None else None
        if truth is not None:
            axes.plot(
                curve.inputs,
                truth(curve.inputs),
                **figure_style.line_style(1),
                label="true",
            )
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        if curve.variable == "distance":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        if largest > 30.0 * typical:
            axes.set_yscale("symlog", linthresh=typical)
        title = names[index] if names is not None else f"relation {curve.relation}"
        axes.set_title(f"{title}, {curve.num_edges} edges", fontsize=9)
        axes.set_xlabel(curve.variable)
        axes.grid(**figure_style.GRID)
    panels[0].set_ylabel(rate_unit)
    panels[-1].legend(fontsize=8, frameon=False)
    return figure
