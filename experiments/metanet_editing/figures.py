"""Figures of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL_NAMES = {
    "identity": "no edit",
    "gmn": "GMN",
    "gmn_responses": "GMN, responses",
    "nfn": "NFN-NP",
    "neural_graph": "neural graph",
    "neural_graph_responses": "neural graph, responses",
    "pointwise": "pointwise",
    "deep_sets": "DeepSets",
    "statistics": "StatNN",
    "probing": "probing",
}
_NUM_IMAGES = 8


def model_and_heads(name: str) -> tuple[str, str]:
    """The model and the number of heads, "" if none, of `gmn_4` or `gmn_4_of_300`."""
    model, *rest = re.split(r"_(?=\d)", name)
    return MODEL_NAMES[model], rest[0].partition("_")[0] if rest else ""


def title(name: str, share: float | None) -> str:
    """What a column of pictures is called, in short lines."""
    model, num_heads = model_and_heads(name)
    lines = model.split(", ")
    if num_heads and num_heads != "1":
        lines.append(f"{num_heads} heads")
    if share is not None:
        lines.append(f"{100 * share:.0f} %")
    return "\n".join(lines)


def plot_images(
    columns: Mapping[str, np.ndarray], shape: tuple[int, int, int]
) -> Figure:
    """Draws the first test images, one row each, as every column has them.

    Args:
      columns: `[n, Q, C]` by title.
      shape: Height, width and channels.
    """
    num_images = min(_NUM_IMAGES, len(next(iter(columns.values()))))
    figure = figure_style.new_figure(0.95 * len(columns), 0.95 * num_images + 0.5)
    panels = figure.subplots(num_images, len(columns), squeeze=False)
    for place, (name, values) in enumerate(columns.items()):
        panels[0, place].set_title(name, fontsize=7)
        for row in range(num_images):
            axes = panels[row, place]
            image = np.clip(values[row].reshape(shape), 0.0, 1.0)
            if shape[-1] != 3:
                image = image[..., 0]
            axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_axis_off()
    return figure


def plot_accuracies(curves: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draws test accuracy against the number of training networks.

    Args:
      curves: By reader, accuracy by number of networks.
    """
    figure = figure_style.new_figure(4.8, 3.6)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(
            [int(count) for count in curve],
            list(curve.values()),
            label=MODEL_NAMES[name],
            **figure_style.line_style(index, len(curve)),
        )
    axes.set_xlabel("training networks")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0.0, 1.0)
    axes.grid(**figure_style.GRID)
    axes.legend()
    return figure
