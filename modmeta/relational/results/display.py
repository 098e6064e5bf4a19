"""The summary of a result as a few lines and as a small table."""

from __future__ import annotations

import html
from typing import Any

# A pair is sure above this probability.
SURE = 0.9
# Longer lists are cut.
_MAX_FEATURES, _MAX_NOTES, _MAX_NOTE = 8, 3, 160


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What is shown, line by line."""
    low, high = summary["num_entities"]
    entities = f"{low}" if low == high else f"{low} to {high}"
    features = summary["features"]
    shown = ", ".join(features[:_MAX_FEATURES])
    if len(features) > _MAX_FEATURES:
        shown += f" and {len(features) - _MAX_FEATURES} more"
    systems = "system" if summary["num_systems"] == 1 else "systems"
    rows = [
        (
            "data",
            f"{summary['num_systems']:,} {systems} of {entities} entities, "
            f"{summary['num_frames']:,} frames, features {shown}",
        )
    ]
    shares = ", ".join(f"{r['name']} {r['share']:.1%}" for r in summary["relations"])
    rows.append(("relations", f"{shares} of {summary['num_pairs']:,} pairs"))
    if summary["mean_confidence"] is not None:
        rows.append(
            (
                "confidence",
                f"{summary['mean_confidence']:.3f} on average, "
                f"{summary['share_sure']:.0%} of the pairs above {SURE}",
            )
        )
    if summary["edge_accuracy"] is not None:
        rows.append(("edge accuracy", f"{summary['edge_accuracy']:.4f}"))
    verdict = summary["verdict"]
    if verdict is not None:
        believed = "supported" if verdict["supported"] else "not supported"
        rows.append(("verdict", f"{believed}. {verdict['sentence']}"))
    notes = summary["notes"]
    for note in notes[-_MAX_NOTES:]:
        cut = note if len(note) <= _MAX_NOTE else f"{note[: _MAX_NOTE - 3]}..."
        rows.append(("note", cut))
    if len(notes) > _MAX_NOTES:
        more = len(notes) - _MAX_NOTES
        rows.append(("", f"{more} more in result.notes"))
    return rows


def as_text(summary: dict[str, Any]) -> str:
    """A few lines for a terminal."""
    lines = [f"  {name:<14}{value}" for name, value in _rows(summary)]
    return "\n".join(["RelationalInference", *lines])


def as_html(summary: dict[str, Any]) -> str:
    """A small table for a notebook."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in _rows(summary)
    )
    return f"<table><caption>RelationalInference</caption>{cells}</table>"
