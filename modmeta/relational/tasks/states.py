"""The frames of every task, normalised, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.normalization import Normalization, normalize


def gather_states(
    states: jax.Array, tasks: jax.Array, supergraph: SuperGraph
) -> jax.Array:
    """States of the tasks of a batch: `[tasks, nodes, time, F]` to `[N, time, F]`."""
    return states[tasks[supergraph.node_system], supergraph.node_entity]


def device_states(dataset: TrajectoryDataset, normalization: Normalization):
    """Normalised states on the device, `[tasks, nodes, time, F]`."""
    states = normalize(jax.tree.map(np.asarray, normalization), dataset.states)
    return jnp.asarray(np.swapaxes(states, 1, 2), jnp.float32)
