"""A result in a few numbers, a few lines, and a small table."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from modmeta.relational.evaluation.scores import transposed_labels

if TYPE_CHECKING:
    from modmeta.relational.results.contents import Contents

# A pair is sure above this probability.
_SURE = 0.9
# Longer lists are cut.
_MAX_FEATURES, _MAX_NOTES, _MAX_NOTE = 8, 3, 160


def summarise(result: Contents) -> dict[str, Any]:
    """See `RelationalInference.summary`."""
    dataset, edges = result.dataset, np.asarray(result.edges)
    is_edge = edges >= 0
    sizes = dataset.num_nodes
    counts = np.bincount(edges[is_edge], minlength=result.model.num_relations)
    total = max(int(is_edge.sum()), 1)
    confidence = sure = None
    if result.discovery.settled.is_sampled and is_edge.any():
        surest = np.max(np.asarray(result.probabilities), axis=-1)[is_edge]
        confidence, sure = float(surest.mean()), float(np.mean(surest > _SURE))
    accuracy = result.edge_accuracy
    return {
        "num_systems": dataset.num_tasks,
        "num_frames": dataset.num_frames,
        "num_entities": [int(sizes.min()), int(sizes.max())],
        "features": [dataset.features.names[c] for c in dataset.features.recorded],
        "num_pairs": int(is_edge.sum()),
        "relations": [
            {"name": name, "share": float(count / total)}
            for name, count in zip(result.relation_names, counts, strict=True)
        ],
        "mean_confidence": confidence,
        "share_sure": sure,
        "edge_accuracy": None if accuracy is None else float(accuracy),
        "verdict": None if result.verdict is None else result.verdict.to_dict(),
        "notes": list(result.notes),
    }


def notes_of(result: Contents) -> tuple[str, ...]:
    """See `RelationalInference.notes`."""
    dataset = result.dataset
    if dataset.edges is None or not dataset.num_relations:
        return dataset.notes
    hint = transposed_labels(
        result.edges, dataset.edges, result.model.num_relations, dataset.num_relations
    )
    return dataset.notes if hint is None else (*dataset.notes, hint)


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
                f"{summary['share_sure']:.0%} of the pairs above {_SURE}",
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
