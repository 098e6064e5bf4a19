"""What a model says of the changes of every window, under any structure.

Both ends of a window are observed here: this tells how well structures explain the
data, not how well they predict. Letters: W windows, Y predicted changes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import Frames
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.observations import observe
from modmeta.relational.tasks.batches import all_batches, unstacked
from modmeta.relational.tasks.states import host_states
from modmeta.relational.tasks.structures import (
    TaskStructures,
    gather,
    gather_structure,
)

# Systems at once: one compilation for however many there are.
_BATCH_SIZE = 20


class Changes(NamedTuple):
    """Changes over the windows of all systems, in units of the typical change.

    Attributes:
      expected: `[tasks, nodes, W, Y]` by the model.
      observed: `[tasks, nodes, W, Y]`, those beyond constant velocity; zero where
        nothing was observed, as then `expected`.
      effects: What nodes have of their own under this structure, leaves
        `[tasks, nodes, ...]`; None where all are alike.
      scale: `[tasks, nodes, W, Y]` of errors, as far as the model tells some from
        others.
    """

    expected: np.ndarray
    observed: np.ndarray
    effects: Effects | None
    scale: np.ndarray | None = None


class ChangeModel:
    """Expected changes of the same systems under one structure after the other.

    Args:
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units.
    """

    def __init__(
        self, model: RelationalModel, params: ModelParams, dataset: TrajectoryDataset
    ):
        self._model, self._params = model, params
        dataset = model.read(dataset)
        self._shape = (dataset.num_tasks, dataset.max_nodes)
        self._frames = host_states(dataset, params.preprocessing.normalization)
        edges = model.candidate_edges(dataset)
        self._batches = unstacked(all_batches(dataset.num_nodes, _BATCH_SIZE, edges))

    def __call__(
        self,
        structures: TaskStructures,
        silent: np.ndarray | None = None,
        *,
        is_shifted: bool = False,
        effects: Effects | None = None,
    ) -> Changes:
        """Changes under structures, some of whose edges may say nothing.

        Args:
          structures: One per system.
          silent: `[tasks, nodes, nodes]` true at edges that are left out.
          is_shifted: Whether senders are heard as they were half a recording away.
          effects: What nodes have of their own, leaves `[tasks, nodes, ...]`; None
            for what is most likely under the structures.
        """
        structures = jax.tree.map(np.asarray, structures)
        if silent is None:
            silent = np.zeros(structures.edge_modules.shape, bool)
        found = []
        for batch in self._batches:
            is_silent, _ = gather_structure(
                structures._replace(edge_modules=silent), *batch
            )
            (frames, own), graph, chosen = gather(
                batch, (self._frames, effects), structures
            )
            changes = _changes(
                self._model,
                self._params,
                frames,
                graph,
                chosen,
                is_silent,
                np.bool_(is_shifted),
                own,
            )
            found.append(jax.device_get(changes))

        def by_task(*leaves):
            """`[S, nodes, ...]` of all batches to `[tasks, nodes, ...]`."""
            num_tasks, num_nodes = self._shape
            leaf = np.concatenate(leaves)[:num_tasks]
            missing = num_nodes - leaf.shape[1]
            return np.pad(leaf, ((0, 0), (0, missing), *[(0, 0)] * (leaf.ndim - 2)))

        return jax.tree.map(by_task, *found)


def median_factor(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    structures: TaskStructures,
) -> float:
    """Factor by which messages move the median entity; 1 where all are alike.

    Factors and laws are known up to one common scale: a law is shown as that of such an
    entity.
    """
    if not model.bank.has_effects:
        return 1.0
    effects = ChangeModel(model, params, dataset)(structures).effects
    return float(np.median(effects.factor[dataset.node_mask]))


@functools.partial(jax.jit, static_argnames="model")
def _changes(
    model: RelationalModel,
    params: ModelParams,
    frames: Frames,
    graph: SuperGraph,
    structure: search.Structure,
    is_silent: jax.Array,
    is_shifted: jax.Array,
    effects: Effects | None,
) -> Changes:
    """Changes of one batch, leaves `[S, nodes, ...]`."""
    modules = model.network.modules(params)
    observed = observe(modules, graph, frames)
    half = observed.motion.start.shape[1] // 2
    senders = jax.tree.map(
        lambda leaf: jnp.where(is_shifted, jnp.roll(leaf, half, axis=1), leaf),
        observed.motion,
    )
    outputs = modules.outputs(
        structure,
        observed.motion,
        graph.slot_senders,
        graph.slot_mask & ~is_silent,
        observed.windows,
        senders,
    )
    if model.bank.has_effects:
        if effects is None:
            counted = (observed.targets, observed.weights, observed.unit_changes)
            effects, _ = modules.effects(outputs, *counted)
        outputs = modules.with_effects(outputs, effects, observed.unit_changes)
    expected, log_scale = modules.predict(outputs)
    if observed.weights is not None:
        is_counted = observed.weights[..., None] > 0
        expected = jnp.where(is_counted, expected, 0.0)

    def of_systems(leaf):
        mask = graph.system_mask.reshape(
            *graph.system_mask.shape, *(1,) * (leaf.ndim - 1)
        )
        return jnp.where(mask, leaf[graph.system_nodes], 0.0)

    changes = Changes(expected, observed.targets, effects, jnp.exp(log_scale))
    return jax.tree.map(of_systems, changes)
