"""What a run leaves behind besides its curves: figures, and a table on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import common
from experiments.search_scaling import figures
from experiments.search_scaling.scores import AT_LEAST, AT_MOST, Scores

_BOUNDS = {AT_LEAST: "> ", AT_MOST: "< "}


def write_figures(
    workdir: Path,
    scores: Mapping[int, Mapping[tuple[str, str], Scores]],
    speedups: Mapping[str, Any],
) -> None:
    """Writes the figures.

    Args:
      workdir: Where to write.
      scores: By number of entities, then by name and kind of a search.
      speedups: As in `summary.json`.
    """
    drawn = {
        "reached_by_proposals": figures.plot_curves(scores),
        "reached_by_seconds": figures.plot_curves(scores, against="seconds"),
        "accuracy_by_proposals": figures.plot_curves(scores, quantity="edge_accuracy"),
    }
    if speedups:
        drawn["speedup"] = figures.plot_speedups(speedups)
    for name, figure in drawn.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)


def _number(value: float | None, bound: str = "") -> str | None:
    return None if value is None else f"{bound}{value:.3g}"


def format_summary(summary: Mapping[str, Any]) -> str:
    """The tables that a run prints: searches by size, then speed-ups."""
    rows = [
        {
            "entities": int(size),
            "search": name,
            "proposals": kind,
            "reached": f"{found['probability']:.2f}",
            "systems": f"{found['system_probability']:.2f}",
            "accuracy": f"{found['edge_accuracy']:.4f}",
            "gap (nats)": f"{found['energy_gap']:.3g}",
            "to 50%": _number(found["proposals_to_50%"]),
            "to 90%": _number(found["proposals_to_90%"]),
            "seconds": f"{found['seconds']:.1f}",
        }
        for size, of_size in summary["searches"].items()
        for name, kinds in of_size.items()
        for kind, found in kinds.items()
    ]
    text = common.format_table(rows)
    rows = [
        {"search": name, "trials": share}
        | {
            f"n={size}": _number(one["factor"], _BOUNDS.get(one["kind"], ""))
            for size, one in found["sizes"].items()
        }
        | {"helps up to": found["helps_up_to"]}
        for name, by_share in summary["speedups"].items()
        for share, found in by_share.items()
    ]
    if rows:
        text += "\n\nuniform / learned proposals\n" + common.format_table(rows)
    rows = [
        {
            "entities": int(size),
            "systems": found["num_systems"],
            "receivers": found["num_problems"],
            "budget": found["budget"],
            "best known": "exact" if found["is_exact"] else "of all searches",
            "true structure lower": f"{found['true_structure_lower']:.2f}",
            "higher": f"{found['true_structure_higher']:.2f}",
        }
        for size, found in summary["systems"].items()
    ]
    text += "\n\nbest-known and true structures\n" + common.format_table(rows)
    return f"{text}\n\ntotal seconds {summary['total_seconds']:.0f}"
