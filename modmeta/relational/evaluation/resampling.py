"""Systems of known relations, made of observed ones: for calibration without labels.

The paths of an observed system stay; its relations are drawn anew, and its changes are
those that the learned laws then expect, plus the errors that they left. Errors keep
their place, and in blocks of time get a sign by chance ("wild bootstrap", Wu 1986): a
system that the model explains badly makes systems that are as hard.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.evaluation.changes import ChangeModel
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures

# Blocks of time of a recording, in each of which errors keep their signs.
_BLOCKS = 8


class Resampled(NamedTuple):
    """Systems with relations that were drawn.

    Attributes:
      tasks: `[systems]` the observed system behind each of them.
      edges: `[systems, nodes, nodes]` their relations, -1 where there is no edge.
      changes: `[systems, nodes, W, Y]` encoded, in place of those observed.
    """

    tasks: np.ndarray
    edges: np.ndarray
    changes: np.ndarray


def resample(
    rng: np.random.Generator,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    found: Relations,
    num_systems: int,
) -> Resampled:
    """Makes systems of known relations.

    Every observed system serves equally often, up to one. Relations of pairs are
    independent, with the shares that they have in what was found; where a prior says
    that graphs are undirected, so are these.

    Args:
      rng: Of NumPy.
      model: The model.
      params: Its arrays.
      dataset: The observed systems, raw units.
      found: Their relations.
      num_systems: How many to make.
    """
    tasks = np.resize(rng.permutation(dataset.num_tasks), num_systems)
    part = dataset.without_labels().take(tasks)
    structures = TaskStructures(
        np.maximum(found.edges, 0)[tasks], np.asarray(found.node_modules)[tasks]
    )
    is_edge = np.asarray(found.edges)[tasks] >= 0
    shares = np.asarray(found.probabilities, np.float64)[np.asarray(found.edges) >= 0]
    shares = shares.mean(axis=0)
    edges = rng.choice(len(shares), is_edge.shape, p=shares / shares.sum())
    if model.energy.prior == "symmetric":
        upper = np.triu(edges, 1)
        edges = upper + np.swapaxes(upper, 1, 2)
    changes = ChangeModel(model, params, part)
    before = changes(structures)
    after = changes(structures._replace(edge_modules=edges), effects=before.effects)
    errors = before.observed - before.expected
    errors = errors * _signs(rng, errors.shape, model.bank.config.span)
    edges = np.where(is_edge, edges, NO_EDGE).astype(np.int32)
    return Resampled(tasks, edges, (after.expected + errors).astype(np.float32))


def energies_per_change(
    model: RelationalModel, dataset: TrajectoryDataset, found: Relations
) -> np.ndarray:
    """Energy of every system over its observed changes, `[tasks]`."""
    counts = model.read(dataset).counted(model.bank.config.span).sum(axis=(1, 2))
    return np.asarray(found.energies, np.float64) / np.maximum(counts, 1)


def _signs(rng: np.random.Generator, shape: tuple[int, ...], span: int) -> np.ndarray:
    """Signs of errors `[tasks, nodes, W, 1]`, one per block of time of a receiver."""
    num_tasks, num_nodes, num_windows, _ = shape
    length = max(2 * span, -(-num_windows // _BLOCKS))
    block = np.arange(num_windows) // length
    signs = rng.choice([-1.0, 1.0], (num_tasks, num_nodes, int(block[-1]) + 1))
    return signs[..., block][..., None]
