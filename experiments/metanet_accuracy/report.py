"""What a run leaves behind: predictions, figures, and a table on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.metanet_accuracy import figures
from experiments.metanet_accuracy.networks import Networks
from modmeta.runtime.artifact import save_artifact
from modmeta.runtime.files import atomic_write

MODEL_KIND = "modmeta.metanet.learning.prediction"


def write_outputs(
    workdir: Path,
    networks: Networks,
    params: Mapping[str, Any],
    predictions: Mapping[str, np.ndarray],
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    summary: Mapping[str, Any],
) -> None:
    """Writes `predictions.npz`, the chosen parameters of every model and the figures.

    Args:
      workdir: Where to write.
      networks: The networks.
      params: Chosen parameters, by model.
      predictions: Predicted accuracies of the test networks, by model.
      records: Records of the training log, by model.
      summary: Of the run.
    """
    for name, chosen in params.items():
        save_artifact(
            workdir / "models" / name / "model.npz",
            chosen,
            kind=MODEL_KIND,
            metadata={"model": name},
        )
    scores = summary["models"]
    rows = networks.splits["test"]
    with atomic_write(workdir / "predictions.npz") as file:
        np.savez(
            file,
            network=rows,
            family=networks.families[rows],
            accuracy=networks.accuracies[rows],
            num_steps=networks.num_steps[rows],
            **{f"predicted/{name}": values for name, values in predictions.items()},
        )
    drawn = {
        "predictions": figures.plot_predictions(
            networks.accuracies[rows],
            predictions,
            networks.families[rows],
            {
                name: (found["r_squared"]["value"], found["kendall_tau"]["value"])
                for name, found in scores.items()
            },
        ),
        "learning_curves": figures.plot_learning_curves(records),
    }
    by_count = {int(n): found for n, found in summary["models_by_count"].items()}
    if by_count:
        by_count[summary["num_train"]] = scores
        drawn["training_sizes"] = figures.plot_training_sizes(by_count)
    for name, figure in drawn.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)


def format_summary(summary: Mapping[str, Any]) -> str:
    """The table that a run prints."""

    def row(count: int, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        whole = summary["models"][name]
        return {
            "networks": count,
            "model": figures.MODEL_NAMES[name],
            "R2": _interval(found["r_squared"]),
            "tau": _interval(found["kendall_tau"]),
            "tau in families": _interval(found["kendall_tau_within_families"]),
            "rate": ", ".join(f"{rate:g}" for rate in whole["learning_rates"]),
            "parameters": whole["num_parameters"],
            "seconds": f"{found['train_seconds']:.0f}",
        }

    by_count = {**summary["models_by_count"], summary["num_train"]: summary["models"]}
    rows = [
        row(count, name, found)
        for count, models in by_count.items()
        for name, found in models.items()
    ]
    accuracy = summary["zoo"]["accuracy"]
    return "\n".join(
        [
            common.format_table(rows),
            "",
            *_by_training_steps(summary),
            f"{summary['num_train']} training, {summary['num_valid']} validation and "
            f"{summary['num_test']} test networks of "
            f"{summary['zoo']['num_shapes']} shapes; accuracy "
            f"{accuracy['mean']:.3f} +- {accuracy['standard_deviation']:.3f}, from "
            f"{accuracy['lowest']:.3f} to {accuracy['highest']:.3f}.",
            "Intervals: 95 %, bootstrap over test networks. "
            f"Zoo {summary['zoo_seconds']:.0f} s, all "
            f"{summary['total_seconds']:.0f} s.",
        ]
    )


def _by_training_steps(summary: Mapping[str, Any]) -> list[str]:
    """Lines about the first model; none for a run older than these scores."""
    name, found = next(iter(summary["models"].items()))
    rows = [
        {
            "trained for": f"{part['fewest']} to {part['most']} steps",
            "networks": part["num_networks"],
            "root of squared error": f"{part['root_mean_squared_error']:.4f}",
            "R2": _interval(part["r_squared"]),
            "tau": _interval(part["kendall_tau"]),
        }
        for part in found.get("by_training_steps", ())
    ]
    if not rows:
        return []
    title = f"{figures.MODEL_NAMES[name]} on test networks that were themselves"
    return [title, common.format_table(rows), ""]


def _interval(found: Mapping[str, Any]) -> str:
    low, value, high = (float(found[name]) for name in ("low", "value", "high"))
    if math.isnan(value):
        return "-"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
