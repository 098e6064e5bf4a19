"""What held-out frames say of a graph, and of graphs that know nothing.

A graph is found in the first part of every recording and asked about the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from modmeta.relational.classical import is_series
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.hints import SHARED, shared_course
from modmeta.relational.data.mixtures import are_apart
from modmeta.relational.data.validation import pair_mask
from modmeta.relational.evaluation import parts
from modmeta.relational.evaluation.changes import ChangeModel
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.verdict.alternatives import (
    Alternatives,
    Recommendation,
    compare,
    recommend,
)
from modmeta.relational.verdict.consistency import Consistency, compare_parts
from modmeta.relational.verdict.effects import strongest_per_edge
from modmeta.relational.verdict.finer import left_by_pairs
from modmeta.relational.verdict.gains import is_worthwhile
from modmeta.relational.verdict.granted import Granted
from modmeta.relational.verdict.relays import shares_by_relays

# Systems that are judged: more would cost time and tell no more.
_MAX_SYSTEMS = 100
# Squared changes count up to this, in units of the typical change: close encounters
# must not decide alone.
_LARGEST_SQUARE = 25.0
# Of what relations do, the share that is too little to ask about when it is left.
_LITTLE = 0.001
# Halves of recordings are compared that have so many windows per entity, which do not
# overlap: of fewer, even right laws are surer than right.
_MIN_WINDOWS = 8


class Evidence(NamedTuple):
    """Squared errors on held-out frames by blocks, `[blocks]`, see `parts.blocks_of`.

    What an entity does alone and what all do together is taken from all of them, see
    `granted.Granted`, if that lets some graph that knows nothing explain more than the
    graph found explains without.

    Attributes:
      found: Under the graph found.
      shuffled: Under its relations on other pairs of the same system.
      none: Without any edge; where messages are no terms of a sum, under the best
        relation everywhere, of senders as they were half a recording away.
      single: `[K, blocks]` under one relation everywhere.
      merged: By pairs of relations (a, b): every b replaced by a.
      total: Squares of the changes themselves.
      effects: `[K]`, see `relation_effects`.
      alternatives: Errors of linear regressions; None where nodes have no series.
      is_held_out: Whether there are such frames; where recordings are too short, all
        frames served to find the graph.
      is_granted: Whether what entities do alone and together is taken from errors.
      consistency: Whether both halves of the frames tell the same; None where that
        is not known.
      is_in_step: Whether systems share much of their course, see `hints.shared_course`.
      is_mixed: Whether systems are of two sizes far apart, see `mixtures.are_apart`.
      by_pairs: Under the graph found and numbers of all pairs, see `finer`; None where
        that was not asked.
      relayed: Shares of what the graph leaves, see `relays`; None where nodes have no
        series or are too few.
      has_laws: Whether messages are laws, which edges may have at a strength of
        their own.
    """

    found: np.ndarray
    shuffled: np.ndarray
    none: np.ndarray
    single: np.ndarray
    merged: dict[tuple[int, int], np.ndarray]
    total: np.ndarray
    effects: tuple[float, ...]
    alternatives: Alternatives | None = None
    is_held_out: bool = True
    is_granted: bool = False
    consistency: Consistency | None = None
    is_in_step: bool = False
    is_mixed: bool = False
    by_pairs: np.ndarray | None = None
    relayed: np.ndarray | None = None
    has_laws: bool = True


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
    split = parts.split(some, 1)
    if split is None:
        return None
    first, rest = split.first, split.rest
    columns = list(some.features.recorded)
    counted = [part.counted()[..., None] for part in (first, rest)]
    changes = [
        np.where(mask, np.diff(part.states[..., columns], axis=1), 0.0)
        for mask, part in zip(counted, (first, rest), strict=True)
    ]
    unit = np.sqrt(np.mean(np.square(changes[0][counted[0][..., 0]]), axis=0))
    early, late = (
        np.swapaxes(change, 1, 2) / np.maximum(unit, 1e-30) for change in changes
    )
    changes = (early, late)
    alternatives = compare(first, rest, changes, changes, 1, _LARGEST_SQUARE)
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
    span = model.bank.config.span
    split = parts.split(some, span)
    early, consistency = _search_parts(rng_key, model, params, some, split, config)
    asked = _Asked(model, params, some, split, np.asarray(early.node_modules))
    edges = np.asarray(early.edges)
    is_edge = edges >= 0
    everywhere = [
        asked.errors(np.where(is_edge, relation, -1))
        for relation in range(model.num_relations)
    ]
    used = [k for k in range(model.num_relations) if (edges == k).any()]
    found = asked.changes(early.structures)
    errors = {
        "found": asked.errors(edges),
        "shuffled": asked.errors(_shuffled(edges)),
        "none": asked.errors_of_none(edges),
        "single": np.stack(everywhere, axis=1),
    }
    merged = {
        (a, b): asked.errors(np.where(edges == b, a, edges))
        for a in used
        for b in used
        if a != b
    }
    ignorant = [errors["shuffled"], errors["none"], *everywhere]
    # A graph whose laws are right needs no grants. Where one that knows nothing gains
    # more by them, graphs are compared with them.
    chosen = int(any(is_worthwhile(e[1], errors["found"][0]) for e in ignorant))
    effects = relation_effects(model, params, some, early.structures)
    by_pairs, is_clear = None, not chosen and model.bank.is_additive
    much = _LITTLE * errors["none"][0].sum()
    if split is not None and is_clear and errors["found"][0].sum() > much:
        left = left_by_pairs(
            asked.changes,
            early.structures,
            found,
            int(np.argmax(effects)),
            split.windows(span)[0],
        )
        by_pairs = None if left is None else asked.by_block(left)
    alternatives = relayed = None
    if split is not None and is_series(some):
        left = found.expected - found.observed
        if span == 1 and left.shape[-1] == 1:
            strongest = strongest_per_edge(effects, edges)
            relayed = shares_by_relays(some, left[..., 0], edges == strongest)
        alternatives = compare(
            split.first,
            split.rest,
            (split.of_first(found.observed), split.of_rest(found.observed)),
            (split.of_first(left), split.of_rest(left)),
            span,
            _LARGEST_SQUARE,
        )
    return Evidence(
        **{name: values[chosen] for name, values in errors.items()},
        merged={pair: values[chosen] for pair, values in merged.items()},
        total=asked.by_block(found.observed),
        effects=effects,
        alternatives=alternatives,
        is_held_out=split is not None,
        is_granted=bool(chosen),
        consistency=consistency,
        is_in_step=shared_course(some) > SHARED,
        is_mixed=are_apart(some),
        by_pairs=by_pairs,
        relayed=relayed,
        has_laws=model.bank.has_laws,
    )


class _Asked:
    """The frames that graphs are asked about, and the errors they make there.

    Attributes:
      changes: What graphs expect.
    """

    def __init__(
        self,
        model: RelationalModel,
        params: ModelParams,
        dataset: TrajectoryDataset,
        split: parts.Split | None,
        node_modules: np.ndarray,
    ):
        span = model.bank.config.span
        self.changes = ChangeModel(model, params, dataset)
        self._model, self._node_modules = model, node_modules
        self._granted = None if split is None else Granted(split, span)
        self._counted = np.swapaxes(dataset.counted(span), 1, 2)
        if split is not None:
            _, self._counted = split.windows(span)
        self._is_asked = self._counted.any(axis=1)
        self._blocks = parts.blocks_of(dataset, self._is_asked)

    def by_block(self, errors: np.ndarray) -> np.ndarray:
        """Sums of squares `[blocks]` of errors `[tasks, nodes, windows, Y]`."""
        squares = np.sum(_clipped(errors * self._counted[..., None]), axis=(1, 3))
        return parts.sums(squares, self._blocks, self._is_asked)

    def errors(
        self,
        edges: np.ndarray,
        silent: np.ndarray | None = None,
        *,
        is_shifted: bool = False,
    ) -> np.ndarray:
        """Of a graph as it is, and with what every graph is granted, `[2, blocks]`.

        Args:
          edges: `[tasks, nodes, nodes]` relations, -1 where there is no edge.
          silent: The same shape, true at edges that send nothing.
          is_shifted: Whether senders are as they were half a recording away.
        """
        structures = TaskStructures(np.maximum(edges, 0), self._node_modules)
        found = self.changes(structures, silent, is_shifted=is_shifted)
        left = np.asarray(found.expected - found.observed, np.float64)
        granted = left if self._granted is None else self._granted(left)
        return np.stack([self.by_block(left), self.by_block(granted)])

    def errors_of_none(self, edges: np.ndarray) -> np.ndarray:
        """Without any of the edges, see `Evidence.none`, `[2, blocks]`."""
        is_edge = edges >= 0
        if self._model.bank.is_additive:
            return self.errors(edges, silent=is_edge)
        # A network that never went without messages cannot say what is without them.
        shifted = [
            self.errors(np.where(is_edge, relation, -1), is_shifted=True)
            for relation in range(self._model.num_relations)
        ]
        return np.stack(
            [min(errors, key=np.sum) for errors in zip(*shifted, strict=True)]
        )


def _search_parts(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    split: parts.Split | None,
    config: InferenceConfig,
) -> tuple[Relations, Consistency | None]:
    """Relations by the first frames, and whether both halves alone tell the same.

    Each part is all of the frames, of which some do not count, so that one program
    serves all.
    """

    def search(part):
        return infer_dataset(rng_key, model, params, part, config)

    if split is None:
        return search(dataset), None
    encoders = set(model.network.proposal.encoder.split("+"))
    if model.energy.form == "rollout" or encoders & {"mlp", "cnn"}:
        # These take frames that do not count for what was observed.
        return search(split.first), None
    early = search(dataset.seen(split.early))
    halves = parts.split(dataset, model.bank.config.span, share=0.5)
    if not config.num_samples or halves is None:
        return early, None
    counts = [mask.sum(axis=2) for mask in halves.windows(model.bank.config.span)]
    is_real = dataset.node_mask
    least = min(count[is_real].mean() for count in counts) / model.bank.config.span
    if least < _MIN_WINDOWS:
        return early, None
    return early, compare_parts(
        *(search(dataset.seen(half)) for half in (halves.early, halves.late))
    )


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
