"""Permutations of units that leave the function of a network as it is.

A permutation of nodes that maps a topology to itself permutes its edges, hence the
parameters on them; the network with permuted parameters computes the same function
(Lim et al. 2023, arXiv 2312.04501, Section 3 and Proposition 2). The classes of a
topology describe a group of such permutations; where units of different classes may
change places, such as those of two experts, `automorphisms` finds more. Samples are
drawn from both.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs import automorphisms
from modmeta.metanet.parameter_graphs.automorphisms import (
    edge_permutation as edge_permutation,
)
from modmeta.metanet.parameter_graphs.automorphisms import (
    parameter_permutation as parameter_permutation,
)
from modmeta.metanet.parameter_graphs.topology import Topology

# So many draws nearly always take a unit of a class to all places that it may have.
_NUM_KNOWN = 12


# Of the graphs in use, the symmetries beyond their classes.
_MORE: weakref.WeakKeyDictionary[Topology, tuple[np.ndarray, ...]] = (
    weakref.WeakKeyDictionary()
)


def sample_symmetry(rng: np.random.Generator, topology: Topology) -> np.ndarray:
    """Draws a permutation of nodes that leaves the function alone.

    Uniform over the group of the classes; where there are more symmetries than those,
    a product of such draws and of the others in random order.

    Args:
      rng: Source of randomness.
      topology: The graph.

    Returns:
      `[N]`: node i takes the place of node `permutation[i]`. An automorphism of the
      topology.

    Raises:
      TypeError: If the source is no generator of NumPy.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng: found {type(rng).__name__}, expected a generator, such as "
            "numpy.random.default_rng(0)"
        )
    permutation = class_symmetry(rng, topology)
    more = more_symmetries(topology)
    # A number of factors of its own: swaps alone would give even permutations only.
    for index in rng.integers(2 * len(more), size=6 * len(more)) if more else ():
        if index < len(more):
            permutation = permutation[more[index]][class_symmetry(rng, topology)]
    return permutation


def more_symmetries(topology: Topology) -> tuple[np.ndarray, ...]:
    """Permutations `[N]` of nodes that classes do not describe.

    Together with those of the classes they generate all symmetries that were found.
    The search happens once per topology.
    """
    if topology not in _MORE:
        rng = np.random.default_rng(0)
        known = [class_symmetry(rng, topology) for _ in range(_NUM_KNOWN)]
        _MORE[topology] = tuple(automorphisms.search(topology, known))
    return _MORE[topology]


def class_symmetry(rng: np.random.Generator, topology: Topology) -> np.ndarray:
    """Draws a permutation `[N]` of nodes, uniform over the group of the classes."""
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
    """Natural logarithm of the number of permutations that the classes describe.

    Symmetries of `more_symmetries` come on top.
    """
    total = 0.0
    for size, parent, is_fixed, factors in topology.classes:
        groups = topology.classes[parent].size if parent >= 0 else 1
        if not is_fixed and not factors:
            total += groups * math.lgamma(size // groups + 1)
    return total


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
    vector = topology.exact_vector(variables)
    if isinstance(vector, jax.core.Tracer):
        moved = jnp.zeros_like(vector).at[permutation].set(vector)
    else:  # nothing to compile
        moved = np.empty_like(vector)
        moved[permutation] = vector
    # Where float64 is not traced, every bit moves along.
    return topology.unflatten(moved, variables)
