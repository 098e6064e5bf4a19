"""What a run leaves behind: edges, model, figures, and a table on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.relational_inference.datasets import Datasets
from experiments.relational_inference.meta_test import MetaTest
from modmeta.relational import figures
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.normalization import denormalize
from modmeta.relational.evaluation import export
from modmeta.relational.inference import relations
from modmeta.relational.inference.artifacts import save_model
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.verdict.effects import without_effect
from modmeta.relational.verdict.stretches import Stretches

# Share of a curve's variance from which on a power of the distance is its law.
_IS_POWER_LAW = 0.9


def write_outputs(
    workdir: Path,
    model: RelationalModel,
    params: ModelParams,
    datasets: Datasets,
    outcome: MetaTest,
    exported: TrajectoryDataset,
    found: relations.Relations,
    records: list[dict[str, Any]],
    parts: Stretches | None = None,
) -> None:
    """Writes `edges.npz`, `edges.csv`, `model.npz`, `laws.json` and the figures.

    Args:
      workdir: Where to write.
      model: The model.
      params: Its trained arrays.
      datasets: Data of the run.
      outcome: Outcome of the meta-test.
      exported: Systems whose edges are written.
      found: Relations found in them.
      records: Records of the training log; none if nothing was trained.
      parts: Stretches that the exported systems are; None for whole recordings.
    """
    export.save_edges_npz(
        workdir / "edges.npz",
        found.edges,
        found.probabilities,
        exported.node_mask,
        exported.edges,
    )
    export.write_edges_csv(
        workdir / "edges.csv",
        found.edges,
        found.probabilities,
        node_names=exported.node_names,
        system_names=exported.system_names if parts is None else parts.names(exported),
        extra=None if parts is None else parts.columns(exported.max_nodes),
    )
    save_model(workdir / "model.npz", model, params)

    observed, spec = datasets.observed, datasets.test.features
    systems = exported.system_names if parts is None else parts.names(exported)
    if datasets.test_rows is None:
        systems = observed.system_names
    else:  # numbered as the edges are, of which they are a part
        everyone = systems or range(exported.num_tasks)
        systems = [everyone[row] for row in datasets.test_rows]
    is_squared = model.bank.config.likelihood == "squared_error"
    unit = "squared error" if is_squared else "nats"
    drawn = {
        "adjacency": figures.plot_adjacency(
            outcome.cold.edges,
            observed.edges,
            outcome.cold.probabilities if outcome.cold.is_sampled else None,
            matching=outcome.names,
            system_names=systems,
            node_names=observed.node_names,
        ),
    }
    if records:
        drawn["learning_curves"] = figures.plot_learning_curves(
            records, energy_unit=unit
        )
    if outcome.forecast.predictions:
        has_plane = len(spec.positions) >= 2
        derived = spec.derived
        predicted = model.bank.layout.predicted
        normalization = jax.tree.map(np.asarray, params.preprocessing.normalization)
        column = next((c for c in predicted if c not in derived), predicted[0])
        futures = outcome.forecast.futures
        drawn["trajectories"] = figures.plot_trajectories(
            denormalize(normalization, outcome.forecast.truth),
            denormalize(normalization, outcome.forecast.path),
            datasets.num_observed,
            spec.positions[:2] if has_plane else None,
            feature=column,
            futures=None if futures is None else denormalize(normalization, futures),
            node_mask=datasets.test.node_mask,
            feature_names=spec.names,
            frame_interval=datasets.test.frame_interval,
            system_names=systems,
            node_names=observed.node_names,
        )
        drawn["rollout_error"] = figures.plot_rollout_error(outcome.forecast.errors)
    drawn["search"] = figures.plot_search_curves(
        outcome.curve_proposals, outcome.curves, energy_unit=unit
    )
    if observed.edges is not None and outcome.cold.is_sampled:
        drawn["calibration"] = figures.plot_edge_probability_calibration(
            outcome.cold.probabilities, observed.edges, outcome.names
        )
    if outcome.laws:
        drawn["laws"] = figures.plot_laws(outcome.laws, outcome.true_laws)
        curves = [curve.to_dict() for curve in outcome.laws]
        (workdir / "laws.json").write_text(json.dumps(curves, indent=1) + "\n")
    for name, figure in drawn.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)


def format_summary(summary: dict[str, Any]) -> str:
    """The short table that a run prints."""
    rows = []

    def add(quantity: str, value: Any) -> None:
        if value is not None:
            rows.append({"quantity": quantity, "value": value})

    kinds = {True: "unseen systems", False: "training systems", None: "systems"}
    add(f"{kinds[summary['test_systems_unseen']]} scored", summary["num_test"])
    for key, text in (
        ("edge_accuracy", "edge accuracy, cold start"),
        ("edge_accuracy_warm", "edge accuracy, warm start"),
        ("edge_accuracy_shared_graph", "edge accuracy, one graph for all systems"),
        ("edge_accuracy_symmetric_prior", "edge accuracy, symmetric prior at test"),
        ("proposal_accuracy", "edge accuracy, proposal head alone"),
    ):
        if key in summary:
            add(text, f"{summary[key]:.4f}")
    add("proposals per system", summary["num_proposals"])
    add("test energy (nats per node and frame)", f"{summary['test_energy']:.3f}")
    for key, text in (
        ("mse", "inferred graph"),
        ("mse_one_future", "inferred graph, one future"),
        ("mse_walls_detected", "inferred graph, one future, walls detected"),
        ("mse_true_graph", "true graph"),
        ("mse_constant_velocity", "constant velocity"),
        ("mse_static", "static"),
    ):
        for step, error in summary.get(key, {}).items():
            add(f"MSE at step {step}, {text}", f"{error:.2e}")
    shares = summary.get("mse_shares", {})
    for key, text in (
        ("positions", "positions"),
        ("worst_systems", "the worst 1 % of systems"),
    ):
        values = [f"{share:.2f}" for share in shares.get(key, {}).values()]
        if values:
            steps = ", ".join(shares[key])
            add(f"share of {text} in that of step {steps}", ", ".join(values))
    coverage = dict(summary.get("prediction_coverage", {}))
    nominal = coverage.pop("nominal", None)
    for step, share in coverage.items():
        add(f"within the futures at step {step}", f"{share:.3f} (of {nominal:.3f})")
    for count, errors in summary.get("mse_exact_law", {}).items():
        for step, error in errors.items():
            add(f"MSE at step {step}, exact law, {count} substeps", f"{error:.2e}")
    nothing = without_effect(summary["verdict"].get("effects", ()))
    for entry in summary.get("laws", []):
        title = f"law of relation {entry['relation']}"
        if not entry["num_edges"]:
            add(title, "no pair has it")
            continue
        if entry["relation"] in nothing:
            add(title, "no interaction")
            continue
        power = entry.get("power_law", {"r_squared": 0.0})
        if power["r_squared"] > _IS_POWER_LAW:
            formula = f"{power['coefficient']:.4g} d^{power['exponent']:.3f}"
            add(f"{title}, R2 {power['r_squared']:.4f}", formula)
        if "formula" in entry:
            formula = entry["formula"]
            ends = f"from {formula['low']:.3g} to {formula['high']:.3g}"
            add(f"{title}, {ends}", formula["text"])
        if "r2" in entry:
            add(f"{title}, R2 with the true one", f"{entry['r2']:.5f}")
    if "train_seconds" in summary:
        add("training seconds", f"{summary['train_seconds']:.0f}")
    add("total seconds", f"{summary['total_seconds']:.0f}")
    notes = [f"\n{note}" for note in summary.get("notes", [])]
    notes.append(f"\n{summary['verdict']['sentence']}")
    if "hidden" in summary:
        notes += [f"\n{summary['hidden']['sentence']}"]
        notes += [f"\n{note}" for note in summary["hidden"]["notes"]]
    return common.format_table(rows) + "".join(notes)
