"""What held-out frames say of a graph, and of graphs that know nothing.

A graph is found in the first part of every recording and asked about the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from modmeta.relational.classical import is_series
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.validation import pair_mask
from modmeta.relational.evaluation.alternatives import (
    Alternatives,
    Recommendation,
    compare,
    recommend,
)
from modmeta.relational.evaluation.changes import ChangeModel, Changes
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures

# Share of the frames that the graph is found in, to be judged on the rest.
_FIRST_PART = 0.75
# Systems that are judged: more would cost time and tell no more.
_MAX_SYSTEMS = 100
# Squared changes count up to this, in units of the typical change: close encounters
# must not decide alone.
_LARGEST_SQUARE = 25.0


class Evidence(NamedTuple):
    """Squared errors of every system on held-out frames, `[tasks]`.

    Attributes:
      found: Under the graph found.
      shuffled: Under its relations on other pairs of the same system.
      none: Without any edge; where messages are no terms of a sum, under the best
        relation everywhere, of senders as they were half a recording away.
      single: `[K, tasks]` under one relation everywhere.
      merged: By pairs of relations (a, b): every b replaced by a.
      total: Squares of the changes themselves.
      effects: `[K]`, see `relation_effects`, in the frames before.
      alternatives: Errors of linear regressions; None where nodes have no series.
    """

    found: np.ndarray
    shuffled: np.ndarray
    none: np.ndarray
    single: np.ndarray
    merged: dict[tuple[int, int], np.ndarray]
    total: np.ndarray
    effects: tuple[float, ...]
    alternatives: Alternatives | None = None


def recommend_for(dataset: TrajectoryDataset) -> Recommendation | None:
    """The classical method that held-out frames of series speak for, without a graph.

    Args:
      dataset: The systems, raw units; labels are not looked at.

    Returns:
      None where nodes have no series, or nothing surely explains more than the own past
      of every node.
    """
    some = dataset.without_labels().take(slice(0, _MAX_SYSTEMS))
    if not is_series(some):
        return None
    parts = _parts(some, 1)
    column = some.features.recorded[0]
    counted = [part.counted()[..., None] for part in parts]
    changes = [
        np.where(mask, np.diff(part.states[..., [column]], axis=1), 0.0)
        for mask, part in zip(counted, parts, strict=True)
    ]
    unit = np.sqrt(np.mean(np.square(changes[0][counted[0][..., 0]])))
    first, rest = (
        np.swapaxes(change, 1, 2) / max(float(unit), 1e-30) for change in changes
    )
    alternatives = compare(*parts, (first, rest), rest, 1, _LARGEST_SQUARE)
    return recommend(alternatives, has_graph=False)


def relation_effects(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    structures: TaskStructures,
) -> tuple[float, ...]:
    """Root mean square of what the edges of every relation change, over all changes.

    Args:
      model: The model.
      params: Its arrays.
      dataset: Systems whose structures are known, raw units.
      structures: Their structures.

    Returns:
      One number per relation; 0 for relations on no edge.
    """
    some = dataset.without_labels().take(slice(0, _MAX_SYSTEMS))
    structures = _first(structures, some.num_tasks)
    edges = np.where(pair_mask(some.node_mask), structures.edge_modules, NO_EDGE)
    changes = ChangeModel(model, params, some)
    everything = changes(structures)
    size = np.sqrt(np.sum(_clipped(everything.observed)))
    effects = []
    for relation in range(model.num_relations):
        silent = edges == relation
        without = changes(structures, silent).expected
        # Every receiver counts by the edges of this relation that it has.
        difference = np.sqrt(np.sum(_clipped(everything.expected - without)))
        share = np.sqrt(max(silent.any(axis=2).mean(), 1e-9))
        effects.append(float(difference / max(share * size, 1e-30)))
    return tuple(effects)


def gather(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    config: InferenceConfig,
) -> Evidence:
    """Finds a graph in the first part of every recording, and asks it about the rest.

    Args:
      rng_key: Consumed by the search.
      model: The model.
      params: Its trained arrays.
      dataset: The systems, raw units; labels are not looked at.
      config: How relations are searched.
    """
    some = dataset.without_labels().take(slice(0, _MAX_SYSTEMS))
    first, rest = _parts(some, model.bank.config.span)
    early = infer_dataset(rng_key, model, params, first, config)
    edges = np.asarray(early.edges)
    nodes = np.asarray(early.node_modules)
    changes = ChangeModel(model, params, rest)

    def under(edges, silent=None, is_shifted=False):
        structures = TaskStructures(np.maximum(edges, 0), nodes)
        return changes(structures, silent, is_shifted=is_shifted)

    def error_of(found: Changes):
        return np.sum(_clipped(found.expected - found.observed), axis=(1, 2, 3))

    def alternatives(found: Changes):
        if not is_series(first) or first is rest:
            return None
        before = ChangeModel(model, params, first)(early.structures)
        return compare(
            first,
            rest,
            (before.observed, found.observed),
            found.expected - found.observed,
            model.bank.config.span,
            _LARGEST_SQUARE,
        )

    def error(edges, **options):
        return error_of(under(edges, **options))

    is_edge = edges >= 0
    everywhere = [np.where(is_edge, k, -1) for k in range(model.num_relations)]
    if model.bank.is_additive:
        none = error(edges, silent=is_edge)
    else:
        # A network that never went without messages cannot say what is without them.
        none = min((error(e, is_shifted=True) for e in everywhere), key=np.sum)
    used = [k for k in range(model.num_relations) if (edges == k).any()]
    found = under(edges)
    return Evidence(
        found=error_of(found),
        shuffled=error(_shuffled(edges)),
        none=none,
        single=np.stack([error(structure) for structure in everywhere]),
        merged={
            (a, b): error(np.where(edges == b, a, edges))
            for a in used
            for b in used
            if a != b
        },
        total=np.sum(_clipped(found.observed), axis=(1, 2, 3)),
        effects=relation_effects(model, params, first, early.structures),
        alternatives=alternatives(found),
    )


def _parts(
    dataset: TrajectoryDataset, span: int
) -> tuple[TrajectoryDataset, TrajectoryDataset]:
    """Frames that a graph is found in, and those that it is asked about.

    Both need windows of every node; where frames are too few, all serve for both.
    """
    cut = round(_FIRST_PART * dataset.num_frames)
    if min(cut, dataset.num_frames - cut) < span + 3:
        return dataset, dataset
    try:
        return dataset.frames(0, cut), dataset.frames(cut, dataset.num_frames)
    except DataError:  # a node that comes late, or leaves early
        return dataset, dataset


def _clipped(changes: np.ndarray) -> np.ndarray:
    return np.minimum(np.square(np.asarray(changes, np.float64)), _LARGEST_SQUARE)


def _first(structures: TaskStructures, count: int) -> TaskStructures:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], structures)


def _shuffled(edges: np.ndarray) -> np.ndarray:
    """The relations of every system on its pairs in another order."""
    rng = np.random.default_rng(0)
    shuffled = edges.copy()
    for matrix in shuffled:
        places = matrix >= 0
        matrix[places] = rng.permutation(matrix[places])
    return shuffled
