"""Figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = ("amplitude a", "frequency b")


def plot_learning_curves(
    records: Sequence[Mapping[str, Any]], constant_mse: float
) -> Figure:
    """Draws the contrastive loss and the error of the probe against the step.

    Args:
      records: Records of the training log.
      constant_mse: Error of a constant prediction, drawn as a line.
    """
    figure = figure_style.new_figure(6.4, 4.8)
    above, below = figure.subplots(2, sharex=True)
    steps = [record["step"] for record in records]
    for axes, curves in (
        (above, (("loss", "training"), ("valid_loss", "validation"))),
        (below, (("train_mse", "training"), ("valid_mse", "validation"))),
    ):
        for index, (key, name) in enumerate(curves):
            values = [record[key] for record in records]
            axes.plot(
                steps, values, label=name, **figure_style.line_style(index, len(steps))
            )
        axes.grid(**figure_style.GRID)
    below.axhline(constant_mse, color="0.5", linewidth=1.0, label="constant")
    figure_style.log_if_positive(below)
    above.set_ylabel("contrastive loss (nats)")
    below.set_ylabel("MSE of the linear probe")
    below.set_xlabel("training step")
    above.legend()
    below.legend()
    figure.align_ylabels([above, below])
    return figure


def plot_predictions(predictions: np.ndarray, targets: np.ndarray) -> Figure:
    """Draws what the probe predicts against the truth.

    Args:
      predictions: `[n, 2]`.
      targets: `[n, 2]`.
    """
    figure = figure_style.new_figure(7.2, 3.6)
    for column, axes in enumerate(figure.subplots(1, 2)):
        truth, predicted = targets[:, column], predictions[:, column]
        ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
        axes.plot(ends, ends, color="0.5", linewidth=1.0)
        axes.plot(
            truth,
            predicted,
            linestyle="none",
            marker="o",
            markersize=3,
            alpha=0.5,
            color=figure_style.COLORS[column],
        )
        error = np.mean((predicted - truth) ** 2)
        axes.set_title(f"{_NAMES[column]}, MSE {error:.3g}")
        axes.set_xlabel("truth")
        axes.set_ylabel("linear probe")
        axes.grid(**figure_style.GRID)
    return figure


def plot_embedding(embeddings: np.ndarray, targets: np.ndarray) -> Figure:
    """Draws the first two principal components of embeddings, coloured by a and b.

    Args:
      embeddings: `[n, D]`, D at least 2.
      targets: `[n, 2]`.
    """
    centred = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ directions[:2].T
    shares = lengths**2 / max(np.sum(lengths**2), np.finfo(float).tiny)
    figure = figure_style.new_figure(7.8, 3.6)
    for column, axes in enumerate(figure.subplots(1, 2, sharex=True, sharey=True)):
        points = axes.scatter(
            plane[:, 0], plane[:, 1], c=targets[:, column], s=8, cmap="viridis"
        )
        figure.colorbar(points, ax=axes, label=_NAMES[column])
        axes.set_xlabel(f"first component ({shares[0]:.0%} of the variance)")
    figure.axes[0].set_ylabel(f"second component ({shares[1]:.0%})")
    return figure
