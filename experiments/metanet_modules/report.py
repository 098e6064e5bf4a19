"""What a run leaves behind: readings, models, figures, and a table on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.metanet_modules import figures
from experiments.metanet_modules.law_zoo import LawNetworks
from experiments.metanet_modules.scores import Readings
from modmeta.runtime.artifact import save_artifact
from modmeta.runtime.files import atomic_write

MODEL_KIND = "modmeta.metanet.learning.prediction"


def write_model(directory: Path, params: Any) -> None:
    """Writes the chosen parameters of a reader as `model.npz`."""
    save_artifact(
        directory / "model.npz",
        params,
        kind=MODEL_KIND,
        metadata={"model": directory.name},
    )


def write_outputs(
    workdir: Path,
    networks: LawNetworks,
    targets: Mapping[str, np.ndarray],
    found: Mapping[str, Readings],
) -> None:
    """Writes `readings.npz` and the figures.

    Args:
      workdir: Where to write.
      networks: The networks.
      targets: Of the test networks.
      found: Readings of the test networks, by reader.
    """
    arrays = {
        f"{name}/{field}": values
        for name, readings in found.items()
        for field, values in readings._asdict().items()
    }
    rows = networks.splits["test"]
    with atomic_write(workdir / "readings.npz") as file:
        np.savez(
            file,
            network=rows,
            law=networks.laws[rows],
            strength=networks.strengths[rows],
            length=networks.lengths[rows],
            **arrays,
        )
    drawn = {
        "embedding": figures.plot_embeddings(
            {name: readings.embeddings for name, readings in found.items()},
            targets["law"],
        ),
        "constants": figures.plot_constants(found, targets),
    }
    for name, figure in drawn.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)


def format_summary(summary: Mapping[str, Any]) -> str:
    """The tables that a run prints; the summary is fresh, or read back."""

    def percent(value: Any) -> str:
        share = 100 * float(value)
        return f"{share:.1f} %" if math.isfinite(share) else "law wrong"

    def errors(found: Mapping[str, Any]) -> str:
        return ", ".join(percent(found[level]) for level in ("0.5", "0.9"))

    rows = []
    for name, found in summary["models"].items():
        accuracy = {key: float(value) for key, value in found["law_accuracy"].items()}
        duplicates = found["duplicates_by_readings"]
        rows.append(
            {
                "reader": figures.MODEL_NAMES[name],
                "law": f"{percent(accuracy['value'])} [{100 * accuracy['low']:.1f}, "
                f"{100 * accuracy['high']:.1f}]",
                "strength": errors(found["strength_error"]),
                "length": errors(found["length_error"]),
                "duplicates": f"{percent(duplicates['precision'])}, "
                f"{percent(duplicates['recall'])}",
                "AUROC": f"{float(duplicates['auroc']):.4f}, "
                f"{float(found['duplicates_by_embedding']['auroc']):.4f}",
                "parameters": found["num_parameters"],
                "seconds": f"{found['train_seconds']:.0f}",
            }
        )
    lines = [
        common.format_table(rows),
        "",
        "strength, length: relative error, median and nine tenths. duplicates: "
        "precision, recall. AUROC: of duplicates by readings, by embeddings.",
        f"{summary['num_train']} training, {summary['num_valid']} validation and "
        f"{summary['num_test']} test networks of {summary['num_edges']} edges; median "
        f"error of their fits {float(summary['fit_error_median']):.3f}. Zoo "
        f"{summary['zoo_seconds']:.0f} s, all {summary['total_seconds']:.0f} s.",
    ]
    if summary["bank_modules"]:
        shown = [
            {
                **row,
                "reader": figures.MODEL_NAMES[row["reader"]],
                "probability": float(row["probability"]),
            }
            for row in summary["bank_modules"]
        ]
        lines += ["", "Modules of trained banks:", common.format_table(shown)]
    return "\n".join(lines)
