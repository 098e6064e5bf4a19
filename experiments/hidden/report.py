"""Hidden bodies by how many visible ones they are related to, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments import common

# Squared errors that a trajectory is counted as found below: of springs, of charges.
BARS = (1e-4, 1e-2)


def by_degree(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of hidden bodies by their number in a system and their degree."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number, entry in found.items():
        for body in _bodies([entry]):
            groups.setdefault((number, body["degree"]), []).append(body)
    rows = []
    for (number, degree), bodies in sorted(groups.items()):
        known = [body for body in bodies if body["is_known"]]
        errors = [body["error"] for body in known]
        rows.append(
            {
                "hidden": int(number),
                "degree": degree,
                "bodies": len(bodies),
                "known": len(known),
                "mean_error": float(np.mean(errors)) if errors else None,
                "median_error": float(np.median(errors)) if errors else None,
                "largest_error": float(np.max(errors)) if errors else None,
                "edges": float(np.mean([b["edges"] for b in known])) if known else None,
            }
        )
    return rows


def pooled(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Scores of all hidden bodies by degree, whatever their number in a system.

    Args:
      entries: What was found for every number, of one run or of several.

    Returns:
      By degree: `bodies`; the shares of them that were `found` at all, that are `known`
      by what is said, and whose error is `below` each of `BARS`; the `median_error` of
      those found, None if there are none; and `visible_edges`, the share that is right
      in their systems.
    """
    groups: dict[int, list[dict[str, Any]]] = {}
    for body in _bodies(entries):
        groups.setdefault(body["degree"], []).append(body)
    rows = []
    for degree, bodies in sorted(groups.items()):
        errors = [body["error"] for body in bodies if body["error"] is not None]
        rows.append(
            {
                "degree": degree,
                "bodies": len(bodies),
                "found": len(errors) / len(bodies),
                "known": float(np.mean([body["is_known"] for body in bodies])),
                "below": [sum(e <= bar for e in errors) / len(bodies) for bar in BARS],
                "median_error": float(np.median(errors)) if errors else None,
                "visible_edges": float(np.mean([b["visible_edges"] for b in bodies])),
            }
        )
    return rows


def _bodies(entries: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Hidden bodies, each with the share of visible edges of its system."""
    for entry in entries:
        for system in entry["systems"]:
            for body in system["bodies"]:
                yield {**body, "visible_edges": system["visible_edges"]}


def by_number(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How often the number of hidden bodies is right, of those that act."""
    rows = []
    for number, entry in found.items():
        systems = entry["systems"]
        right = [s["num_found"] == s["num_acting"] for s in systems]
        rows.append(
            {
                "hidden": int(number),
                "systems": len(systems),
                "right_number": float(np.mean(right)),
                "visible_edges": float(np.mean([s["visible_edges"] for s in systems])),
            }
        )
    return rows


def format_summary(summary: Mapping[str, Any]) -> str:
    """The tables that a run prints; the summary is fresh, or read back."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    bodies = [
        {
            "hidden": row["hidden"],
            "degree": row["degree"],
            "bodies": row["bodies"],
            "known": row["known"],
            "mean error": shown(row["mean_error"]),
            "median": shown(row["median_error"]),
            "largest": shown(row["largest_error"]),
            "edges": shown(row["edges"]),
        }
        for row in summary["bodies"]
    ]
    degrees = [
        {
            "degree": row["degree"],
            "bodies": row["bodies"],
            "found": f"{row['found']:.2f}",
            "said to be known": f"{row['known']:.2f}",
            **{
                f"below {bar:g}": f"{share:.2f}"
                for bar, share in zip(BARS, row["below"], strict=True)
            },
            "median of found": shown(row["median_error"]),
            "visible edges": f"{row['visible_edges']:.4f}",
        }
        for row in summary.get("degrees", [])
    ]
    numbers = [
        {
            "hidden": row["hidden"],
            "systems": row["systems"],
            "right number": shown(row["right_number"]),
            "visible edges": f"{row['visible_edges']:.4f}",
            "seconds": round(summary["seconds"][str(row["hidden"])]),
        }
        for row in summary["numbers"]
    ]
    tables = [common.format_table(rows) for rows in (bodies, degrees, numbers) if rows]
    return "\n\n".join(tables)
