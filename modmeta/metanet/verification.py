"""Checks that the symmetries of a traced network are those of its function.

For rules that a user adds, and for models of his own: samples of the permutations that
a topology allows must leave the function of the network and the output of an invariant
metanetwork as they are, and permute the output of an equivariant one (Lim et al. 2023,
arXiv 2312.04501, Propositions 1 and 2).

Letters: s symmetries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.models.features import to_graph
from modmeta.metanet.models.gmn import GraphMetanet, MetanetConfig
from modmeta.metanet.models.readouts import GraphReadout
from modmeta.metanet.parameter_graphs import symmetries
from modmeta.metanet.parameter_graphs.calls import run
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.parameter_graphs.tracing import trace

CONFIG = MetanetConfig(width=8, num_blocks=2, reverse_messages=True, outputs_nodes=True)


class SymmetryErrors(NamedTuple):
    """Largest deviations, relative to the largest output.

    Attributes:
      function: `[s]` of the network's output under permuted parameters.
      invariant: `[s]` of the output of a metanetwork that reads permuted parameters.
      equivariant: `[s]` of the embeddings of all edges and nodes by a metanetwork that
        reads permuted parameters, from the permuted embeddings.
      num_moved: `[s]` parameters that a symmetry puts in another place.
      is_round_trip_exact: `[s]` whether permuted parameters come back from the values
        of their edges to the bit.
    """

    function: np.ndarray
    invariant: np.ndarray
    equivariant: np.ndarray
    num_moved: np.ndarray
    is_round_trip_exact: np.ndarray


class _Reader(nn.Module):
    """Embeddings of nodes and edges, and one output per graph."""

    @nn.compact
    def __call__(self, graph: graphs.GraphsTuple) -> tuple[jax.Array, ...]:
        embeddings = GraphMetanet(CONFIG, name="metanet")(graph)
        readout = GraphReadout(4, CONFIG.width, uses_nodes=True, name="readout")
        return embeddings.nodes, embeddings.edges, readout(embeddings, graph)


@jax.jit
def _init(graph: graphs.GraphsTuple) -> Any:
    return _Reader().init(jax.random.key(0), graph)


def _random_weights(graph: graphs.GraphsTuple) -> Any:
    """Weights of the metanetwork, the same for graphs of any size; nothing compiles.

    Kernels keep the size of what they map. Biases are not zero and scales not equal,
    as they are at first, which hides what they do.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if leaf.ndim > 1:
            noise = noise / np.sqrt(leaf.shape[-2])
        else:
            noise = (path[-1].key == "scale") + 0.1 * noise
        return noise.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(_init, graph))


@jax.jit
def _read(weights: Any, graph: graphs.GraphsTuple) -> tuple[jax.Array, ...]:
    return _Reader().apply(weights, graph)


def check_symmetries(
    rng: np.random.Generator,
    model: nn.Module | Callable,
    variables: Any,
    *inputs: Any,
    num_symmetries: int = 16,
    allow_unused: bool = False,
    **options: Any,
) -> SymmetryErrors:
    """Samples symmetries of a network and measures what they change.

    Sizes of graphs are rounded up to powers of four, so that networks of like size
    share a compilation of the metanetwork.

    Args:
      rng: Source of the symmetries.
      model: The network, as for `trace`.
      variables: Its variables. Zero biases and equal scales hide errors: better
        random ones.
      *inputs: Inputs of the network, any values.
      num_symmetries: s, at least 1.
      allow_unused: As for `trace`.
      **options: Given to `model.apply`, such as `train=False`.

    Returns:
      The errors.

    Raises:
      UnsupportedLayerError: If the model cannot be traced.
      ValueError: If there are no symmetries to sample.
    """
    if num_symmetries < 1:
        raise ValueError(f"num_symmetries: found {num_symmetries}, expected at least 1")
    topology = trace(model, variables, *inputs, allow_unused=allow_unused, **options)
    nodes = [symmetries.sample_symmetry(rng, topology) for _ in range(num_symmetries)]
    moves = [symmetries.parameter_permutation(topology, item) for item in nodes]
    vector = np.asarray(topology.flatten(variables))
    vectors = np.tile(vector, (1 + num_symmetries, 1))
    for row, move in zip(vectors[1:], moves, strict=True):
        row[move] = vector
    outputs, values, returned = _run(model, topology, vectors, inputs, options)
    identity = np.arange(topology.num_parameters)
    return SymmetryErrors(
        np.array([_relative(row, outputs[0]) for row in outputs[1:]]),
        *_metanet_errors(topology, values, nodes),
        num_moved=np.array([np.sum(move != identity) for move in moves]),
        is_round_trip_exact=np.all(returned == vectors, axis=1)[1:],
    )


def _run(model, topology, vectors, inputs, options) -> tuple[np.ndarray, ...]:
    """Outputs, edge values, and the parameters that come back from those.

    One row per network each, in one compiled function.
    """

    def one(vector):
        variables = topology.unflatten(vector)
        outputs = jax.tree.leaves(run(model, variables, *inputs, **options))
        values = topology.edge_values(variables)
        returned = topology.flatten(topology.to_parameters(values))
        return jnp.concatenate([leaf.ravel() for leaf in outputs]), values, returned

    return jax.device_get(jax.jit(lambda rows: jax.lax.map(one, rows))(vectors))


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    scale = np.abs(expected).max()
    return float(np.abs(found - expected).max() / (scale if scale else 1.0))


def _metanet_errors(
    topology: Topology, values: np.ndarray, nodes: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the invariant and of the equivariant outputs."""
    copies = [to_graph(topology, row, bidirectional=False) for row in values]
    count = len(copies)
    budget = graphs.GraphBudget(
        _rounded_up(count * topology.num_nodes + 1),
        _rounded_up(count * topology.num_edges),
        count + 1,
        _rounded_up(max(map(graphs.num_rows, copies)), 64),
    )
    batch = graphs.batch_graphs(copies, budget)
    # One node and one edge are enough to draw weights, and are traced once for all.
    weights = _random_weights(jax.tree.map(lambda leaf: leaf[:1], batch))
    node_outputs, edge_outputs, outputs = jax.device_get(_read(weights, batch))

    def per_graph(values, size):
        return values[: count * size].reshape(count, size, -1)

    # Edges of a graph are sorted by receiver.
    order = np.argsort(np.asarray(topology.receivers), kind="stable")
    expected_nodes, *found_nodes = per_graph(node_outputs, topology.num_nodes)
    sorted_edges = per_graph(edge_outputs, topology.num_edges)
    edges = np.empty_like(sorted_edges)
    edges[:, order] = sorted_edges
    expected_edges, *found_edges = edges
    equivariant = []
    for item, found_node, found_edge in zip(
        nodes, found_nodes, found_edges, strict=True
    ):
        edge = symmetries.edge_permutation(topology, item)
        equivariant.append(
            max(
                _relative(found_node[item], expected_nodes),
                _relative(found_edge[edge], expected_edges),
            )
        )
    expected, *found = outputs[:count]
    invariant = [_relative(row, expected) for row in found]
    return np.array(invariant), np.array(equivariant)


def _rounded_up(size: int, least: int = 4096) -> int:
    """The next power of four, or the least number."""
    return max(least, 1 << 2 * math.ceil(math.log2(max(size, 2)) / 2))
