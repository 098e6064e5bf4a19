"""Symmetries of positive scale: units whose function commutes with a positive factor.

A unit with a rectifier, `f(a x) = a f(x)` for a > 0, may have its incoming weights and
bias multiplied by a and its outgoing weights divided by a: the network computes the
same function (Badrinarayanan et al. 2015, arXiv 1511.01029). A *group* is a set of
units that can only be scaled together, because edges of constant value join them: a
channel and its global mean, for example.

Left alone are groups with a unit that is an input or an output, has a function that
is not homogeneous, or combines its inputs otherwise than by sums, maxima and minima
(normalisation, attention, products); groups that reach a layer other than a linear
one; groups with a parameter that several edges carry; and groups on a cycle, as the
channels of a residual stream and those of its branches are. This is a subgroup of all
symmetries: scales of queries against keys, for example, are not in it.

Letters: N nodes, M parameters, S groups.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.parameter_graphs.vocabulary import EDGE_TYPES, NODE_TYPES

# Units that are sums of parameters times senders.
_LINEAR_NODES = (
    "linear",
    "convolution",
    "set",
    "cyclic",
    "embedding",
    "grid_feature",
    "sum",
)
# Units whose value has the scale that all their senders share.
_PASSING_NODES = (
    "maximum",
    "minimum",
    "view",
    "copy",
    "slice",
    "join",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "pool_sum",
    "pool_max",
    "pool_min",
)
_LINEAR_EDGES = (
    "linear",
    "convolution",
    "bias",
    "table",
    "embedding",
    "set_pointwise",
    "set_mean",
    "cyclic",
    "grid",
)


class ScaleGroups(NamedTuple):
    """Which units scale together.

    Attributes:
      node_groups: `[N]` group of every node; 0 for the nodes left alone.
      levels: `[S + 1]` longest path of parameters from nodes left alone; 0 for group 0.
    """

    node_groups: np.ndarray
    levels: np.ndarray


def _has_type(types: np.ndarray, vocabulary: Any, names: tuple[str, ...]) -> np.ndarray:
    return np.isin(types, [vocabulary.id(name) for name in names])


def _is_left_alone(topology: Topology) -> np.ndarray:
    """`[N]` nodes that cannot scale, judged one by one."""
    linear = _has_type(topology.node_types, NODE_TYPES, _LINEAR_NODES)
    passing = _has_type(topology.node_types, NODE_TYPES, _PASSING_NODES)
    is_left = ~(linear | passing) | ~topology.node_homogeneous
    is_left[topology.inputs] = True
    is_left[topology.outputs] = True
    is_parameter = topology.edge_parameters >= 0
    counts = np.bincount(
        topology.edge_parameters[is_parameter], minlength=topology.num_parameters
    )
    is_shared = is_parameter & (counts[topology.edge_parameters] > 1)
    is_linear = linear[topology.receivers] & _has_type(
        topology.edge_types, EDGE_TYPES, _LINEAR_EDGES
    )
    is_obstacle = is_parameter & (is_shared | ~is_linear)
    is_left[topology.senders[is_obstacle]] = True
    is_left[topology.receivers[is_obstacle]] = True
    return is_left


def _components(senders, receivers, size: int, connection: str) -> np.ndarray:
    edges = np.ones(len(senders), bool), (senders, receivers)
    matrix = sparse.coo_array(edges, shape=(size, size))
    return csgraph.connected_components(matrix, connection=connection)[1]


def _renumber(groups: np.ndarray, is_left: np.ndarray) -> np.ndarray:
    """Numbers 1, 2, ... for the groups without a node that is left alone, 0 else."""
    lefts = np.unique(groups[is_left])
    kept = np.setdiff1d(groups, lefts)
    numbers = np.zeros(groups.max(initial=0) + 1, np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[groups]


def scale_groups(topology: Topology) -> ScaleGroups:
    """Finds the groups of units that can be scaled."""
    is_constant = topology.edge_parameters < 0
    groups = _components(
        topology.senders[is_constant],
        topology.receivers[is_constant],
        topology.num_nodes,
        "weak",
    )
    groups = _renumber(groups, _is_left_alone(topology))

    def links() -> tuple[np.ndarray, np.ndarray]:
        ends = groups[topology.senders], groups[topology.receivers]
        is_link = ~is_constant & (ends[0] > 0) & (ends[1] > 0)
        return np.unique(np.stack(ends)[:, is_link], axis=1)

    senders, receivers = links()
    circles = _components(senders, receivers, groups.max(initial=0) + 1, "strong")
    is_circular = np.bincount(circles)[circles] > 1
    is_circular[senders[senders == receivers]] = True
    groups = _renumber(groups, (groups == 0) | is_circular[groups])

    senders, receivers = links()
    levels = np.ones(groups.max(initial=0) + 1, np.int32)
    levels[0] = 0
    while np.any(is_low := levels[receivers] <= levels[senders]):
        np.maximum.at(levels, receivers[is_low], levels[senders[is_low]] + 1)
    return ScaleGroups(groups, levels)


def sample_scaling(
    rng_key: jax.Array, topology: Topology, *, spread: float = 0.5
) -> jax.Array:
    """Draws a factor for every node.

    Args:
      rng_key: Consumed.
      topology: Architecture.
      spread: Standard deviation of the logarithm of the factors.

    Returns:
      `[N]` log-normal factors, equal within a group, 1 at nodes left alone.
    """
    groups = scale_groups(topology)
    logarithms = spread * jax.random.normal(rng_key, (len(groups.levels),))
    return jnp.exp(logarithms.at[0].set(0.0))[groups.node_groups]


def apply_scaling(topology: Topology, variables: Any, factors: jax.Array) -> Any:
    """Multiplies the output of every unit by a factor, the network's output by none.

    Args:
      topology: Architecture.
      variables: Tree as `trace` was given.
      factors: `[N]`, positive, as drawn by `sample_scaling`.

    Returns:
      Variables of a network with the same function.

    Raises:
      ValueError: If the variables or the factors do not fit the topology.
    """
    if jnp.shape(factors) != (topology.num_nodes,):
        raise ValueError(
            f"factors: found shape {jnp.shape(factors)}, "
            f"expected ({topology.num_nodes},), one per node"
        )
    edges = topology.parameter_edges
    ratios = factors[topology.receivers[edges]] / factors[topology.senders[edges]]
    return topology.unflatten(topology.flatten(variables) * ratios, variables)


def canonicalize_scaling(topology: Topology, variables: Any) -> Any:
    """The network of the same orbit whose groups have incoming weights of norm 1.

    The norm is over all incoming parameters of a group, biases included. A group whose
    incoming parameters are all zero stays as it is.

    Args:
      topology: Architecture.
      variables: Tree as `trace` was given.

    Returns:
      Variables of a network with the same function, the same for all networks that
      `apply_scaling` makes of one.

    Raises:
      ValueError: If the variables do not fit the topology.
    """
    node_groups, levels = scale_groups(topology)
    vector = topology.flatten(variables)
    edges = topology.parameter_edges
    senders = node_groups[topology.senders[edges]]
    receivers = node_groups[topology.receivers[edges]]
    factors = jnp.ones(levels.shape)
    # Senders have lower levels: their factors are known when a level is reached.
    for level in range(1, levels.max(initial=0) + 1):
        incoming = np.nonzero(levels[receivers] == level)[0]
        scaled = vector[incoming] / factors[senders[incoming]]
        squares = jnp.zeros(levels.shape).at[receivers[incoming]].add(scaled**2)
        norms = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
        factors = jnp.where(levels == level, 1.0 / norms, factors)
    return apply_scaling(topology, variables, factors[node_groups])
