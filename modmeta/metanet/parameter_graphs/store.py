"""The nodes, edges and permutation classes that a `Builder` collects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modmeta.metanet.parameter_graphs.edges import EdgeBlock, edge_block
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import IDENTITY, Function
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES
from modmeta.metanet.parameter_graphs.signals import Table
from modmeta.metanet.parameter_graphs.ties import Ties
from modmeta.metanet.parameter_graphs.vocabulary import (
    ATTRIBUTES,
    EDGE_TYPES,
    NODE_TYPES,
)

ONE = Table.constant(np.float32(1.0))
MINUS_ONE = Table.constant(np.float32(-1.0))


class GraphStore(Ties):
    """Nodes, edges and permutation classes of a graph under construction.

    Attributes:
      classes: Permutation classes of the nodes.
      edges: Edges, in blocks that were added together.
      attributes: Triples of node ids, attribute id and values.
      inputs: Node ids of every argument of the network.
      num_nodes: Number of nodes so far.
    """

    def __init__(self):
        super().__init__()
        self.edges: list[EdgeBlock] = []
        self.num_nodes = 0
        self.attributes: list[tuple[np.ndarray, int, np.ndarray]] = []
        self._num_blocks = 0
        self.inputs: list[np.ndarray] = []

    # Nodes.

    def add_nodes(
        self,
        node_type: str,
        shape: int | tuple[int, ...],
        *,
        layer: int,
        orders: np.ndarray | None = None,
        attributes: dict[str, Any] | None = None,
        is_fixed: bool = False,
    ) -> np.ndarray:
        """Adds one block of nodes, of one new permutation class.

        Args:
          node_type: Name in `vocabulary.NODE_TYPES`.
          shape: Shape of the result, or number of nodes.
          layer: Parameterised layers on the longest path from the input.
          orders: Order ids, of that shape; nodes with an order are fixed.
          attributes: Name in `vocabulary.ATTRIBUTES` -> number, or array of the
            shape; others are 0.
          is_fixed: True if the nodes may not change places.

        Returns:
          Node ids of the given shape, int32.
        """
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape)
        nodes = np.arange(self.num_nodes, self.num_nodes + size, dtype=np.int32)
        self.num_nodes += size
        is_fixed = is_fixed or orders is not None or size == 1
        permutation_class = self.classes.add(size, is_fixed=is_fixed)
        block, self._num_blocks = self._num_blocks, self._num_blocks + 1
        if orders is None:
            orders = np.full(size, -1)
        for name, values in (
            ("types", NODE_TYPES.id(node_type)),
            ("layers", layer),
            ("orders", np.ravel(orders)),
            ("blocks", block),
            ("classes", permutation_class),
            ("slots", np.arange(size)),
        ):
            part = np.broadcast_to(np.asarray(values, np.int32), (size,))
            self._node_parts[name].append(part)
        for name, values in (attributes or {}).items():
            values = np.broadcast_to(np.asarray(values, np.float32), shape)
            self.attributes.append((nodes, ATTRIBUTES.id(name), values.ravel()))
        return nodes.reshape(shape)

    # Edges.

    def add_edges(
        self,
        senders: np.ndarray,
        receivers: np.ndarray,
        edge_type: str,
        *,
        layer: int,
        values: Table = ONE,
        function: Function = IDENTITY,
        positions: np.ndarray | None = None,
        in_step: bool = False,
    ) -> None:
        """Adds edges; senders, receivers and values are broadcast to one shape.

        Args:
          senders: Node ids.
          receivers: Node ids.
          edge_type: Name in `vocabulary.EDGE_TYPES`.
          layer: Layer of the edges.
          values: Parameters or constants that the edges carry.
          function: The function under which the senders are seen.
          positions: That shape + (3,), or broadcastable to it.
          in_step: True if ties make edges of one parameter move together.

        Raises:
          UnsupportedLayerError: If the values are a function of a parameter, or what
            the senders are seen under is complex.
        """
        if function.is_complex:
            raise UnsupportedLayerError("found complex numbers, expected real ones")
        if not values.function.is_identity:
            raise UnsupportedLayerError(
                "weights that are a function of parameters have no edge of their own"
            )
        if not values.is_uniform and np.any(values.parameters < 0):
            # Constants stay where they are, so the units at their ends must too.
            self.fix(senders)
            self.fix(receivers)
        if positions is None:
            positions = np.zeros(NUM_COORDINATES, np.float32)
        for ends in (senders, receivers):
            self._separate(ends, positions)
        self.edges.append(
            edge_block(
                senders,
                receivers,
                values.parameters,
                values.constants,
                positions,
                type=EDGE_TYPES.id(edge_type),
                layer=layer,
                function=function,
                in_step=in_step,
            )
        )

    def _separate(self, ends: np.ndarray, positions: np.ndarray) -> None:
        """A part of a class with edges of its own, by position, stays among itself.

        Blocks of nodes may share a class, and parts of a block its slots, so each is
        looked at alone.
        """
        rank = max(ends.ndim, positions.ndim - 1)
        ends = ends.reshape((1,) * (rank - ends.ndim) + ends.shape)
        positions = positions.reshape(
            (1,) * (rank + 1 - positions.ndim) + positions.shape
        )
        # Along other axes, every node meets the same positions.
        for axis in range(rank):
            if ends.shape[axis] == 1:
                positions = positions.take([0], axis)
        shape = np.broadcast_shapes(ends.shape, positions.shape[:-1])
        rows = np.broadcast_to(positions, (*shape, NUM_COORDINATES))
        members = self._members(np.broadcast_to(ends, shape))
        columns = [np.ascontiguousarray(rows[..., c]) for c in range(NUM_COORDINATES)]
        keys = [self.node_array("blocks")[np.broadcast_to(ends, shape)], *columns]
        keys = [*map(np.ravel, keys), self.classes.follow(*members)[2]]
        keys = [key for key in keys if np.any(key != key[:1])]
        if not keys:
            self.classes.separate(*members)
            return
        order = np.lexsort(keys)
        changes = [key[order][1:] != key[order][:-1] for key in keys]
        ends_of_groups = np.nonzero(np.any(changes, axis=0))[0] + 1
        for group in np.split(order, ends_of_groups):
            self.classes.separate(members[0][group], members[1][group])

    def add_unit_node(
        self,
        receivers: np.ndarray,
        values: Table,
        *,
        node_type: str = "bias",
        edge_type: str = "bias",
        layer: int,
        in_step: bool = False,
    ) -> None:
        """Adds a node that outputs 1, with one edge to each receiver: a bias.

        Args:
          receivers: Node ids.
          values: Values of the edges, of the same shape.
          node_type: Name of the node type.
          edge_type: Name of the edge type.
          layer: Layer of the node and the edges.
          in_step: As for `add_edges`.
        """
        node = self.add_nodes(node_type, 1, layer=layer)
        self.add_edges(
            node.reshape((1,) * receivers.ndim),
            receivers,
            edge_type,
            layer=layer,
            values=values,
            in_step=in_step,
        )
