"""The graph metanetwork: message passing over the parameter graph of a network.

Lim et al. 2023 (arXiv 2312.04501), section 3.2, in the form of its public release:
pre-norm residual blocks that update every edge from its ends, every node from its
incoming edges and, as an option, one global vector from both. Deviations: the edge and
node updates end in one linear map without a SiLU before it, because a ReLU stands
there already; sum, mean and mean within edge types are all offered (the paper writes
the sum, its release the mean); a message may also run against its edge.

Letters: N nodes, F edges, G graphs, H width; every embedding may have an axis of B
networks after the first, see `modmeta.metanet.models.features`.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta import graphs
from modmeta.metanet.models.blocks import Embeddings as Embeddings
from modmeta.metanet.models.blocks import MetanetBlock as MetanetBlock
from modmeta.metanet.models.blocks import Projections
from modmeta.metanet.models.encoders import EdgeEncoder, NodeEncoder
from modmeta.metanet.models.normalized import (
    Linear,
    Norm,
    as_row,
    constant_of,
    normalized_product,
)
from modmeta.metanet.models.options import AGGREGATIONS as AGGREGATIONS
from modmeta.metanet.models.options import POOLINGS as POOLINGS
from modmeta.metanet.models.options import MetanetConfig as MetanetConfig
from modmeta.metanet.models.windows import Window, Wiring, over_windows
from modmeta.metanet.models.windows import wiring_of as wiring_of
from modmeta.networks import Dense


class States(NamedTuple):
    """What the blocks leave behind.

    Attributes:
      embeddings: Before the last LayerNorm; edges are None if they are computed window
        by window.
      projections: Those of every block, to compute edges again.
      wiring: Of the graph.
    """

    embeddings: Embeddings
    projections: tuple[Projections, ...]
    wiring: Wiring


class GraphMetanet(nn.Module):
    """Encoders and blocks: from a graph with features to embeddings.

    Attributes:
      config: Options.
    """

    config: MetanetConfig

    def setup(self) -> None:
        """Names the layers."""
        config = self.config
        self.edge_encoder = EdgeEncoder(
            config.width,
            config.encoding,
            config.direction_flag,
            config.rescale_by_fan_in,
            config.value_scales,
        )
        if config.num_blocks or config.outputs_nodes:
            self.node_encoder = NodeEncoder(config.width, config.encoding)
        if config.use_globals:
            start = nn.initializers.normal(1.0)
            self.globals = self.param("globals", start, (config.width,))
        block = nn.remat(MetanetBlock) if config.checkpoint_blocks else MetanetBlock
        for index in range(config.num_blocks):
            is_last = index == config.num_blocks - 1
            updates_nodes = config.outputs_nodes or not is_last
            setattr(self, f"block_{index}", block(config, updates_nodes=updates_nodes))
        self.edge_norm, self.edge_output = Norm(), Linear(config.width)
        if config.outputs_nodes:
            self.node_norm, self.node_output = nn.LayerNorm(), Dense(config.width)

    @property
    def _blocks(self) -> list[MetanetBlock]:
        return [getattr(self, f"block_{i}") for i in range(self.config.num_blocks)]

    def __call__(self, graph: graphs.GraphsTuple) -> Embeddings:
        """Embeds the edges of a graph and, if the options ask for it, its nodes.

        Args:
          graph: See `modmeta.metanet.models.features.to_graph`; padded or not.

        Returns:
          The embeddings after a last LayerNorm and linear map. Those of padding are
          finite and mean nothing.
        """
        states = self.states(graph)
        return states.embeddings._replace(
            nodes=self.nodes_of(states), edges=self.edges_of(states, None)
        )

    def states(self, graph: graphs.GraphsTuple) -> States:
        """Runs the blocks.

        Args:
          graph: As for a call.
        """
        config = self.config
        graph = graphs.zero_padding(graph)
        wiring = wiring_of(graph)
        is_whole = config.edge_window is None or wiring.num_edges <= config.edge_window
        batch = wiring.values.shape[1:]
        edges = self._encoded(wiring, None) if is_whole else None
        nodes = shared = None
        if config.num_blocks or config.outputs_nodes:
            nodes = self.node_encoder(graph.nodes)
            nodes = nodes[:, None] if batch and nodes.ndim == 2 else nodes
            nodes = jnp.broadcast_to(nodes, (len(nodes), *batch, config.width))
        if config.use_globals:
            shape = (len(graph.n_node), *batch, config.width)
            shared = jnp.broadcast_to(self.globals, shape)
        states = States(Embeddings(nodes, edges, shared), (), wiring)
        for index, block in enumerate(self._blocks):
            if is_whole:
                embeddings = block(states.embeddings, wiring)
                states = states._replace(embeddings=embeddings)
            else:
                states = self._windowed_block(index, states)
        return states

    def _encoded(self, wiring: Wiring, window: Window | None) -> jax.Array:
        edges = wiring.at(window)
        return self.edge_encoder(edges.values, edges.rows, edges.table)

    def _edges_before(
        self, states: States, window: Window | None, count: int
    ) -> jax.Array:
        """Embeddings of the edges of a window after some blocks, computed again."""
        edges, wiring = self._encoded(states.wiring, window), states.wiring.at(window)
        for index in range(count):
            ends = states.projections[index].at(wiring)
            edges, _ = self._blocks[index].update_edges(
                edges, ends, with_messages=False
            )
        return edges

    def _windowed_block(self, index: int, states: States) -> States:
        """One block, for which embeddings of edges are computed window by window."""
        block, wiring = self._blocks[index], states.wiring
        projections = block.project(states.embeddings, wiring)
        states = states._replace(projections=(*states.projections, projections))
        if not block.updates_nodes:
            return states

        def messages(module, window):
            edges = module._edges_before(states, window, index)
            ends = projections.at(wiring.at(window))
            block = module._blocks[index]
            return block.update_edges(edges, ends, with_messages=True)[1]

        def add(totals, messages, window):
            return block.add_messages(totals, messages, wiring, window)

        totals = over_windows(
            self,
            messages,
            add,
            block.zeros(states.embeddings),
            wiring.num_edges,
            self.config.edge_window,
        )
        embeddings = block.update_nodes(states.embeddings, totals, wiring)
        return states._replace(embeddings=embeddings)

    def edges_of(
        self,
        states: States,
        window: Window | None,
        then: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Final embeddings of the edges of a window, None for all.

        Args:
          states: What the blocks left.
          window: The window.
          then: Kernel and bias of a linear map of the embeddings, of which the result
            is wanted instead; two linear maps are one.
        """
        edges, width = states.embeddings.edges, self.config.width
        if edges is None:
            edges = self._edges_before(states, window, self.config.num_blocks)
        norm, output = self.edge_norm(width), self.edge_output(width)
        kernel, constant = output[0], constant_of(norm, output)
        if then is not None:
            kernel, constant = kernel @ then[0], constant @ then[0] + then[1]
        return normalized_product(edges, norm, kernel) + as_row(constant, edges)

    def nodes_of(self, states: States) -> jax.Array | None:
        """Final embeddings of the nodes, if the options ask for them."""
        if not self.config.outputs_nodes:
            return None
        return self.node_output(self.node_norm(states.embeddings.nodes))
