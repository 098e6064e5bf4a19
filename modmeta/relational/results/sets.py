"""Sets of relations of a result: what calibrates them, and under which search."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.evaluation import conformal, resampling
from modmeta.relational.evaluation.conformal import Calibration, RelationSets
from modmeta.relational.evaluation.scores import match_labels
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.results import transfer
from modmeta.relational.results.contents import Contents
from modmeta.runtime import option_types

# Of labelled systems, this share tells which relation is which, and calibrates nothing.
_NAMING = 0.2


def relation_sets(
    result: Contents,
    coverage: float,
    calibration: Any,
    num_resampled: int,
    seed: int,
) -> RelationSets:
    """See `RelationalInference.relation_sets`."""
    coverage = conformal.check_coverage(coverage)
    num_resampled = option_types.check("num_resampled", num_resampled, int)
    seed = option_types.check_seed(seed)
    needed = conformal.needed_systems(coverage)
    model, params = result.model, result.params
    dataset = result.dataset.without_labels()
    config = result.inference
    labelled = None
    if config.num_samples < 1:
        raise ValueError(
            "inference.num_samples: found 0, expected at least 1: without samples "
            "there are no probabilities to calibrate"
        )
    if calibration is not None:
        labelled = _read_labelled(result, calibration, needed)
    else:
        if model.energy.form == "rollout":
            raise ValueError(
                "calibration: found none with the energy 'rollout', expected labelled "
                "systems: errors of roll-outs cannot be resampled"
            )
        if num_resampled < needed:
            raise ValueError(
                f"num_resampled: found {num_resampled}, expected at least {needed} "
                f"for a coverage of {coverage}"
            )
        config = _without_frames(model, config)
    rng = np.random.default_rng(seed)
    key_own, key_others = jax.random.split(jax.random.key(seed))
    # Once more, and exactly as the calibration systems are: neither restarts nor the
    # verdict have a say.
    found = infer_dataset(key_own, model, params, dataset, config)
    energies = resampling.energies_per_change(model, dataset, found)
    if labelled is not None:
        known = infer_dataset(
            key_others, model, params, labelled.without_labels(), config
        )
        known_energies = resampling.energies_per_change(model, labelled, known)
        thresholds, names = _by_labels(rng, labelled, known, known_energies, coverage)
        return conformal.relation_sets(
            thresholds, found.probabilities, energies, "labels", names
        )
    drawn = resampling.resample(rng, model, params, dataset, found, num_resampled)
    part = dataset.take(drawn.tasks)
    known = infer_dataset(
        key_others, model, params, part, config, changes=drawn.changes
    )
    known_energies = resampling.energies_per_change(model, part, known)
    count = conformal.strata_for(num_resampled, coverage)
    thresholds = conformal.calibrate(
        conformal.nonconformity(known.probabilities, drawn.edges),
        known_energies,
        coverage,
        np.quantile(known_energies, np.arange(1, count) / count),
    )
    verdict = result.verdict
    if verdict is not None and not (verdict.supported and verdict.num_relations > 1):
        # Laws that explain nothing would explain what they made themselves.
        thresholds = thresholds._replace(lowest=np.inf, highest=-np.inf)
    return conformal.relation_sets(
        thresholds, found.probabilities, energies, "resampling"
    )


def _read_labelled(
    result: Contents, calibration: Any, needed: int
) -> TrajectoryDataset:
    """Labelled systems as the model reads them.

    Raises:
      DataError: If they have no labels, or are too few.
    """
    dataset = transfer.read_new(calibration, result.dataset)
    if dataset.edges is None:
        raise DataError(
            "calibration: found no labels, expected true relations of every system"
        )
    count = result.model.num_relations
    if dataset.num_relations is not None and dataset.num_relations > count:
        raise DataError(
            f"calibration: found labels of {dataset.num_relations} relations, expected "
            f"at most {count}, as many as the model tells apart"
        )
    left = dataset.num_tasks - _num_naming(dataset.num_tasks)
    if left < needed:
        raise DataError(
            f"calibration: found {dataset.num_tasks} systems, of which {left} "
            f"calibrate, expected at least {needed} that do, for this coverage"
        )
    return dataset


def _num_naming(num_systems: int) -> int:
    return max(int(_NAMING * num_systems), 1)


def _by_labels(
    rng: np.random.Generator,
    dataset: TrajectoryDataset,
    found: Relations,
    energies: np.ndarray,
    coverage: float,
) -> tuple[Calibration, np.ndarray]:
    """Thresholds of labelled systems, and the names of relations among the labels.

    Some of the systems name the relations and part the strata; the others calibrate,
    which is why coverage is exact.
    """
    order = rng.permutation(dataset.num_tasks)
    split = _num_naming(dataset.num_tasks)
    naming, rest = order[:split], order[split:]
    num_found = found.probabilities.shape[-1]
    assert dataset.edges is not None and dataset.num_relations is not None
    names = match_labels(
        found.edges[naming], dataset.edges[naming], num_found, dataset.num_relations
    )
    labels = conformal.in_found_names(dataset.edges, names)
    count = conformal.strata_for(len(rest), coverage)
    thresholds = conformal.calibrate(
        conformal.nonconformity(found.probabilities[rest], labels[rest]),
        energies[rest],
        coverage,
        np.quantile(energies[naming], np.arange(1, count) / count),
    )
    return thresholds, names


def _without_frames(model: RelationalModel, config: InferenceConfig) -> InferenceConfig:
    """The search without proposals that would read frames in place of changes."""
    reads_changes = model.network.proposal.encoder in ("evidence", "none")
    if reads_changes and model.keeps_messages and not model.memory.receiver_chunk:
        return config
    return dataclasses.replace(config, learned=False)
