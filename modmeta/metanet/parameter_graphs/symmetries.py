"""Permutations of units that leave the function of a network as it is.

A permutation of nodes that maps a topology to itself permutes its edges, hence the
parameters on them; the network with permuted parameters computes the same function
(Lim et al. 2023, arXiv 2312.04501, Section 3 and Proposition 2). The classes of a
topology describe a group of such permutations, from which samples are drawn.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs.topology import Topology


def sample_symmetry(rng: np.random.Generator, topology: Topology) -> np.ndarray:
    """Draws a permutation of nodes, uniform over the group of the classes.

    Args:
      rng: Source of randomness.
      topology: The graph.

    Returns:
      `[N]`: node i takes the place of node `permutation[i]`. An automorphism of the
      topology.
    """
    moves: list[np.ndarray] = []
    for size, parent, is_fixed, factors in topology.classes:
        if is_fixed:
            moves.append(np.arange(size))
        elif factors:
            moves.append(_derived_move(factors, moves))
        elif parent < 0:
            moves.append(rng.permutation(size))
        else:
            outer = moves[parent]
            width = size // len(outer)
            inner = rng.permuted(np.tile(np.arange(width), (len(outer), 1)), axis=1)
            moves.append((outer[:, None] * width + inner).ravel())
    sizes = [entry.size for entry in topology.classes]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    classes, slots = topology.node_classes, topology.node_slots
    targets = np.concatenate([np.zeros(0, np.int64), *moves])[starts[classes] + slots]
    # Nodes of one block and class have slots of their own.
    place = np.lexsort((slots, classes, topology.node_blocks))
    image = np.lexsort((targets, classes, topology.node_blocks))
    permutation = np.empty(topology.num_nodes, np.int64)
    permutation[image] = place
    return permutation


def _derived_move(factors: tuple, moves: list[np.ndarray]) -> np.ndarray:
    """Where the slots of a derived class go: each to the one where its factors go."""
    columns, images = [], []
    for classes, slots in factors:
        moved = np.empty_like(slots)
        for index in np.unique(classes):
            chosen = classes == index
            moved[chosen] = moves[index][slots[chosen]]
        columns += [classes, slots]
        images += [classes, moved]
    result = np.empty(len(factors[0][0]), np.int64)
    result[np.lexsort(images)] = np.lexsort(columns)
    return result


def group_order_logarithm(topology: Topology) -> float:
    """Natural logarithm of the number of permutations that the classes describe."""
    total = 0.0
    for size, parent, is_fixed, factors in topology.classes:
        groups = topology.classes[parent].size if parent >= 0 else 1
        if not is_fixed and not factors:
            total += groups * math.lgamma(size // groups + 1)
    return total


def edge_permutation(topology: Topology, node_permutation: np.ndarray) -> np.ndarray:
    """The permutation of edges that a permutation of nodes induces.

    Args:
      topology: The graph.
      node_permutation: `[N]`, as `sample_symmetry` returns it.

    Returns:
      `[E]`: edge i takes the place of edge `permutation[i]`.

    Raises:
      ValueError: If it is not a permutation of the nodes, or does not map the graph
        with all its features to itself.
    """
    permutation = np.asarray(node_permutation)
    if not np.array_equal(np.sort(permutation), np.arange(topology.num_nodes)):
        raise ValueError(
            f"node_permutation: found an array of shape {permutation.shape}, expected "
            f"a permutation of {topology.num_nodes} nodes"
        )
    for field in (
        "node_types",
        "node_layers",
        "node_orders",
        "node_functions",
        "node_homogeneous",
        "node_attributes",
    ):
        values = getattr(topology, field)
        if not np.array_equal(values[permutation], values):
            raise ValueError(
                f"node_permutation: found nodes of different {field} in each other's "
                "place, expected an automorphism"
            )
    features = (
        topology.edge_types,
        topology.edge_layers,
        topology.edge_constants,
        topology.edge_parameters >= 0,
        *topology.edge_positions.T,
    )
    keys = (topology.senders, topology.receivers, *features)
    images = permutation[topology.senders], permutation[topology.receivers], *features
    place, image = np.lexsort(keys), np.lexsort(images)
    is_equal_to_next = np.ones(max(topology.num_edges - 1, 0), bool)
    for key, moved in zip(keys, images, strict=True):
        ordered = key[place]
        if not np.array_equal(ordered, moved[image]):
            raise ValueError(
                "node_permutation: found edges without an equal edge in their new "
                "place, expected an automorphism"
            )
        is_equal_to_next &= ordered[1:] == ordered[:-1]
    if is_equal_to_next.any():
        edge = place[np.argmax(is_equal_to_next)]
        raise ValueError(
            f"topology: found parallel edges that cannot be told apart, such as edge "
            f"{edge}, expected edges to differ in their ends, types or positions"
        )
    result = np.empty(topology.num_edges, np.int64)
    result[image] = place
    return result


def parameter_permutation(
    topology: Topology, node_permutation: np.ndarray
) -> np.ndarray:
    """The permutation of the vector of parameters that one of nodes induces.

    Args:
      topology: The graph.
      node_permutation: `[N]`.

    Returns:
      `[M]`: parameter i takes the place of parameter `permutation[i]`.

    Raises:
      ValueError: As `edge_permutation`, or if edges of one parameter part.
    """
    edges = edge_permutation(topology, node_permutation)
    parameters = topology.edge_parameters
    result = parameters[edges[topology.parameter_edges]]
    carries = parameters >= 0
    if not np.array_equal(parameters[edges][carries], result[parameters[carries]]):
        raise ValueError(
            "node_permutation: found edges of one parameter that move to edges of "
            "different parameters, expected them to stay together"
        )
    return result


def permute_parameters(
    topology: Topology, variables: Any, node_permutation: np.ndarray
) -> Any:
    """The variables of the network whose units have changed places.

    Args:
      topology: The graph.
      variables: Tree as `trace` was given.
      node_permutation: `[N]`, as `sample_symmetry` returns it.

    Returns:
      Variables of the same function.

    Raises:
      ValueError: As `parameter_permutation`, or if the variables do not fit.
    """
    permutation = parameter_permutation(topology, node_permutation)
    vector = topology.flatten(variables)
    moved = jnp.zeros_like(vector).at[permutation].set(vector)
    return topology.unflatten(moved, variables)
