"""Predictions of the frames that follow those that inferred the relations."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets
from experiments.relational_inference.exact import exact_predictions
from modmeta.relational.data.normalization import normalize
from modmeta.relational.futures import predictions
from modmeta.relational.futures.walls import suggest_domain
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures

REPORTED_STEPS = (1, 10, 20)
# What is scored, and, where that is the mean of futures, the future without errors.
INFERRED, ONE_FUTURE = "inferred graph", "inferred graph, one future"
# The latter once more, within walls that turns in the data tell of, not declared ones.
DETECTED = "inferred graph, one future, walls detected"
_KEYS = {
    INFERRED: "mse",
    ONE_FUTURE: "mse_one_future",
    DETECTED: "mse_walls_detected",
    "true graph": "mse_true_graph",
    "constant velocity": "mse_constant_velocity",
    "static": "mse_static",
}


class Forecast(NamedTuple):
    """Predictions of the frames that follow, and how far they are off.

    Attributes:
      summary: Scores for `summary.json`.
      truth: `[tasks, time, nodes, F]` normalised, observed and future frames.
      predictions: `[tasks, steps, nodes, F]` normalised, by name; none where no frame
        follows.
      errors: `[steps]` mean squared errors by name.
      futures: `[samples, tasks, steps, nodes, F]` that the prediction is the mean of;
        None where it is one.
    """

    summary: dict[str, Any]
    truth: np.ndarray
    predictions: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    futures: np.ndarray | None = None

    @property
    def path(self) -> np.ndarray:
        """`[tasks, steps, nodes, F]` one future, such as entities may go."""
        return self.predictions.get(ONE_FUTURE, self.predictions[INFERRED])


def forecast(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    params: ModelParams,
    found: TaskStructures,
    true: TaskStructures | None,
) -> Forecast:
    """Predicts under the structures found, beside the true ones and simple rivals.

    Args:
      config: The run's configuration.
      datasets: Its data.
      model: The model.
      params: Its trained arrays.
      found: Structures of the test systems that were found.
      true: Those by the labels; None without labels.
    """
    observed, test = datasets.observed, datasets.test
    normalization = jax.tree.map(np.asarray, params.preprocessing.normalization)
    truth = np.asarray(normalize(normalization, test.states), np.float32)
    future = truth[:, datasets.num_observed :]
    num_steps = future.shape[1]
    if not num_steps:
        return Forecast({}, truth, {}, {})
    options = config.prediction_of(model.bank)

    def predicted(structures, num_samples=0, rows=slice(None), domain=options.domain):
        return predictions.predict_following(
            model,
            params,
            test.take(rows),
            datasets.num_observed,
            jax.tree.map(lambda leaf: np.asarray(leaf)[rows], structures),
            num_substeps=options.num_substeps,
            domain=domain,
            num_samples=num_samples,
            seed=config.seed,
        )

    values, samples = {}, None
    if options.num_samples:
        samples = predicted(found, options.num_samples)
        values = {INFERRED: samples.mean(axis=0), ONE_FUTURE: predicted(found)}
    else:
        values = {INFERRED: predicted(found)}
    if options.domain.kind == "reflecting":
        detected = suggest_domain(observed)
        if detected.kind == "reflecting":
            values[DETECTED] = predicted(found, domain=detected)
    if true is not None:
        values["true graph"] = values[INFERRED].copy()
        is_other = np.any(np.asarray(found.edge_modules) != true.edge_modules, (1, 2))
        if is_other.any():
            others = predicted(true, options.num_samples, is_other)
            if options.num_samples:
                others = others.mean(axis=0)
            values["true graph"][is_other] = others
    values |= _rivals(params, datasets, truth)
    derived = test.features.derived
    columns = [c for c in model.bank.layout.predicted if c not in derived]
    mask = predictions.following_mask(test, datasets.num_observed)

    def errors_of(values):
        return predictions.prediction_errors(values, future, mask, columns)

    errors = {name: errors_of(value) for name, value in values.items()}
    summary: dict[str, Any] = {
        _KEYS[name]: predictions.errors_at(error, REPORTED_STEPS)
        for name, error in errors.items()
    }
    squared = np.where(mask[..., None], np.square(values[INFERRED] - future), 0.0)
    summary["mse_shares"] = _shares(squared, columns, test.features.positions)
    if samples is not None:
        summary["prediction_coverage"] = _coverage(samples, future, mask, columns)
    exact = exact_predictions(config.data, observed, num_steps)
    if exact:
        summary["mse_exact_law"] = {
            count: predictions.errors_at(
                errors_of(np.asarray(normalize(normalization, states), np.float32)),
                REPORTED_STEPS,
            )
            for count, states in exact.items()
        }
    return Forecast(summary, truth, values, errors, samples)


def _rivals(params, datasets, truth) -> dict[str, np.ndarray]:
    """Predictions that know nothing of relations."""
    test, durations = datasets.test, None
    if not test.is_regular:
        clock = test.clock[:, datasets.num_observed - 1 :]
        durations = clock[:, 1:] - clock[:, :1]
    rivals = predictions.baseline_predictions(
        truth[:, : datasets.num_observed],
        truth.shape[1] - datasets.num_observed,
        np.asarray(params.preprocessing.step_matrix),
        np.asarray(params.preprocessing.step_offset),
        durations,
    )
    return {
        "constant velocity": rivals["constant_velocity"],
        "static": rivals["static"],
    }


def _shares(squared, columns, positions) -> dict[str, dict[str, float]]:
    """Shares of the error by step: of positions, and of the worst of 100 systems."""
    squared = squared[..., columns]
    of_positions = squared[..., [c in positions for c in columns]].sum(axis=(0, 2, 3))
    by_system = np.sort(squared.sum(axis=(2, 3)), axis=0)[::-1]
    worst = by_system[: -(-len(by_system) // 100)].sum(axis=0)
    total = np.maximum(by_system.sum(axis=0), 1e-30)
    shares = {"worst_systems": worst / total}
    if positions:
        shares = {"positions": of_positions / total, **shares}
    return {
        name: predictions.errors_at(share, REPORTED_STEPS)
        for name, share in shares.items()
    }


def _coverage(samples, future, mask, columns) -> dict[str, float]:
    """Share of what was observed that lies between the least and largest sample.

    `nominal` is that of samples which what comes is one of: `(S - 1) / (S + 1)` of S.
    """
    low, high = samples.min(axis=0), samples.max(axis=0)
    inside = ((low <= future) & (future <= high))[..., columns].mean(axis=-1)
    found = {
        str(step): float(inside[:, step - 1][mask[:, step - 1]].mean())
        for step in REPORTED_STEPS
        if step <= future.shape[1] and mask[:, step - 1].any()
    }
    return {**found, "nominal": (len(samples) - 1) / (len(samples) + 1)}
