"""Figures of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL_NAMES = {
    "gmn": "GMN",
    "scale_gmn": "GMN, scales removed",
    "layer_sets": "layers, no messages",
    "published_gmn": "GMN, pooled at once",
    "neural_graph": "neural graph",
    "deep_sets": "DeepSets",
    "weight_convolution": "DMC",
    "statistics": "StatNN",
    "probing": "probing",
    "architecture": "architecture",
    "gmn_and_probing": "GMN and probing",
}
CELL_NAMES = {"all_widths": "all widths", "wider": "wider"}
FAMILY_NAMES = {
    "cnn_2d": "2-D CNN",
    "cnn_1d": "1-D CNN",
    "deep_sets": "DeepSets",
    "resnet": "ResNet",
    "vit": "ViT",
}
_PANELS_PER_ROW = 3


def plot_predictions(
    accuracies: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    families: np.ndarray,
    scores: Mapping[str, tuple[float, float]],
) -> Figure:
    """Draws predicted against true accuracy, one panel per model.

    Colour and marker tell the families.

    Args:
      accuracies: `[n]` true accuracies.
      predictions: `[n]` by model, keys of `MODEL_NAMES`.
      families: `[n]` family of a network, keys of `FAMILY_NAMES`.
      scores: R2 and Kendall's tau by model, for the titles.
    """
    num_columns = min(_PANELS_PER_ROW, len(predictions))
    num_rows = math.ceil(len(predictions) / num_columns)
    figure = figure_style.new_figure(0.6 + 2.6 * num_columns, 0.9 + 2.6 * num_rows)
    panels = figure.subplots(
        num_rows, num_columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    names = [name for name in FAMILY_NAMES if name in families]
    highest = max(np.max(values) for values in (accuracies, *predictions.values()))
    limit = min(1.05 * float(highest), 1.0)
    handles = []
    for axes, (model, predicted) in zip(panels, predictions.items(), strict=False):
        axes.axline((0, 0), slope=1, color="0.5", linewidth=1.0)
        handles = [
            axes.plot(
                accuracies[families == family],
                predicted[families == family],
                linestyle="none",
                marker=figure_style.MARKERS[index],
                color=figure_style.COLORS[index],
                markersize=4,
                alpha=0.7,
                label=FAMILY_NAMES[family],
            )[0]
            for index, family in enumerate(names)
        ]
        r_squared, tau = scores[model]
        axes.set_title(
            f"{MODEL_NAMES[model]}\n$R^2$ {r_squared:.3f}, $\\tau$ {tau:.3f}",
            fontsize=9,
        )
        axes.set_xlim(0, limit)
        axes.set_ylim(0, limit)
        axes.set_aspect("equal")
        axes.grid(**figure_style.GRID)
    for axes in panels[len(predictions) :]:
        axes.remove()
    # The panel above an empty place is the last one of its column.
    for axes in panels[: len(predictions)][-num_columns:]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("accuracy", fontsize=10)
    figure.supylabel("predicted accuracy", fontsize=10)
    _legend_above(figure, handles)
    return figure


def plot_learning_curves(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draws the loss on training and on validation networks as training goes on.

    Against the share of the steps, of which models do not take the same number.

    Args:
      records: Records of the training log, by model.
    """
    figure = figure_style.new_figure(7.8, 3.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    handles = []
    for axes, (key, title) in zip(
        panels, (("loss", "training"), ("valid_loss", "validation")), strict=True
    ):
        handles = [
            axes.plot(
                [record["step"] / rows[-1]["step"] for record in rows],
                [record[key] for record in rows],
                label=MODEL_NAMES[model],
                **figure_style.line_style(index, len(rows)),
            )[0]
            for index, (model, rows) in enumerate(records.items())
        ]
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("share of the training steps")
        axes.grid(**figure_style.GRID)
        figure_style.log_if_positive(axes)
    panels[0].set_ylabel("divergence from the accuracy (nats)")
    _legend_above(figure, handles)
    return figure


def plot_training_sizes(
    scores: Mapping[int, Mapping[str, Mapping[str, Any]]],
) -> Figure:
    """Draws R2 and Kendall's tau against the number of training networks.

    Args:
      scores: By number of training networks, then by model: `r_squared` and
        `kendall_tau` as intervals.
    """
    figure = figure_style.new_figure(7.8, 3.6)
    counts = sorted(scores)
    handles = []
    for axes, (key, title) in zip(
        figure.subplots(1, 2),
        (("r_squared", "$R^2$"), ("kendall_tau", "$\\tau$")),
        strict=True,
    ):
        handles = []
        for index, model in enumerate(scores[counts[0]]):
            found = [scores[count][model][key] for count in counts]
            low, values, high = (
                np.array([interval[end] for interval in found])
                for end in ("low", "value", "high")
            )
            lengths = np.maximum([values - low, high - values], 0.0)
            handles.append(
                axes.errorbar(
                    counts,
                    values,
                    lengths,
                    label=MODEL_NAMES[model],
                    capsize=2,
                    **figure_style.line_style(index, len(counts)),
                )
            )
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("training networks")
        axes.set_title(title, fontsize=9)
        axes.grid(**figure_style.GRID)
    # A model that is worse than a constant is far below.
    lowest, _ = figure.axes[0].get_ylim()
    figure.axes[0].set_ylim(bottom=max(lowest, -0.2))
    _legend_above(figure, handles)
    return figure


def plot_cells(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws R2 and Kendall's tau of every model, one panel per cell.

    Points are means over seeds, bars standard deviations. What is below the axis is
    left out and named at its edge.

    Args:
      rows: See `experiments.metanet_accuracy.cells.collect`.
    """
    cells = list(dict.fromkeys((row["cell"], row["num_train"]) for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = figure_style.new_figure(1.6 + 2.9 * len(cells), 1.3 + 0.36 * len(models))
    panels = figure.subplots(1, len(cells), sharex=True, sharey=True, squeeze=False)
    handles = []
    for axes, (cell, count) in zip(panels[0], cells, strict=True):
        own = [row for row in rows if (row["cell"], row["num_train"]) == (cell, count)]
        places = np.array([models.index(row["model"]) for row in own])
        handles = []
        for index, (key, label) in enumerate(
            (("r_squared", "$R^2$"), ("kendall_tau", "$\\tau$"))
        ):
            means, deviations = (
                np.array([row[key][part] for row in own], np.float64)
                for part in ("mean", "standard_deviation")
            )
            shift = 0.14 * (2 * index - 1)
            handles.append(
                axes.errorbar(
                    means,
                    places + shift,
                    xerr=np.nan_to_num(deviations),
                    linestyle="none",
                    marker=figure_style.MARKERS[index],
                    color=figure_style.COLORS[index],
                    markersize=4.5,
                    capsize=2,
                    label=label,
                )
            )
            ends = means + np.nan_to_num(deviations)
            for mean, end, place in zip(means, ends, places, strict=True):
                if end < 0:
                    axes.text(
                        0.02,
                        place + shift,
                        f"{mean:.2f}",
                        fontsize=7,
                        verticalalignment="center",
                        color=figure_style.COLORS[index],
                    )
        axes.set_title(f"{CELL_NAMES[cell]}, {count:,} networks", fontsize=9)
        axes.grid(**figure_style.GRID)
    axes = panels[0][0]
    axes.set_xlim(0, 1)
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_yticks(range(len(models)), [MODEL_NAMES[model] for model in models])
    figure.supxlabel("score on test networks, mean over seeds", fontsize=10)
    _legend_above(figure, handles)
    return figure


def _legend_above(figure: Figure, handles: list[Any]) -> None:
    """One row for all panels."""
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False
    )
