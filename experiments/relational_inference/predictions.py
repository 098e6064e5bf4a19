"""Predictions of test systems, beside those that know less or more than a model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets
from experiments.relational_inference.exact import exact_predictions
from modmeta.relational.data.normalization import Normalization, normalize
from modmeta.relational.evaluation import rollouts
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures

REPORTED_STEPS = (1, 10, 20)
# Errors in the summary, by the prediction that they are of.
_SUMMARY_KEYS = {
    "inferred graph": "mse",
    "true graph": "mse_true_graph",
    "constant velocity": "mse_constant_velocity",
    "static": "mse_static",
}


class Predictions(NamedTuple):
    """What follows the observed frames of the test systems.

    Attributes:
      truth: `[tasks, time, nodes, F]` normalised, observed and future frames.
      values: `[tasks, steps, nodes, F]` normalised, by name; empty without future
        frames, as
      errors: is, `[steps]` by name.
      summary: Errors at `REPORTED_STEPS`.
    """

    truth: np.ndarray
    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    summary: dict[str, Any]


def predict(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    params: ModelParams,
    structures: dict[str, TaskStructures],
) -> Predictions:
    """Predicts the future frames of the test systems.

    Args:
      config: The run's configuration.
      datasets: Its data.
      model: The model.
      params: Its trained arrays.
      structures: Structures of the test systems by name, "inferred graph" and perhaps
        "true graph".
    """
    test, num_observed = datasets.test, datasets.num_observed
    normalization = jax.tree.map(np.asarray, params.preprocessing.normalization)
    truth = np.asarray(normalize(normalization, test.states), np.float32)
    future = truth[:, num_observed:]
    if not future.shape[1]:
        return Predictions(truth, {}, {}, {})
    options = config.prediction_of(model.bank)
    values = {
        name: rollouts.predict_following(
            model,
            params,
            test,
            num_observed,
            given,
            num_substeps=options.num_substeps,
            domain=options.domain,
        )
        for name, given in structures.items()
    }
    durations = None
    if not test.is_regular:
        clock = test.clock[:, num_observed - 1 :]
        durations = clock[:, 1:] - clock[:, :1]
    baselines = rollouts.baseline_predictions(
        truth[:, :num_observed],
        future.shape[1],
        np.asarray(params.preprocessing.step_matrix),
        np.asarray(params.preprocessing.step_offset),
        durations,
    )
    values["constant velocity"] = baselines["constant_velocity"]
    values["static"] = baselines["static"]
    columns = [c for c in model.bank.layout.predicted if c not in test.features.derived]
    mask = rollouts.following_mask(test, num_observed)
    errors = {
        name: rollouts.prediction_errors(predicted, future, mask, columns)
        for name, predicted in values.items()
    }
    summary: dict[str, Any] = {
        key: rollouts.errors_at(errors[name], REPORTED_STEPS)
        for name, key in _SUMMARY_KEYS.items()
        if name in errors
    }
    summary.update(_exact_errors(config, datasets, normalization, future, columns))
    return Predictions(truth, values, errors, summary)


def _exact_errors(
    config: ExperimentConfig,
    datasets: Datasets,
    normalization: Normalization,
    future: np.ndarray,
    columns: list[int],
) -> dict[str, Any]:
    """Errors of the true law under the true graph, by substeps per frame."""
    found = exact_predictions(config.data, datasets.observed, future.shape[1])
    if not found:
        return {}
    errors = {}
    for count, values in found.items():
        values = np.asarray(normalize(normalization, values), np.float32)
        by_step = rollouts.prediction_errors(
            values, future, datasets.test.node_mask, columns
        )
        errors[count] = rollouts.errors_at(by_step, REPORTED_STEPS)
    return {"mse_exact_law": errors}
