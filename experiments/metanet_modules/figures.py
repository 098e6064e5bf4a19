"""Figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.metanet_modules import laws
from experiments.metanet_modules.scores import Readings
from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL_NAMES = {
    "gmn": "GMN",
    "gmn_responses": "GMN, responses",
    "deep_sets": "DeepSets",
    "statistics": "StatNN",
    "probing": "probing",
}
_PANEL = 2.9


def _style(index: int) -> dict:
    """Colour and marker of a law; ten of them, no two alike."""
    colors, markers = figure_style.COLORS, figure_style.MARKERS
    return {
        "color": colors[index % len(colors)],
        "marker": markers[(index + index // len(colors)) % len(markers)],
        "linestyle": "none",
        "markersize": 4,
        "alpha": 0.7,
    }


def _legend_below(figure: Figure, handles: list) -> None:
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )


def plot_embeddings(embeddings: Mapping[str, np.ndarray], law: np.ndarray) -> Figure:
    """Draws two discriminant directions of embeddings, one panel per reader.

    The directions in which the means of the laws differ most, against the spread
    within laws.

    Args:
      embeddings: `[n, D]` by reader.
      law: `[n]` index of the law.
    """
    figure = figure_style.new_figure(0.6 + _PANEL * len(embeddings), _PANEL + 1.0)
    panels = figure.subplots(1, len(embeddings), squeeze=False)[0]
    handles = []
    for axes, (name, values) in zip(panels, embeddings.items(), strict=True):
        plane = _discriminants(values, law)
        handles = [
            axes.plot(
                *plane[law == index].T, label=laws.LAW_NAMES[index], **_style(index)
            )[0]
            for index in np.unique(law)
        ]
        axes.set_title(MODEL_NAMES[name], fontsize=9)
        axes.set_xlabel("first discriminant")
        axes.grid(**figure_style.GRID)
    panels[0].set_ylabel("second discriminant")
    _legend_below(figure, handles)
    return figure


def _discriminants(values: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Projections `[n, 2]` on the two leading linear discriminants."""
    values = np.asarray(values, np.float64) - values.mean(axis=0)
    _, group = np.unique(law, return_inverse=True)
    sums = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(sums, group, values)
    means = (sums / np.bincount(group)[:, None])[group]
    within = np.cov((values - means).T) + 1e-6 * np.eye(values.shape[1])
    lengths, directions = np.linalg.eigh(within)
    whiten = directions / np.sqrt(np.maximum(lengths, 1e-9))
    _, _, axes = np.linalg.svd(means @ whiten, full_matrices=False)
    return values @ whiten @ axes[:2].T


def plot_constants(
    found: Mapping[str, Readings], targets: Mapping[str, np.ndarray]
) -> Figure:
    """Draws strengths as they are read against the true ones, one panel per reader.

    Networks whose law is named wrong are grey crosses.

    Args:
      found: Readings by reader.
      targets: Truth about the same networks.
    """
    figure = figure_style.new_figure(0.6 + _PANEL * len(found), _PANEL + 1.0)
    panels = figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
    truth, law = np.exp(targets["constants"][:, 0]), targets["law"]
    ends = [truth.min(), truth.max()]
    handles = []
    for axes, (name, readings) in zip(panels, found.items(), strict=True):
        strength, is_named = readings.constants[:, 0], readings.laws == law
        axes.plot(ends, ends, color="0.5", linewidth=1.0)
        handles = [
            axes.plot(
                truth[is_named & (law == index)],
                strength[is_named & (law == index)],
                label=laws.LAW_NAMES[index],
                **_style(index),
            )[0]
            for index in np.flatnonzero(laws.HAS_STRENGTH)
        ]
        wrong = ~is_named & targets["exists"][:, 0]
        handles += axes.plot(
            truth[wrong],
            strength[wrong],
            color="0.5",
            marker="x",
            linestyle="none",
            markersize=4,
            label="named wrong",
        )
        axes.set_title(MODEL_NAMES[name], fontsize=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("strength")
        axes.grid(**figure_style.GRID)
    panels[0].set_ylabel("strength as read")
    _legend_below(figure, handles)
    return figure
