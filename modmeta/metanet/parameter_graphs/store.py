"""The nodes, edges and permutation classes that a `Builder` collects."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from modmeta.metanet.parameter_graphs.classes import PermutationClasses
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import IDENTITY, Function
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES
from modmeta.metanet.parameter_graphs.signals import Table
from modmeta.metanet.parameter_graphs.vocabulary import (
    ATTRIBUTES,
    EDGE_TYPES,
    NODE_TYPES,
)

ONE = Table.constant(np.float32(1.0))
MINUS_ONE = Table.constant(np.float32(-1.0))


class EdgeBlock(NamedTuple):
    """Edges added together; arrays `[n]`, positions `[n, 3]`."""

    senders: np.ndarray
    receivers: np.ndarray
    positions: np.ndarray
    parameters: np.ndarray
    constants: np.ndarray
    type: int
    layer: int
    function: Function


class GraphStore:
    """Nodes, edges and permutation classes of a graph under construction.

    Attributes:
      classes: Permutation classes of the nodes.
      edges: Edges, in blocks that were added together.
      attributes: Triples of node ids, attribute id and values.
      inputs: Node ids of every argument of the network.
      num_nodes: Number of nodes so far.
    """

    def __init__(self):
        self.classes = PermutationClasses()
        self.edges: list[EdgeBlock] = []
        self.num_nodes = 0
        # Per node array, parts as they were added.
        self._node_parts: dict[str, list[np.ndarray]] = {
            name: []
            for name in ("types", "layers", "orders", "blocks", "classes", "slots")
        }
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

    def node_array(self, name: str) -> np.ndarray:
        """One of the integer arrays `[N]` of the nodes so far."""
        parts = self._node_parts[name]
        if len(parts) > 1:
            self._node_parts[name] = parts = [np.concatenate(parts)]
        return parts[0] if parts else np.zeros(0, np.int32)

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

        Raises:
          UnsupportedLayerError: If the values are a function of a parameter.
        """
        if not values.function.is_identity:
            raise UnsupportedLayerError(
                "weights that are a function of parameters have no edge of their own"
            )
        shape = np.broadcast_shapes(senders.shape, receivers.shape, values.shape)
        if not values.is_uniform and np.any(values.parameters < 0):
            # Constants stay where they are, so the units at their ends must too.
            self.fix(senders)
            self.fix(receivers)
        if positions is None:
            positions = np.zeros(NUM_COORDINATES, np.float32)
        positions = np.broadcast_to(positions, (*shape, NUM_COORDINATES))

        def flat(array: np.ndarray, dtype) -> np.ndarray:
            return np.broadcast_to(array, shape).ravel().astype(dtype, copy=False)

        self.edges.append(
            EdgeBlock(
                senders=flat(senders, np.int32),
                receivers=flat(receivers, np.int32),
                positions=positions.reshape(-1, NUM_COORDINATES).astype(np.float32),
                parameters=flat(values.parameters, np.int32),
                constants=flat(values.constants, np.float32),
                type=EDGE_TYPES.id(edge_type),
                layer=layer,
                function=function,
            )
        )

    def add_unit_node(
        self,
        receivers: np.ndarray,
        values: Table,
        *,
        node_type: str = "bias",
        edge_type: str = "bias",
        layer: int,
    ) -> None:
        """Adds a node that outputs 1, with one edge to each receiver: a bias.

        Args:
          receivers: Node ids.
          values: Values of the edges, of the same shape.
          node_type: Name of the node type.
          edge_type: Name of the edge type.
          layer: Layer of the node and the edges.
        """
        node = self.add_nodes(node_type, 1, layer=layer)
        self.add_edges(
            node.reshape((1,) * receivers.ndim),
            receivers,
            edge_type,
            layer=layer,
            values=values,
        )

    # Symmetries.

    def _members(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nodes = np.ravel(units)
        return self.node_array("classes")[nodes], self.node_array("slots")[nodes]

    def members(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Present classes and slots of units, which move in step if both are equal."""
        return self.classes.resolve(*self._members(units))

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes units move together, element by element; shapes are broadcast."""
        first, second = np.broadcast_arrays(first, second)
        self.classes.tie(self._members(first), self._members(second))

    def fix(self, units: np.ndarray) -> None:
        """Keeps units in their places."""
        classes, slots = self._members(units)
        anchor = self.classes.add(len(classes), is_fixed=True)
        self.classes.tie(
            (classes, slots), (np.full(len(classes), anchor), np.arange(len(classes)))
        )

    def groups(self, units: np.ndarray, num_groups: int) -> int:
        """Nests units in groups of neighbours; groups move, and units within them.

        Args:
          units: Node ids, read row-major, `group * width + inner`.
          num_groups: Number of groups.

        Returns:
          The class in `classes` whose slots are the groups.
        """
        units = np.ravel(units)
        proxy = self.classes.add(len(units))
        members = np.full(len(units), proxy), np.arange(len(units))
        self.classes.tie(self._members(units), members)
        roots, slots = self.classes.resolve(*members)
        is_whole = (
            np.all(roots == roots[0])
            and self.classes.size(roots[0]) == len(units)
            and np.array_equal(slots, np.arange(len(units)))
        )
        if not is_whole:
            self.fix(units)
            return self.classes.add(num_groups, is_fixed=True)
        return self.classes.groups(int(roots[0]), num_groups)

    def tie_broadcast(self, units: np.ndarray, receivers: np.ndarray) -> None:
        """Makes receivers move with the units that send to them.

        Args:
          units: Node ids.
          receivers: Node ids, of a shape that those of the units broadcast to: a unit
            with several receivers moves as a group with them. A unit that occurs
            again along an axis has its receivers there in fixed places.
        """
        for axis in range(units.ndim):
            if units.shape[axis] > 1 and np.all(units == units.take([0], axis)):
                for index in range(units.shape[axis]):
                    places = receivers.take([index], axis)
                    self.tie_broadcast(units.take([0], axis), places)
                return
        repeats = [
            axis
            for axis in range(units.ndim)
            if units.shape[axis] == 1 and receivers.shape[axis] > 1
        ]
        if not repeats:
            self.tie(receivers, units)
        elif units.size > 1:
            kept = [axis for axis in range(units.ndim) if axis not in repeats]
            rows = receivers.transpose(*kept, *repeats).reshape(units.size, -1)
            self.tie_to_rows(units.ravel(), rows)

    def tie_to_rows(self, heads: np.ndarray, rows: np.ndarray) -> None:
        """Makes heads `[G]` move with rows `[G, K]` of units.

        Units of one class may change places within their row; else they keep their
        column.
        """
        classes = self.classes.resolve(*self._members(rows))[0]
        is_one = np.all(classes == classes[0]) and len(np.unique(rows)) == rows.size
        if is_one and self.classes.size(int(classes[0])) == rows.size:
            self.tie_groups(rows, heads, len(heads))
            return
        for column in rows.T:
            self.tie(heads, column)

    def tie_rows(self, rows: np.ndarray) -> None:
        """Makes the columns of units `[R, K]` move as wholes: rows move in step."""
        for row in rows:
            self.classes.separate(*self._members(row))
        for row in rows[1:]:
            self.tie(rows[0], row)

    def tie_groups(
        self, first: np.ndarray, second: np.ndarray, num_groups: int
    ) -> None:
        """Makes the groups of two lists of units move together.

        Args:
          first: Node ids, a multiple of `num_groups`; `num_groups` of them are
            groups of one.
          second: Likewise.
          num_groups: Number of groups.
        """
        left = self.groups(first, num_groups)
        right = self.groups(second, num_groups)
        slots = np.arange(num_groups)
        self.classes.tie(
            (np.full(num_groups, left), slots),
            (np.full(num_groups, right), slots),
        )
