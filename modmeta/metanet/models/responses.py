"""What units of networks compute at some inputs, as features of the nodes of a graph.

A graph metanetwork reads weights, and what a network does follows from them by many
products, which are slow to learn. With the values that its units take at a few inputs
beside the weights, as in Kofinas et al. 2024 (arXiv 2403.12143), every node knows what
it does. A symmetry moves values with their units, so nothing else changes.

Letters: B networks of one topology, M parameters, N nodes, S inputs, O units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.models.features import rows_to_graph

if TYPE_CHECKING:
    from modmeta.metanet.parameter_graphs.topology import Topology


def units_of(topology: Topology, name: str) -> np.ndarray:
    """The nodes `[O]` that the columns of a kernel `[I, O]` lead to, in their order.

    Args:
      topology: Architecture of the networks.
      name: Of the kernel, as in `topology.leaves`.

    Raises:
      ValueError: If there is no such kernel of two axes.
    """
    kernels = {leaf.name: leaf for leaf in topology.leaves if len(leaf.shape) == 2}
    if name not in kernels:
        raise ValueError(f"name: found {name!r}, expected one of {sorted(kernels)}")
    leaf = kernels[name]
    first = leaf.offset + np.arange(leaf.shape[1])
    return topology.receivers[topology.parameter_edges[first]]


def node_responses(
    num_nodes: int, units: Sequence[np.ndarray], values: Sequence[jax.Array]
) -> jax.Array:
    """Responses of all nodes: `[B, N, S]`, 0 where nothing is known.

    Args:
      num_nodes: N.
      units: Nodes `[O]` of every layer.
      values: What they compute, `[B, S, O]`.
    """
    nodes = np.concatenate(units)
    known = jnp.moveaxis(jnp.concatenate(values, axis=-1), -1, 1)
    empty = jnp.zeros((known.shape[0], num_nodes, known.shape[2]))
    return empty.at[:, nodes].set(known)


def graph_with_responses(
    topology: Topology, rows: jax.Array, *, bidirectional: bool = True
) -> graphs.GraphsTuple:
    """The graph of B networks and their responses.

    Args:
      topology: Architecture of the networks.
      rows: `[B, M + N * S]` parameters, then responses `[N, S]`; without the latter, a
        graph without responses.
      bidirectional: See `modmeta.metanet.models.features.to_graph`.

    Raises:
      ValueError: If the rows do not fit the topology.
    """
    count, num_nodes = topology.num_parameters, topology.num_nodes
    if rows.ndim != 2 or (rows.shape[1] - count) % num_nodes:
        raise ValueError(
            f"rows: found shape {rows.shape}, expected {count} parameters and a "
            f"multiple of {num_nodes} responses per network"
        )
    graph = rows_to_graph(topology, rows[:, :count], bidirectional=bidirectional)
    if rows.shape[1] == count:
        return graph
    responses = rows[:, count:].reshape(len(rows), num_nodes, -1)
    responses = jnp.moveaxis(responses, 1, 0)
    return graph._replace(nodes=graph.nodes._replace(responses=responses))
