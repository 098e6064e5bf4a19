"""What a run leaves behind: edited images, figures, and tables on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.metanet_editing import figures
from experiments.metanet_editing.networks import FieldNetworks
from modmeta.runtime.files import atomic_write


def write_outputs(
    workdir: Path,
    networks: FieldNetworks,
    pictures: Mapping[str, np.ndarray],
    summary: Mapping[str, Any],
) -> None:
    """Writes `edited.npz` and the figures.

    Args:
      workdir: Where to write.
      networks: The networks.
      pictures: `[test networks, Q, C]` rendered images, by editor.
      summary: Scores.
    """
    rows = networks.splits["test"]
    drawn = {}
    if pictures:
        with atomic_write(workdir / "edited.npz") as file:
            np.savez(
                file,
                network=rows,
                target=networks.targets[rows],
                **{f"edited/{name}": values for name, values in pictures.items()},
            )
        shares = {name: found["share"] for name, found in summary["editors"].items()}
        whole = [name for name in pictures if "_of_" not in name]
        columns = {
            "image": networks.images[rows],
            **{figures.title(name, shares.get(name)): pictures[name] for name in whole},
            "target": networks.targets[rows],
        }
        drawn["edited"] = figures.plot_images(columns, networks.shape)
    if "readers" in summary:
        curves = {n: found["accuracy"] for n, found in summary["readers"].items()}
        drawn["accuracy"] = figures.plot_accuracies(curves)
    for name, figure in drawn.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)


def format_summary(summary: Mapping[str, Any]) -> str:
    """The tables that a run prints; the summary is fresh, or read back."""
    lines = []
    if "editors" in summary:
        whole = float(summary["identity_mse"])
        rows: list[dict[str, Any]] = [
            {
                "editor": name,
                "MSE": float(summary[key]),
                "share of identity": f"{100 * float(summary[key]) / whole:.1f} %",
            }
            for name, key in (
                ("identity", "identity_mse"),
                ("slope and offset", "tone_mse"),
                ("mean target", "mean_mse"),
            )
        ]
        for name, found in summary["editors"].items():
            rows.append(
                {
                    "editor": figures.model_and_heads(name)[0],
                    "heads": found["heads"],
                    "images": found.get("count", summary["num_train_images"]),
                    "MSE": float(found["mse"]),
                    "share of identity": f"{100 * float(found['share']):.1f} %",
                    "parameters": found["num_parameters"],
                    "rate": f"{found['learning_rate']:g}",
                    "seconds": f"{found['seconds']:.0f}",
                }
            )
        lines += [
            common.format_table(rows),
            "MSE of pixels in [0, 1]; times 4 for [-1, 1].",
            "",
        ]
    if "readers" in summary:
        rows = [
            {
                "reader": figures.MODEL_NAMES[name],
                **{
                    f"{count} images": f"{100 * float(accuracy):.1f} %"
                    for count, accuracy in found["accuracy"].items()
                },
                "parameters": found["num_parameters"],
                "rate": f"{found['learning_rate']:g}",
                "seconds": f"{found['seconds']:.0f}",
            }
            for name, found in summary["readers"].items()
        ]
        lines += [common.format_table(rows), ""]
    height, width, channels = summary["image_shape"]
    lines.append(
        f"{summary['num_train']} training, {summary['num_valid']} validation and "
        f"{summary['num_test']} test networks of {summary['num_weights']} weights, "
        f"images of {height} x {width} x {channels}; fits of "
        f"{float(summary['psnr_median']):.1f} dB (median), "
        f"{float(summary['psnr_lowest_tenth']):.1f} dB (lowest tenth). Zoo "
        f"{summary['zoo_seconds']:.0f} s, all {summary['total_seconds']:.0f} s."
    )
    return "\n".join(lines)
