"""What learns: modules as pairs of functions over the batches of a source.

Letters: n networks, b networks of a batch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import flax.linen as nn
import jax

from modmeta import graphs
from modmeta.metanet.models.responses import graph_with_responses

if TYPE_CHECKING:
    from modmeta.metanet.models.neural_graphs import NeuralGraphTemplate
    from modmeta.metanet.parameter_graphs.topology import Topology


class Predictor(Protocol):
    """What learns; hashable, since compiled programs are kept by it."""

    def init(self, rng_key: jax.Array, inputs: Any) -> Any:
        """Initial parameters; the key is consumed."""

    def apply(self, params: Any, inputs: Any) -> Any:
        """Outputs with leaves `[b, ...]` for a batch of a source."""


@dataclasses.dataclass(frozen=True)
class GraphPredictor:
    """A module that maps graphs `[G]` to `[G, K]`, as a predictor.

    Attributes:
      module: For instance `readouts.InvariantMetanet`.
    """

    module: nn.Module

    def init(self, rng_key: jax.Array, inputs: graphs.GraphsTuple) -> Any:
        """Initial parameters; the key is consumed."""
        return self.module.init(rng_key, inputs)

    def apply(self, params: Any, inputs: graphs.GraphsTuple) -> jax.Array:
        """Outputs of all graphs but the last, which is padding.

        Returns:
          `[b, K]`, or `[b]` where K is 1.
        """
        return _without_last_of_one(self.module.apply(params, inputs)[:-1])


@dataclasses.dataclass(frozen=True)
class TopologyPredictor:
    """A module that reads graphs, for networks of one topology: batches are rows.

    Faster than `GraphPredictor`: what belongs to the topology is computed once for a
    batch, and a `VectorSource` of parameters serves as the source.

    Attributes:
      module: Maps a graph with b networks to leaves `[1, b, ...]`, for instance
        `readouts.InvariantMetanet`.
      topology: Architecture of the networks.
      bidirectional: See `modmeta.metanet.models.features.to_graph`.
    """

    module: nn.Module
    topology: Topology
    bidirectional: bool = False

    def graph(self, rows: jax.Array) -> graphs.GraphsTuple:
        """The graph of flat parameters `[b, M]`, with responses after them if any."""
        return graph_with_responses(
            self.topology, rows, bidirectional=self.bidirectional
        )

    def init(self, rng_key: jax.Array, inputs: jax.Array) -> Any:
        """Initial parameters; the key is consumed."""
        return self.module.init(rng_key, self.graph(inputs))

    def apply(self, params: Any, inputs: jax.Array) -> Any:
        """Outputs of all networks, leaves `[b, ...]`; `[b]` where one is `[b, 1]`."""
        outputs = self.module.apply(params, self.graph(inputs))
        return jax.tree.map(lambda leaf: _without_last_of_one(leaf[0]), outputs)


@dataclasses.dataclass(frozen=True)
class NeuralGraphPredictor:
    """A module that reads neural graphs of networks of one topology: batches are rows.

    Attributes:
      module: For instance `neural_graph_network.NeuralGraphNetwork`.
      template: How rows become graphs; with responses after the parameters if any.
    """

    module: nn.Module
    template: NeuralGraphTemplate

    def graph(self, rows: jax.Array) -> graphs.GraphsTuple:
        """The graphs of b networks, see `NeuralGraphTemplate.fill_all`."""
        return self.template.fill_all(rows)

    def init(self, rng_key: jax.Array, inputs: jax.Array) -> Any:
        """Initial parameters; the key is consumed."""
        return self.module.init(rng_key, self.graph(inputs))

    def apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """Outputs `[b, K]` of all networks, or `[b]` where K is 1."""
        outputs = self.module.apply(params, self.graph(inputs))
        return _without_last_of_one(outputs)


@dataclasses.dataclass(frozen=True)
class VectorPredictor:
    """A module that maps `[b, ...]` to leaves `[b, K]`, as a predictor.

    Attributes:
      module: For instance `baselines.StatisticsNetwork`.
    """

    module: nn.Module

    def init(self, rng_key: jax.Array, inputs: Any) -> Any:
        """Initial parameters; the key is consumed."""
        return self.module.init(rng_key, inputs)

    def apply(self, params: Any, inputs: Any) -> Any:
        """Outputs `[b, K]`, or `[b]` where K is 1."""
        return jax.tree.map(_without_last_of_one, self.module.apply(params, inputs))


def _without_last_of_one(leaf: jax.Array) -> jax.Array:
    return leaf[..., 0] if leaf.shape[-1] == 1 else leaf
