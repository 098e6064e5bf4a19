"""What stands before the first step: a model to train, systems to choose it by."""

from __future__ import annotations

import jax
import numpy as np

from modmeta.graphs import supergraphs
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.model import (
    ModelParams,
    RelationalModel,
    SearchConfig,
)
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.preprocessing import fit_preprocessing
from modmeta.relational.modules.proposal_head import ProposalConfig


def build_model(
    train_set: TrajectoryDataset,
    rng_key: jax.Array,
    *,
    modules: ModuleConfig | None = None,
    proposal: ProposalConfig | None = None,
    search: SearchConfig | None = None,
    baseline: str = "auto",
    compress: bool = True,
) -> tuple[RelationalModel, ModelParams]:
    """Fits the preprocessing and draws the parameters of a model.

    Args:
      train_set: Training systems, observed frames, raw units.
      rng_key: Consumed.
      modules: Options of the bank.
      proposal: Options of the proposal head.
      search: Options of the search.
      baseline: See `preprocessing.fit_preprocessing`.
      compress: See `preprocessing.FeatureLayout`.

    Returns:
      The model and its arrays.
    """
    preprocessing, layout = fit_preprocessing(
        train_set, baseline=baseline, compress=compress
    )
    bank = ModuleBank(modules or ModuleConfig(), layout)
    model = RelationalModel(
        bank, proposal or ProposalConfig(), search or SearchConfig()
    )
    # A pair of nodes: the head is run once to draw its parameters.
    supergraph = supergraphs.build_supergraph([2], supergraphs.padding_budget([2], 1))
    return model, model.init(rng_key, preprocessing, supergraph, train_set.num_frames)


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
    if dataset.num_tasks < 16:
        return dataset, dataset
    num_valid = int(np.clip(dataset.num_tasks // 10, 8, _MAX_VALID))
    order = np.random.default_rng((seed, 1)).permutation(dataset.num_tasks)
    return dataset.take(order[num_valid:]), dataset.take(order[:num_valid])


_MAX_VALID = 200
