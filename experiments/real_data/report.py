"""What a run leaves behind: a figure, and a table on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from modmeta.runtime import figure_style


def write_figure(directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws areas per method: a panel per kind of network; none without labels.

    Dots are recordings one by one, or networks where these are not scored; bars their
    means; diamonds the scores of all recordings of a network together.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["auroc_pooled"] is not None:
            kinds.setdefault(row["dataset"].split("_")[0], []).append(row)
    if not kinds:
        return
    methods = list(dict.fromkeys(row["method"] for row in rows))[::-1]
    figure = figure_style.new_figure(2.6 + 3.0 * len(kinds), 1.2 + 0.36 * len(methods))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, (kind, found) in zip(panels, kinds.items(), strict=True):
        for place, method in enumerate(methods):
            some = [row for row in found if row["method"] == method]
            alone = [area for row in some for area in row["aurocs"] or ()]
            pooled = [row["auroc_pooled"] for row in some]
            dots = alone or pooled
            if not dots:
                axes.text(0.5, place, " not run", va="center", fontsize=8, color="0.4")
                continue
            is_ours = method.startswith(("modmeta", "as held-out"))
            color = figure_style.COLORS[1 if is_ours else 2]
            mean = float(np.mean(dots))
            axes.barh(place, mean - 0.5, left=0.5, height=0.62, color=color, alpha=0.55)
            jitter = np.linspace(-0.22, 0.22, len(dots))
            axes.plot(dots, place + jitter, ".", color="0.25", markersize=3)
            if alone:
                axes.plot(
                    np.mean(pooled),
                    place,
                    "D",
                    color=figure_style.COLORS[0],
                    markersize=6,
                )
        axes.axvline(0.5, color="0.3", linewidth=1.0)
        axes.set_title(kind, fontsize=10)
        axes.set_xlim(0.3, 1.02)
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", **figure_style.GRID)
        axes.set_axisbelow(True)
    label = "area under the ROC curve; 0.5 is chance. Bars: means of the dots"
    if any(row["aurocs"] for row in rows):
        label += ", recordings one by one.\nDiamonds: all recordings together"
    else:
        label += ", networks"
    figure.supxlabel(label, fontsize=8)
    figure.savefig(directory / "auroc.png", dpi=150)


def format_summary(summary: Mapping[str, Any]) -> str:
    """The table that a run prints, and the verdicts below it."""
    rows = [
        {
            "dataset": row["dataset"],
            "method": row["method"],
            "AUROC": row["auroc"],
            "+-": row["auroc_spread"],
            "pooled": row["auroc_pooled"],
            "AP": row["average_precision"],
            "AP pooled": row["average_precision_pooled"],
            "seconds": round(row["seconds"], 1),
        }
        for row in summary["rows"]
    ]
    lines = []
    for row in summary["rows"]:
        # The advised scores come with the same verdict.
        if row["verdict"] is None or row["method"].startswith("modmeta,"):
            continue
        if row["verdict_alone"] is not None:
            lines.append(f"{row['dataset']}, one by one: {row['verdict_alone']}")
        lines.append(f"{row['dataset']}, as one graph: {row['verdict']}")
    return "\n\n".join([common.format_table(rows, float_format=".3f"), *lines])
