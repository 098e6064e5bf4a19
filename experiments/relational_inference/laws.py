"""Laws of a run: declared ones, found ones, and how near those are to the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.exact import true_laws
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.laws import formulas
from modmeta.relational.laws.curves import LawCurve


def laws_of_modules(
    config: ExperimentConfig,
    observed: TrajectoryDataset,
    names: np.ndarray | None,
    curves: Sequence[LawCurve],
) -> list[Callable[[np.ndarray], np.ndarray] | None]:
    """The law of the simulator that every curve stands for; None where unknown."""
    known = true_laws(config.data, observed, config.modules.max_rate)
    labels = [None if names is None else int(names[c.relation]) for c in curves]
    return [
        None if label is None or label >= len(known) else known[label]
        for label in labels
    ]


def describe_laws(
    curves: Sequence[LawCurve],
    true: Sequence[Callable[[np.ndarray], np.ndarray] | None],
) -> list[dict[str, Any]]:
    """How well every law is known, and how near it is to the true one."""
    described = []
    for curve, law in zip(curves, true, strict=True):
        entry: dict[str, Any] = {
            "relation": curve.relation,
            "variable": curve.variable,
            "num_edges": curve.num_edges,
        }
        power = curve.power_law()
        if power is not None:
            entry["power_law"] = power._asdict()
        try:
            entry["formula"] = formulas.find_formula(curve)._asdict()
        except ImportError:
            pass  # the extra is not installed; the power law is there
        if law is not None:
            rates = law(curve.inputs)
            if np.ptp(rates) > 0:
                entry["r2"] = curve.r_squared(law)
            error = np.abs(curve.rates - rates)
            entry["mean_error"] = float(np.sum(curve.weights * error))
            entry["largest_true_rate"] = max(float(np.max(np.abs(rates))), 1e-12)
        described.append(entry)
    return described


def assumptions(config: ExperimentConfig, model: RelationalModel) -> list[str]:
    """What was declared about the physics, not found in the data."""
    modules, spec = model.bank.config, model.bank.layout.spec
    found = ["rates of pairs add up"]
    roles = [
        f"{role} {[spec.names[c] for c in getattr(spec, role)]}"
        for role in ("positions", "velocities", "sines", "cosines")
        if getattr(spec, role)
    ]
    found.append("roles of columns: " + ", ".join(roles))
    if spec.positions and modules.law != "general":
        found.append("forces act along the line between two entities")
    if modules.law == "mutual":
        found.append("both entities of a pair feel the same force")
    if modules.max_rate and model.bank.has_laws:
        found.append(f"components of rates are cut off at {modules.max_rate:g}")
    if model.bank.has_laws and modules.entities == "alike":
        found.append("entities differ in nothing that is not a column")
    if modules.null_relation:
        found.append("relation 0 is no interaction")
    domain = config.prediction_of(model.bank).domain
    if domain.kind != "open":
        found.append(f"domain: {domain}")
    return found
