"""The frames of every task, normalised."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import Frames
from modmeta.relational.data.normalization import Normalization, normalize


def gather_states(states: Any, tasks: jax.Array, supergraph: SuperGraph) -> Any:
    """States of the tasks of a batch: `[tasks, nodes, time, F]` to `[N, time, F]`.

    Or any tree of arrays with these first axes, `Frames` in particular.
    """
    rows = tasks[supergraph.node_system], supergraph.node_entity
    return jax.tree.map(lambda leaf: leaf[rows], states)


def host_states(dataset: TrajectoryDataset, normalization: Normalization) -> Frames:
    """Normalised frames, leaves `[tasks, nodes, time, ...]` (NumPy)."""
    states = normalize(jax.tree.map(np.asarray, normalization), dataset.states)
    states = np.asarray(np.swapaxes(states, 1, 2), np.float32)
    times = is_observed = is_present = breaks = None

    def of_nodes(values: np.ndarray, kind: type) -> np.ndarray:
        """`[tasks, time]` or `[tasks, time, nodes]` to `[tasks, nodes, time]`."""
        if values.ndim == 2:
            values = np.broadcast_to(values[..., None], dataset.states.shape[:3])
        return np.asarray(np.swapaxes(values, 1, 2), kind)

    if not dataset.is_regular:
        times = of_nodes(dataset.clock, np.float32)
    if dataset.frame_mask is not None:
        is_observed = of_nodes(dataset.frame_mask, bool)
        is_present = of_nodes(dataset.is_present, bool)
    if dataset.breaks is not None:
        breaks = of_nodes(dataset.breaks, bool)
    return Frames(states, times, is_observed, is_present, breaks)


def device_states(dataset: TrajectoryDataset, normalization: Normalization) -> Frames:
    """`host_states` on the device."""
    # `jnp.asarray` compiles a program for every new shape.
    return jax.device_put(host_states(dataset, normalization))
