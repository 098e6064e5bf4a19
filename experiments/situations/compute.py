"""What is found in every situation, how sure that is, and what regression finds."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from experiments import common
from experiments.situations import baselines, changes
from experiments.situations.config import CONFIGS, ExperimentConfig, smoke
from experiments.situations.generators import SITUATIONS, Situation
from modmeta.relational import (
    DataError,
    RelationalInference,
    infer_relations,
)
from modmeta.relational.evaluation import calibration, ranking
from modmeta.relational.evaluation.scores import match_labels


def score(situation: Situation, result: RelationalInference) -> dict[str, Any]:
    """Accuracy, confidence and verdict, and the ranking of edges beside regression's.

    Confidence is the mean probability of the most likely relation. An edge is ranked by
    the probability that it has another relation than that which stands for none.
    """
    late: dict[str, float] = {}
    if situation.change is not None:
        whole, change, stretches = situation.dataset, situation.change, result.stretches
        labels = changes.labels_of_stretches(whole, change, stretches)
        labelled = dataclasses.replace(result.dataset, edges=labels)
        result = dataclasses.replace(result, dataset=labelled)
        late["frames_late"] = changes.frames_late(change, stretches)
    labels, edges = result.dataset.edges, result.edges
    num_found, num_true = result.model.num_relations, result.dataset.num_relations
    names = match_labels(edges, labels, num_found, num_true)
    if situation.change is not None:
        called = np.where(edges >= 0, names[edges], -1)
        late |= changes.by_frame(whole, change, stretches, called)
    is_edge = labels >= 0
    none = int(np.argmax(names == 0)) if (names == 0).any() else 0
    ranked = 1.0 - result.probabilities[..., none]
    counts = np.bincount(labels[is_edge])
    accuracy = result.edge_accuracy
    confidence = float(np.max(result.probabilities, axis=-1)[is_edge].mean())
    bins = calibration.reliability_bins(result.probabilities, labels, names)
    return {
        "edge_accuracy": accuracy,
        "majority": float(counts.max() / counts.sum()),
        "confidence": confidence,
        "overconfidence": confidence - accuracy,
        "expected_calibration_error": calibration.expected_calibration_error(
            result.probabilities, labels, names
        ),
        # Sums over pairs, so that those of all situations can be joined.
        "reliability": {
            "count": bins.count.tolist(),
            "confidence": np.nan_to_num(bins.confidence * bins.count).tolist(),
            "accuracy": np.nan_to_num(bins.accuracy * bins.count).tolist(),
        },
        "auroc": ranking.auroc(ranked, labels),
        "auroc_regression": ranking.auroc(
            baselines.edge_strengths(result.dataset), labels
        ),
        "right_count": result.verdict.num_relations == situation.num_relations,
        "verdict": result.verdict.to_dict(),
        "notes": list(result.notes),
        **late,
    }


def run_situation(config: ExperimentConfig, name: str) -> dict[str, Any]:
    """Infers the relations of one situation, of which nothing is told."""
    situation = SITUATIONS[name](config.seed)
    options = {"num_relations": 2, **situation.options}
    start = time.perf_counter()
    result = infer_relations(
        situation.dataset,
        **options,
        seed=config.seed,
        num_restarts=config.num_restarts,
        modules=config.modules,
        proposal=config.proposal,
        bouncegrad=config.bouncegrad,
        training=config.training,
        inference=config.inference,
    )
    seconds = time.perf_counter() - start
    return {**score(situation, result), "seconds": seconds}


def compute(config: ExperimentConfig, run: common.Run) -> dict[str, Any] | None:
    """One situation after the other; those that are done are not done again."""
    names = config.situations or SITUATIONS
    parts = {
        f"situations/{name.replace(' ', '_')}": functools.partial(
            run_situation, config, name
        )
        for name in names
    }
    rows = run.each_once(parts, "situations")
    if rows is None:
        return None
    return {
        "situations": dict(zip(names, rows, strict=True)),
        "expected_calibration_error": _pooled_error(rows),
        "largest_overconfidence": max(row["overconfidence"] for row in rows),
        "right_counts": int(sum(row["right_count"] for row in rows)),
    }


def _pooled_error(rows: list[dict[str, Any]]) -> float | None:
    """Expected calibration error over the pairs of all situations.

    Of those whose verdict names relations: where it finds none, no relation is said to
    be likelier than another. None where there is no such situation.
    """
    named = [row["reliability"] for row in rows if row["verdict"]["num_relations"]]
    if not named:
        return None
    count, confidence, accuracy = (
        np.sum([row[name] for row in named], axis=0)
        for name in ("count", "confidence", "accuracy")
    )
    return float(np.abs(confidence - accuracy).sum() / count.sum())


def format_summary(summary: dict[str, Any]) -> str:
    """The table that a run prints."""
    rows = []
    for name, row in summary["situations"].items():
        rows.append(
            {
                "situation": name,
                "accuracy": row["edge_accuracy"],
                "confidence": row["confidence"],
                "calibration": row["expected_calibration_error"],
                "AUROC": row["auroc"],
                "regression": row["auroc_regression"],
                "relations": row["verdict"]["num_relations"],
                "supported": "yes" if row["verdict"]["supported"] else "no",
                "right": "yes" if row["right_count"] else "no",
                "ratio": row["verdict"]["held_out_ratio"],
                "seconds": round(row["seconds"]),
            }
        )
    error = summary["expected_calibration_error"]
    found = "none" if error is None else f"{error:.4f}"
    table = common.format_table(rows, float_format=".4g")
    return (
        f"{table}\n\nexpected calibration error over all pairs of named relations "
        f"{found}, largest overconfidence "
        f"{summary['largest_overconfidence']:.3f}"
    )


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=format_summary,
    files="A file per situation",
    shown=(),
    refusals=(DataError,),
)
