"""What a run leaves behind: embeddings, model, figures, and a table on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.metanet_sine import figures
from modmeta.metanet.learning.contrastive import WeightStatistics
from modmeta.runtime.artifact import save_artifact
from modmeta.runtime.files import atomic_write

MODEL_KIND = "modmeta.metanet.learning.contrastive"


def write_outputs(
    workdir: Path,
    params: Any,
    statistics: WeightStatistics,
    embeddings: np.ndarray,
    predictions: np.ndarray,
    targets: np.ndarray,
    records: list[dict[str, Any]],
    constant_mse: float,
) -> None:
    """Writes `model.npz`, `embeddings.npz` and the figures.

    Args:
      workdir: Where to write.
      params: Parameters of the chosen metanetwork.
      statistics: What normalises the weights that it reads.
      embeddings: `[n, D]` of the test networks.
      predictions: `[n, 2]` amplitude and frequency, as the probe predicts them.
      targets: `[n, 2]` the true ones.
      records: Records of the training log.
      constant_mse: Test error of a constant prediction.
    """
    save_artifact(
        workdir / "model.npz",
        {"params": params, "statistics": statistics._asdict()},
        kind=MODEL_KIND,
    )
    with atomic_write(workdir / "embeddings.npz") as file:
        np.savez(
            file, embeddings=embeddings, predictions=predictions, coefficients=targets
        )
    drawn = {
        "learning_curves": figures.plot_learning_curves(records, constant_mse),
        "predictions": figures.plot_predictions(predictions, targets),
        "embedding": figures.plot_embedding(embeddings, targets),
    }
    for name, figure in drawn.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)


def format_summary(summary: dict[str, Any]) -> str:
    """The short table that a run prints."""
    rows = [
        {"predictor of (a, b)": text, "test MSE": float(summary[key])}
        for key, text in (
            ("constant_mse", "constant"),
            ("raw_weights_mse", "linear regression on weights"),
            ("untrained_mse", "linear probe, metanetwork before training"),
            ("test_mse", "linear probe, metanetwork"),
        )
    ]
    details = [
        f"Test MSE of the metanetwork {summary['test_mse_low']:.3g} to "
        f"{summary['test_mse_high']:.3g} (95 %, bootstrap over test networks); "
        f"amplitude {summary['test_mse_amplitude']:.3g}, "
        f"frequency {summary['test_mse_frequency']:.3g}; "
        f"validation {summary['valid_mse']:.3g}, training {summary['train_mse']:.3g}",
        f"{summary['num_train']} training networks, {summary['num_test']} test "
        f"networks, median error of their fits {summary['fit_mse_median']:.2g}",
        f"{summary['num_parameters']} parameters, {summary['num_steps']} steps, "
        f"{summary['zoo_seconds']:.0f} s for the zoo, "
        f"{summary['train_seconds']:.0f} s for training, "
        f"{summary['total_seconds']:.0f} s in all",
    ]
    found = summary["restart_scores"]
    if len(found) > 1:
        listed = ", ".join(f"{float(score):.3g}" for score in found)
        details.append(
            f"Training {summary['restart'] + 1} of {len(found)} was kept, by the least "
            f"score of validation networks: {listed}"
        )
    return "\n".join([common.format_table(rows, float_format=".4g"), "", *details])
