"""Edges of a graph: blocks while it is built, long arrays and kinds when it is done.

A large network has few kinds of edges: those of one layer, type and place in a kernel
are alike but for their ends and parameters. So what edges have in common is kept once,
and an edge holds the number of its kind. Blocks stay in the broadcastable shapes that
rules give them, as an edge list would be many times larger.

Letters: n edges of a block, E of a graph, K kinds, N nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from modmeta.metanet.parameter_graphs.functions import Function
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES


class EdgeKinds(NamedTuple):
    """A table of K kinds of edges, no two of them equal.

    Attributes:
      types: `[K]` int32 ids of `vocabulary.EDGE_TYPES`.
      layers: `[K]` int32 layer that edges belong to.
      positions: `[K, 3]` float32 position of the sender's value relative to the
        receiver's, in pixels, for units that stand for many positions.
      constants: `[K]` float32 value of constant edges, 0 for those of parameters.
      is_constant: `[K]` false for edges that carry a parameter.
      receiver_counts: `[K]` int32 edges of the same type into the receiver.
      sender_counts: `[K]` int32 edges of the same type out of the sender.
    """

    types: np.ndarray
    layers: np.ndarray
    positions: np.ndarray
    constants: np.ndarray
    is_constant: np.ndarray
    receiver_counts: np.ndarray
    sender_counts: np.ndarray


class EdgeBlock(NamedTuple):
    """Edges added together: arrays of one rank, broadcastable to a shape.

    Attributes:
      shape: Shape, of n elements.
      senders: Node ids, int32.
      receivers: Node ids, int32.
      parameters: Index of the parameter, int32; -1: constant.
      places: Numbers of rows of `positions` and `constants`.
      positions: `[rows, 3]`.
      constants: `[rows]`.
      type: Id of the edge type.
      layer: Layer of the edges.
      function: Function under which the senders are seen.
      in_step: True if edges of one parameter are known to move together.
    """

    shape: tuple[int, ...]
    senders: np.ndarray
    receivers: np.ndarray
    parameters: np.ndarray
    places: np.ndarray
    positions: np.ndarray
    constants: np.ndarray
    type: int
    layer: int
    function: Function
    in_step: bool

    @property
    def size(self) -> int:
        """Number of edges."""
        return math.prod(self.shape)

    def flat(self, field: str) -> np.ndarray:
        """One of the broadcastable arrays, `[n]`."""
        return np.broadcast_to(getattr(self, field), self.shape).ravel()


class EdgeArrays(NamedTuple):
    """The edges of a graph, sorted by receiver.

    Attributes:
      senders: `[E]` int32.
      receivers: `[E]` int32.
      parameters: `[E]` int32 index of the parameter; -1: constant.
      kinds: `[E]` number of the row of the table, uint16 or int32.
      table: The kinds.
    """

    senders: np.ndarray
    receivers: np.ndarray
    parameters: np.ndarray
    kinds: np.ndarray
    table: EdgeKinds


def edge_block(
    senders: np.ndarray,
    receivers: np.ndarray,
    parameters: np.ndarray,
    constants: np.ndarray,
    positions: np.ndarray,
    **fields,
) -> EdgeBlock:
    """A block of edges.

    Args:
      senders: Node ids.
      receivers: Node ids.
      parameters: Index of the parameter of every edge, -1 for constants.
      constants: Values of constant edges, anything elsewhere.
      positions: With a last axis of coordinates; all of these are broadcast.
      **fields: The other fields.
    """
    shape = np.broadcast_shapes(
        senders.shape, receivers.shape, parameters.shape, positions.shape[:-1]
    )

    def ranked(array: np.ndarray, rank: int) -> np.ndarray:
        return array.reshape((1,) * (rank - array.ndim) + array.shape)

    senders, receivers, parameters, constants = (
        ranked(array, len(shape))
        for array in (senders, receivers, parameters, constants)
    )
    is_constant = parameters < 0
    if not is_constant.any():
        constants = np.zeros((1,) * len(shape), np.float32)
    elif not is_constant.all():
        constants = np.where(is_constant, constants, 0)
    constants = _unrepeated(constants, range(len(shape)))
    positions = _unrepeated(ranked(positions, len(shape) + 1), range(len(shape)))
    both = np.broadcast_shapes(positions.shape[:-1], constants.shape)
    rows = np.broadcast_to(positions, (*both, NUM_COORDINATES))
    rows = rows.reshape(-1, NUM_COORDINATES).astype(np.float32)
    values = np.broadcast_to(constants, both).ravel().astype(np.float32)
    first, places = _numbered(*rows.T, values)
    return EdgeBlock(
        shape=shape,
        senders=senders.astype(np.int32, copy=False),
        receivers=receivers.astype(np.int32, copy=False),
        parameters=parameters.astype(np.int32, copy=False),
        places=places.reshape(both),
        positions=rows[first],
        constants=values[first],
        **fields,
    )


def _unrepeated(array: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """An array with the axes that it is constant on cut to length 1."""
    for axis in axes:
        first = array[(slice(None),) * axis + (slice(1),)]
        if array.shape[axis] > 1 and np.all(array == first):
            array = first
    return array


def edge_arrays(blocks: Sequence[EdgeBlock], num_nodes: int) -> EdgeArrays:
    """All edges of a graph.

    Args:
      blocks: Its edges.
      num_nodes: N.
    """
    ends = np.cumsum([0, *(block.size for block in blocks)])
    counts = _degrees(blocks, num_nodes)
    numbers, tables = [], []
    for block in blocks:
        kinds, table = _block_kinds(block, *counts[block.type])
        numbers.append(kinds)
        tables.append(table)
    table, renumbered = _merged(tables)
    dtype = np.uint16 if len(table.types) <= 2**16 else np.int32
    names = ("senders", "receivers", "parameters", "kinds")
    arrays = {name: np.empty(ends[-1], np.int32) for name in names[:3]}
    arrays["kinds"] = np.empty(ends[-1], dtype)
    for block, kinds, new, start, stop in zip(
        blocks, numbers, renumbered, ends[:-1], ends[1:], strict=True
    ):
        # Edges into one receiver lie together: then it takes little to sort them.
        varies = [size > 1 for size in block.receivers.shape]
        order = sorted(range(len(varies)), key=lambda axis: not varies[axis])
        shape = tuple(block.shape[axis] for axis in order)
        for name in names:
            part = new.astype(dtype)[kinds] if name == "kinds" else getattr(block, name)
            part = part.transpose(order)
            arrays[name][start:stop].reshape(shape)[...] = part
    if np.any(arrays["receivers"][1:] < arrays["receivers"][:-1]):
        order = stable_order(arrays["receivers"], num_nodes)
        for name in names:
            arrays[name] = arrays[name][order]
    return EdgeArrays(**arrays, table=table)


def stable_order(numbers: np.ndarray, size: int) -> np.ndarray:
    """The stable order `[n]`, int32, of numbers in `[0, size)`, in linear time."""
    count = len(numbers)
    places = numbers, np.arange(count, dtype=np.int32)
    marks = sparse.coo_array((np.ones(count, np.int8), places), shape=(size, count))
    return marks.tocsr().indices.astype(np.int32, copy=False)


def _numbered(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A row of every distinct kind of rows, and the number `[rows]` of every row."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        if len(values) > 1:
            # Both are below the number of rows, so the product fits.
            code = np.unique(code * len(values) + inverse, return_inverse=True)[1]
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first, inverse


def _degrees(
    blocks: Sequence[EdgeBlock], num_nodes: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Edges of every type into and out of every node, `[N]` each."""
    counts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for block in blocks:
        if block.type not in counts:
            counts[block.type] = tuple(np.zeros(num_nodes, np.int32) for _ in range(2))
        both = block.receivers, block.senders
        for total, nodes in zip(counts[block.type], both, strict=True):
            np.add.at(total, nodes.ravel(), block.size // max(nodes.size, 1))
    return counts


def _block_kinds(
    block: EdgeBlock, incoming: np.ndarray, outgoing: np.ndarray
) -> tuple[np.ndarray, EdgeKinds]:
    """Kinds of the edges of a block, broadcastable to its shape, and their table.

    Args:
      block: The block.
      incoming: `[N]` edges of its type into every node.
      outgoing: `[N]` edges of its type out of every node.
    """
    keys = [
        block.places,
        incoming[block.receivers],
        outgoing[block.senders],
        block.parameters < 0,
    ]
    values = [np.unique(key) for key in keys]
    numbers = np.zeros((1,) * len(block.shape), np.int64)
    for key, known in zip(keys, values, strict=True):
        if len(known) > 1:
            numbers = numbers * len(known) + np.searchsorted(known, key)
    sizes = [len(known) for known in values]
    found = np.unique(numbers) if block.size else np.zeros(0, np.int64)
    rows = [
        known[index]
        for known, index in zip(values, np.unravel_index(found, sizes), strict=True)
    ]
    table = EdgeKinds(
        types=np.full(len(found), block.type, np.int32),
        layers=np.full(len(found), block.layer, np.int32),
        positions=block.positions[rows[0]],
        constants=block.constants[rows[0]],
        is_constant=rows[3],
        receiver_counts=rows[1],
        sender_counts=rows[2],
    )
    return np.searchsorted(found, numbers), table


def _merged(tables: Sequence[EdgeKinds]) -> tuple[EdgeKinds, list[np.ndarray]]:
    """One table for several, and for each the new numbers of its rows."""
    columns = [np.concatenate(parts) for parts in zip(*tables, strict=True)]
    flat = [part for column in columns for part in column.reshape(len(column), -1).T]
    first, inverse = _numbered(*flat)
    ends = np.cumsum([len(table.types) for table in tables])
    return EdgeKinds(*(column[first] for column in columns)), np.split(
        inverse, ends[:-1]
    )
