"""Where the structures of a training begin: drawn, or found by sparse regression."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from modmeta.relational.classical import sparse
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.training.config import FEW_SENDERS, BounceGradConfig

Start = Callable[[TrajectoryDataset], TaskStructures | None]


def find_start(
    model: RelationalModel,
    train_set: TrajectoryDataset,
    config: BounceGradConfig,
    seed: int,
) -> Start:
    """How the structures of systems begin.

    Where receivers have few senders, modules learn from structures that are drawn: many
    of these are nearly right. Among many, hardly any is.

    Args:
      model: The model.
      train_set: Training systems, raw units; labels are not looked at.
      config: Options of meta-training.
      seed: Seed of the receivers that regressions look at.

    Returns:
      A function from systems to their structures, or to None where they are to be
      drawn.
    """
    if config.start == "random" or train_set.max_nodes - 1 <= FEW_SENDERS:
        return lambda dataset: None
    laws = sparse.fit(train_set, model.num_relations, model.bank.config.span, seed)
    if laws is None:
        return lambda dataset: None

    def start(dataset: TrajectoryDataset) -> TaskStructures:
        nodes = np.zeros(dataset.node_mask.shape, np.int32)
        return jax.device_put(TaskStructures(laws.edges(dataset), nodes))

    return start
