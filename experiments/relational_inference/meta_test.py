"""Meta-test of a run: frozen modules on its test systems."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.relational_inference import forecasts
from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets
from experiments.relational_inference.laws import (
    assumptions,
    describe_laws,
    laws_of_modules,
)
from modmeta.relational.data import TrajectoryDataset, neighbors
from modmeta.relational.evaluation import calibration, matching
from modmeta.relational.evaluation.scores import (
    label_scores,
    match_labels,
    structures_from_labels,
)
from modmeta.relational.inference import infer, relations
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.moves import TRAINING_SEARCH
from modmeta.relational.laws import curves
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.search import SEARCHES

_CURVE_SYSTEMS = 100


class MetaTest(NamedTuple):
    """Outcome of the meta-test.

    Attributes:
      summary: Scores for `summary.json`.
      cold: Relations of the test systems from a cold start.
      forecast: Predictions of the frames that follow the observed ones.
      names: True name of every module, None without labels.
      curves: Lowest energy `[systems, proposals]` by kind of proposal.
      curve_proposals: `[proposals]` per system.
      laws: The law of every relation; empty where modules have none.
      true_laws: That of the simulator, None where none is known, for each of `laws`.
    """

    summary: dict[str, Any]
    cold: relations.Relations
    forecast: forecasts.Forecast
    names: np.ndarray | None
    curves: dict[str, np.ndarray]
    curve_proposals: np.ndarray
    laws: list[curves.LawCurve]
    true_laws: list[Callable[[np.ndarray], np.ndarray] | None]


def meta_test(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    params: ModelParams,
    warm: TaskStructures | None,
    mesh: Mesh | None = None,
    cold: relations.Relations | None = None,
) -> MetaTest:
    """Scores frozen modules on the test systems.

    Args:
      config: The run's configuration.
      datasets: Its data.
      model: The model.
      params: Its trained arrays.
      warm: Structures annealed beside training; None if there was none.
      mesh: Devices that share the searches; None for one.
      cold: Relations of the test systems, where they are known already.
    """
    observed = datasets.observed
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), 4)
    if cold is None:
        cold = infer.infer_dataset(
            keys[0], model, params, observed, config.inference, mesh=mesh
        )
    if warm is not None:
        warm = infer.infer_dataset(
            keys[1],
            model,
            params,
            observed,
            config.training.inference,
            start=warm,
            mesh=mesh,
        )
    scored_frames = max(observed.counted().sum(), 1)
    summary: dict[str, Any] = {
        "test_energy": float(cold.energies.sum() / scored_frames),
        "num_proposals": float(cold.num_proposals.mean()),
    }
    if warm is not None:
        summary["test_energy_warm"] = float(warm.energies.sum() / scored_frames)

    names = true_structures = None
    if observed.edges is not None:
        names = match_labels(
            cold.edges, observed.edges, model.num_relations, observed.num_relations
        )
        true_edges = structures_from_labels(observed.edges, names, model.num_relations)
        true_structures = cold._replace(edges=true_edges).structures
        summary.update(_compare_with_labels(model, observed, cold, warm, names))
        is_undirected = np.array_equal(observed.edges, observed.edges.swapaxes(1, 2))
        if model.energy.prior == "none" and is_undirected:
            # A track of its own: the prior is declared, and enters the test alone.
            symmetric = _symmetric_search(
                keys[2], config, model, params, observed, cold, mesh
            )
            scores = label_scores(symmetric, observed, model.num_relations)
            summary["edge_accuracy_symmetric_prior"] = scores["edge_accuracy"]

    forecast = forecasts.forecast(
        config, datasets, model, params, cold.structures, true_structures
    )
    summary.update(forecast.summary)

    law_curves, true = [], []
    if curves.has_curve(model):
        law_curves = curves.law_curves(model, params, observed, cold.structures)
        true = laws_of_modules(config, observed, names, law_curves)
        summary["laws"] = describe_laws(law_curves, true)
        summary["assumed"] = assumptions(config, model)

    searched, proposals = _search_curves(
        keys[3], config, model, params, observed, cold, mesh
    )
    return MetaTest(
        summary,
        cold,
        forecast,
        names,
        searched,
        proposals,
        law_curves,
        true,
    )


def _compare_with_labels(
    model: RelationalModel,
    observed: TrajectoryDataset,
    cold: relations.Relations,
    warm: relations.Relations | None,
    names: np.ndarray,
) -> dict[str, Any]:
    """Scores against labels; accuracies are those of the candidate edges."""
    summary: dict[str, Any] = {
        "candidate_share": neighbors.candidate_share(observed.edges, cold.edges)
    }
    if warm is not None:
        scores = label_scores(warm, observed, model.num_relations)
        summary["edge_accuracy_warm"] = scores["edge_accuracy"]
    scores = label_scores(cold, observed, model.num_relations)
    summary["proposal_accuracy"] = scores["proposal_accuracy"]
    if cold.is_sampled:
        summary.update(_calibration(cold, observed, names))
    return summary


def edge_accuracies(
    found: relations.Relations, dataset: TrajectoryDataset, num_relations: int
) -> dict[str, Any]:
    """Edge accuracy of relations, and by the number of entities, if that differs."""
    if dataset.edges is None:
        return {}
    names = match_labels(
        found.edges, dataset.edges, num_relations, dataset.num_relations
    )
    accuracy = matching.edge_accuracy(found.edges, dataset.edges, names)
    summary: dict[str, Any] = {"edge_accuracy": accuracy}
    if len(np.unique(dataset.num_nodes)) > 1:
        summary["edge_accuracy_by_size"] = _accuracy_by_size(found, dataset, names)
    return summary


def _accuracy_by_size(
    found: relations.Relations, dataset: TrajectoryDataset, names: np.ndarray
) -> dict[str, float]:
    """Edge accuracy by the number of entities, one naming of the modules for all."""
    by_size = {}
    for size in np.unique(dataset.num_nodes):
        rows = dataset.num_nodes == size
        by_size[str(size)] = matching.edge_accuracy(
            found.edges[rows], dataset.edges[rows], names
        )
    return by_size


def _calibration(
    found: relations.Relations, dataset: TrajectoryDataset, names: np.ndarray
) -> dict[str, float]:
    """How far edge probabilities can be believed."""
    return {
        "brier_score": calibration.brier_score(
            found.probabilities, dataset.edges, names
        ),
        "expected_calibration_error": calibration.expected_calibration_error(
            found.probabilities, dataset.edges, names
        ),
    }


def _symmetric_search(
    rng_key, config, model, params, observed, cold, mesh
) -> relations.Relations:
    """Repeats the search with the symmetric prior, from the structures found."""
    memory = model.memory
    if memory.receiver_chunk:
        # The prior couples the receivers: they cannot be searched chunk by chunk.
        memory = dataclasses.replace(memory, messages="recompute")
    energy = dataclasses.replace(model.energy, prior="symmetric")
    options = config.inference
    if SEARCHES[options.algorithm].needs.independent_receivers:
        options = dataclasses.replace(options, algorithm=TRAINING_SEARCH, options={})
    num_steps = options.num_steps
    if not SEARCHES[options.algorithm].sweeps:
        # Near the answer already: what is left are pairs of edges that disagree. A step
        # is one of a system here, and some searches visit one receiver in each.
        num_steps = 3 * max(num_steps, int(observed.num_nodes.max()))
    options = dataclasses.replace(
        options,
        num_chains=1,
        num_steps=num_steps,
        initial_temperature=50.0,
        num_samples=0,
    )
    return infer.infer_dataset(
        rng_key,
        dataclasses.replace(model, energy=energy, memory=memory),
        params,
        observed,
        options,
        start=cold.structures,
        mesh=mesh,
    )


def _search_curves(
    rng_key, config, model, params, observed, cold, mesh
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lowest energy of a chain against its proposals, by kind of proposal.

    The search of the test systems is one of the curves already.
    """
    num_curves = min(_CURVE_SYSTEMS, observed.num_tasks)
    options = config.inference
    num_proposals = cold.num_proposals.mean() / options.num_chains
    proposals = num_proposals * np.arange(1, options.num_steps + 1) / options.num_steps
    kinds = ("uniform", "learned")
    has_head = model.network.proposal.encoder != "none"
    is_learned = has_head and options.learned
    curves = {kinds[is_learned]: cold.best_energies[:num_curves]}
    if has_head:
        other = dataclasses.replace(options, learned=not is_learned)
        subset = observed.take(np.arange(num_curves))
        found = infer.infer_dataset(rng_key, model, params, subset, other, mesh=mesh)
        curves[kinds[not is_learned]] = found.best_energies
    return {kind: curves[kind] for kind in kinds if kind in curves}, proposals
