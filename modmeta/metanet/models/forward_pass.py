"""A graph metanetwork that runs the network it reads (Lim et al. 2023, Proposition 4).

Metanetworks can express the forward pass of any feed-forward network on its
computation graph (arXiv 2312.04501). Here the weights are set by hand, and one step of
message passing computes one layer:

    x_n <- x_n                          at inputs and biases
    x_n <- f_n(sum over edges (m -> n, w) of message(x_m, w))      elsewhere

This is a metanetwork with sum aggregation, one number per node, edges that keep their
value, and f_n chosen by a node feature. The message must multiply. `product` is
bilinear and makes the pass exact, but no ReLU network is bilinear; `ReluProduct` is a
ReLU network with one hidden layer, as the messages of
`modmeta.metanet.models.gmn` are, and its error has a bound that falls with the square
of its width. The graphs are our parameter graphs: for networks of dense layers and
residual sums they are computation graphs too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.models.features import to_graph
from modmeta.metanet.parameter_graphs.functions import fingerprint_of
from modmeta.metanet.parameter_graphs.vocabulary import NODE_TYPES
from modmeta.networks import MLP

if TYPE_CHECKING:
    from modmeta.metanet.parameter_graphs.topology import Topology

Message = Callable[[jax.Array, jax.Array], jax.Array]

# Units whose value is a function of the weighted sum of their incoming edges.
SUMMING_TYPES = ("linear", "sum", "view", "copy")


def product(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The bilinear message: value times weight."""
    return values * weights


@dataclasses.dataclass(frozen=True)
class ReluProduct:
    """A message by a ReLU network with one hidden layer that nearly multiplies.

    4 x w = (x + w)^2 - (x - w)^2, and every square is interpolated between equidistant
    points, which a sum of shifted ReLUs does.

    Attributes:
      bound: Largest magnitude of values and weights that the error bound covers.
      num_pieces: Pieces of the interpolation; the hidden layer has four units for each.
    """

    bound: float
    num_pieces: int

    @property
    def error(self) -> float:
        """Bound on the error of one message."""
        return self.bound**2 / (4 * self.num_pieces**2)

    def parameters(self) -> dict:
        """Parameters of `MLP((4 * num_pieces, 1))` that multiply its two inputs."""
        spacing = 2 * self.bound / self.num_pieces
        knots = spacing * np.arange(self.num_pieces)
        slopes = spacing * np.where(np.arange(self.num_pieces) == 0, 1.0, 2.0)
        directions = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])
        signs = np.array([1, 1, -1, -1])
        layers = {
            "layer_0": {
                "kernel": np.repeat(directions, self.num_pieces, axis=0).T,
                "bias": -np.tile(knots, 4),
            },
            "layer_1": {
                "kernel": (signs[:, None] * slopes[None] / 4).reshape(-1, 1),
                "bias": np.zeros(1),
            },
        }
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), layers)

    def __call__(self, values: jax.Array, weights: jax.Array) -> jax.Array:
        """Maps values `[E]` and weights `[E]` to about their products."""
        module = MLP((4 * self.num_pieces, 1))
        inputs = jnp.stack([values, weights], axis=-1)
        return module.apply({"params": self.parameters()}, inputs)[..., 0]


def num_rounds(topology: Topology) -> int:
    """Edges on the longest path: for a multilayer perceptron, its number of layers.

    Raises:
      ValueError: If the graph has a cycle.
    """
    depths = np.zeros(topology.num_nodes, np.int64)
    for _ in range(topology.num_nodes + 1):
        deeper = depths.copy()
        np.maximum.at(deeper, topology.receivers, depths[topology.senders] + 1)
        if (deeper == depths).all():
            return int(depths.max(initial=0))
        depths = deeper
    raise ValueError("topology: found a cycle, expected a feed-forward network")


def forward_pass(
    topology: Topology,
    edge_values: jax.Array,
    inputs: jax.Array,
    activation: Callable[[jax.Array], jax.Array],
    *,
    message: Message = product,
    rounds: int | None = None,
) -> jax.Array:
    """Runs a network by message passing over its parameter graph.

    Args:
      topology: A network of dense layers, elementwise functions and residual sums.
      edge_values: `[E]` values of its edges.
      inputs: `[inputs]` input of the network.
      activation: Function of all units that are not linear.
      message: From values `[E]` of senders and weights `[E]` to messages `[E]`.
      rounds: Number of steps, by default `num_rounds`.

    Returns:
      `[outputs]` output of the network.

    Raises:
      ValueError: If a unit does something else than sum its incoming edges, or if its
        function is neither linear nor the activation.
    """
    is_fixed, is_active = _unit_kinds(topology, activation)
    graph = to_graph(topology, edge_values, bidirectional=False)
    values = np.where(topology.node_types == NODE_TYPES.id("bias"), 1.0, 0.0)
    values = jnp.asarray(values, jnp.float32).at[topology.inputs].set(inputs)
    for _ in range(num_rounds(topology) if rounds is None else rounds):
        messages = message(values[graph.senders], jnp.asarray(graph.edges.values))
        total = graphs.segment_sum(
            messages, graph.receivers, topology.num_nodes, is_sorted=True
        )
        updated = jnp.where(is_active, activation(total), total)
        values = jnp.where(is_fixed, values, updated)
    return values[topology.outputs]


def _unit_kinds(topology, activation) -> tuple[np.ndarray, np.ndarray]:
    """Which units keep their value, and which apply the activation, `[N]` each."""
    is_fixed = np.isin(
        topology.node_types, [NODE_TYPES.id(name) for name in ("input", "bias")]
    )
    is_summing = np.isin(
        topology.node_types, [NODE_TYPES.id(name) for name in SUMMING_TYPES]
    )
    if not (is_fixed | is_summing).all():
        found = topology.node_types[~(is_fixed | is_summing)]
        names = sorted({NODE_TYPES.name(int(index)) for index in found})
        raise ValueError(
            f"node_types: found {names}, expected input, bias or {SUMMING_TYPES}"
        )

    def applies(function):
        with jax.ensure_compile_time_eval():
            expected = fingerprint_of(lambda x: function(jnp.asarray(x)))
        return np.isclose(topology.node_functions, expected[None], atol=1e-5).all(-1)

    is_linear = applies(lambda probes: probes)
    is_active = applies(activation) & ~is_linear
    if not (is_linear | (is_active & ~is_fixed)).all():
        raise ValueError(
            "node_functions: found a unit that is neither linear nor applies the "
            "activation, or an input that is not linear; expected one of the two"
        )
    return is_fixed, is_active
