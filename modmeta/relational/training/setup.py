"""What stands before the first step: a model to train, systems to choose it by."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from modmeta.graphs import supergraphs
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.data.noise import choose_span, noise_levels
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.config import MemoryConfig, MoveConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank, resolve
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.network import ModelParams, RelationalNetwork
from modmeta.relational.modules.proposal_head import ProposalConfig

# Below, systems set aside would be missed more than they tell.
_MIN_TASKS_TO_SPLIT = 16
_VALID_SHARE = 0.1
_MIN_VALID = 8
# More would cost time at every evaluation and choose no better.
_MAX_VALID = 200
# A bound is wrong if more than this share of all changes exceed so many times it, and
# what noise makes of them.
_BEYOND, _MARGIN, _DEVIATIONS = 0.1, 1.5, 3.0


def build_model(
    train_set: TrajectoryDataset,
    rng_key: jax.Array,
    *,
    modules: ModuleConfig | None = None,
    proposal: ProposalConfig | None = None,
    energy: EnergyConfig | None = None,
    moves: MoveConfig | None = None,
    candidates: CandidateConfig | None = None,
    memory: MemoryConfig | None = None,
    baseline: str = "auto",
    compress: bool = True,
) -> tuple[RelationalModel, ModelParams]:
    """Fits the preprocessing and draws the parameters of a model.

    Args:
      train_set: Training systems, observed frames, raw units.
      rng_key: Consumed.
      modules: Options of the bank.
      proposal: Options of the proposal head.
      energy: What the search minimises.
      moves: How it moves.
      candidates: Which edges may hold a relation.
      memory: What is held at once.
      baseline: See `fitting.fit_preprocessing`.
      compress: See `preprocessing.FeatureLayout`.

    Returns:
      The model and its arrays.

    Raises:
      DataError: If such a model cannot read the training systems, these have one
        entity each, or accelerations evidently exceed what they are declared to be cut
        off at.
    """
    if not train_set.num_tasks:
        raise DataError("states: found no system to train on, expected at least one")
    train_set.check_pairs()
    modules = modules or ModuleConfig()
    resolved = resolve(modules, train_set.features)
    if resolved.path != "start" and not modules.span:
        resolved = dataclasses.replace(resolved, span=choose_span(train_set))
    if resolved.path != "start" and resolved.max_rate:
        _check_bound(train_set, resolved.max_rate, resolved.span)
    preprocessing, layout = fit_preprocessing(
        train_set,
        baseline=baseline,
        compress=compress and resolved.path == "start",
        span=resolved.span,
    )
    bank = ModuleBank(resolved, layout)
    model = RelationalModel(
        RelationalNetwork(bank, proposal or ProposalConfig()),
        energy or EnergyConfig(),
        moves or MoveConfig(),
        candidates or CandidateConfig(),
        memory or MemoryConfig(),
    )
    model.read(train_set)
    # A pair of nodes: the head is run once to draw its parameters.
    supergraph = supergraphs.build_supergraph([2], supergraphs.padding_budget([2], 1))
    params = model.network.init(rng_key, preprocessing, supergraph)
    return model, params


def _check_bound(train_set: TrajectoryDataset, max_rate: float, span: int) -> None:
    """Raises a DataError if accelerations go on beyond their declared bound.

    Walls and noise make a few of them larger. Of entities without velocities, noise may
    make all of them larger.
    """
    columns = list(train_set.features.velocities)
    if not columns:
        return
    lasting = train_set.frame_interval * train_set.durations(span)[..., None, None]
    states = train_set.states[..., columns].astype(np.float64)
    noise = np.sqrt(2.0) * np.asarray(noise_levels(train_set))[columns]
    rates = np.abs(states[:, span:] - states[:, :-span]) - _DEVIATIONS * noise
    rates = (rates / lasting)[train_set.counted(span)]
    beyond = float(np.mean(rates > _MARGIN * max_rate)) if rates.size else 0.0
    if beyond > _BEYOND:
        raise DataError(
            f"max_rate: found {max_rate:g}, and velocities that change faster in "
            f"{beyond:.0%} of all intervals, by up to {rates.max():.3g} per unit of "
            "time, expected the largest acceleration in the units of the data, or 0 "
            "for no bound"
        )


def split_validation(
    dataset: TrajectoryDataset, seed: int
) -> tuple[TrajectoryDataset, TrajectoryDataset]:
    """Sets a tenth of the systems aside (8 to 200) to choose the model by energy.

    Data sets of fewer than 16 systems serve for both.

    Args:
      dataset: All systems that training may see.
      seed: Seed of the split.

    Returns:
      `(training systems, validation systems)`.
    """
    if dataset.num_tasks < _MIN_TASKS_TO_SPLIT:
        return dataset, dataset
    num_valid = int(_VALID_SHARE * dataset.num_tasks)
    num_valid = int(np.clip(num_valid, _MIN_VALID, _MAX_VALID))
    order = np.random.default_rng((seed, 1)).permutation(dataset.num_tasks)
    return dataset.take(order[num_valid:]), dataset.take(order[:num_valid])
