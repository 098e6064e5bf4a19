"""Collects nodes and edges of a parameter graph, layer by layer.

A rule of a layer adds nodes for its output units and edges from the units of its
inputs, and says which units must move together. Elementwise functions need no nodes of
their own: a signal carries its function along, the edges that start at the signal
remember it, and `finish` gives it to the unit. A unit whose value is needed under
several functions keeps its plain value and gets one more node (a *view*) per function,
so it does not matter in which order a network uses them.

    units = builder.add_nodes("linear", (num_outputs,), layer=layer)
    builder.connect(signal, units, kernel, "linear", layer=layer)
    return builder.signal_like(signal, units)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import IDENTITY, identity_of
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Atom,
    Axis,
    axis_positions,
    independent,
    is_own,
    layout_code,
    repeated,
)
from modmeta.metanet.parameter_graphs.signals import Signal, Table
from modmeta.metanet.parameter_graphs.store import MINUS_ONE as MINUS_ONE
from modmeta.metanet.parameter_graphs.store import ONE as ONE
from modmeta.metanet.parameter_graphs.store import GraphStore


class Builder(GraphStore):
    """A parameter graph under construction, in terms of signals and tables.

    Nodes, edges and ties are methods of `GraphStore`; those below are in terms of
    arrays of the network. Attributes are those of `GraphStore`.
    """

    def layer(self, *signals: Signal) -> int:
        """Layer of the latest of the units behind some signals."""
        layers = self.node_array("layers")
        return max((int(layers[s.units].max(initial=0)) for s in signals), default=0)

    def connect(
        self,
        signal: Signal,
        receivers: np.ndarray,
        kernel: Table,
        edge_type: str,
        *,
        layer: int,
        positions: np.ndarray | None = None,
    ) -> None:
        """One edge per entry of a kernel `[K, O]`, from K elements to O receivers.

        Args:
          signal: Units of size K in all, read row-major; their positions go to the
            edges.
          receivers: O node ids, of any shape.
          kernel: `[K, O]`.
          edge_type: Name of the edge type.
          layer: Layer of the edges.
          positions: Added to the positions of the signal, `[K, O, 3]` or
            broadcastable to it.
        """
        senders = signal.units.reshape(-1, 1)
        offsets = signal.all_positions().reshape(-1, 1, NUM_COORDINATES)
        if positions is not None:
            offsets = offsets + positions
        self.add_edges(
            senders,
            receivers.reshape(1, -1),
            edge_type,
            layer=layer,
            values=kernel,
            function=signal.function,
            positions=offsets,
        )

    def link(
        self,
        signal: Signal,
        receivers: np.ndarray,
        *,
        values: Table = ONE,
        edge_type: str = "identity",
        positions: np.ndarray | None = None,
        tie: bool = True,
    ) -> None:
        """One edge from every element of a signal to the receiver of the same place.

        Args:
          signal: Units, broadcast to the shape of the receivers; a unit that sends to
            several receivers moves with them as a group.
          receivers: Node ids.
          values: Values of the edges, 1 unless given; broadcast likewise.
          edge_type: Name of the edge type.
          positions: Added to the positions of the signal.
          tie: True if receivers move with the units.
        """
        offsets = signal.all_positions()
        if positions is not None:
            offsets = offsets + positions
        self.add_edges(
            signal.units,
            receivers,
            edge_type,
            layer=int(self.node_array("layers")[receivers].max(initial=0)),
            values=values,
            function=signal.function,
            positions=np.broadcast_to(offsets, (*receivers.shape, NUM_COORDINATES)),
        )
        if tie:
            self.tie_broadcast(signal.units, receivers)

    def add_input(
        self, shape: Sequence[int], *, argument: int, dtype: Any, num_examples: int
    ) -> Signal:
        """The signal of an argument of the network.

        The last axis is explicit, one unit per feature; the axes before it are
        shared, the first as the axis of examples. Shared on all axes, as one unit, are
        arrays of integers or booleans, and vectors with one number per example.

        Args:
          shape: Shape of the array.
          argument: Number of the argument.
          dtype: Its type.
          num_examples: Length of the axis of examples, 0 if there is none.
        """
        shape = tuple(shape)
        is_index = not jax.dtypes.issubdtype(dtype, np.inexact)
        is_index = is_index or shape == (num_examples,)
        num_shared = len(shape) if is_index else max(len(shape) - 1, 0)
        units_shape = (1,) * num_shared + shape[num_shared:]
        axes = tuple(
            (Atom(axis - 1, 1, size),) if axis < num_shared and size > 1 else ()
            for axis, size in enumerate(shape)
        )
        first = sum(part.size for part in self.inputs)
        orders = first + np.arange(math.prod(units_shape))
        units = self.add_nodes(
            "input",
            units_shape,
            layer=0,
            orders=orders,
            attributes={"argument": argument},
        )
        self.inputs.append(units.ravel())
        return Signal(units, shape, axes, function=identity_of(dtype))

    def signal_like(
        self, signal: Signal, units: np.ndarray, *, axes=None, shape=None
    ) -> Signal:
        """A signal of new units in place of the last axis of another signal.

        Args:
          signal: Its axes before the last one are kept.
          units: `[C]` units, or an array of the signal's rank.
          axes: Other coordinates of the axes.
          shape: Other shape.
        """
        if units.ndim == 1:
            units = units.reshape((1,) * (signal.ndim - 1) + (-1,))
            shape = shape or (*signal.shape[:-1], units.shape[-1])
            axes = axes or (*signal.axes[:-1], ())
        return Signal(units, shape or signal.shape, axes or signal.axes)

    def expand(self, signal: Signal, axes: Sequence[int]) -> Signal:
        """Turns shared axes into explicit ones: the same units at several positions."""
        units, positions = signal.units, signal.all_positions()
        new_axes = list(signal.axes)
        for axis in axes:
            if not signal.is_shared[axis]:
                continue
            size = signal.shape[axis]
            units = np.repeat(units, size, axis=axis)
            offsets = axis_positions(signal.axes[axis])
            if len(offsets) != size:
                raise UnsupportedLayerError("axis of unknown coordinates")
            others = [1] * signal.ndim
            others[axis] = size
            positions = positions + offsets.reshape(*others, NUM_COORDINATES)
            new_axes[axis] = ()
        return signal.replace(units=units, positions=positions, axes=tuple(new_axes))

    def copy(
        self, signal: Signal, *, node_type: str = "copy", attributes=None
    ) -> Signal:
        """New units, one per element, that repeat a signal with its function."""
        units = self.add_nodes(
            node_type,
            signal.units.shape,
            layer=self.layer(signal),
            attributes=attributes,
        )
        self.link(signal, units)
        return Signal(units, signal.shape, signal.axes)

    def distinct(self, signal: Signal) -> Signal:
        """The signal, or a copy of its units if a unit occurs twice at one position.

        Parallel edges of such a unit could not be told apart.
        """
        elements = np.concatenate(
            [
                signal.units.reshape(-1, 1),
                signal.all_positions().reshape(-1, NUM_COORDINATES),
            ],
            axis=1,
        )
        if len(np.unique(signal.units)) == signal.units.size:
            return signal
        if len(np.unique(elements, axis=0)) == len(elements):
            return signal
        return self.copy(signal)

    def align(
        self, signals: Sequence[Signal], *, skipped: int | None = None
    ) -> tuple[list[Signal], tuple[Axis, ...]]:
        """Signals in the axes of an array that takes an element of each.

        Units along axes on which units of another one differ become explicit. A signal
        whose values run along other coordinates than those of the result is moved:
        copied, with a code that tells how.

        Args:
          signals: Of one rank.
          skipped: An axis that is left as it is.

        Returns:
          The signals, and the axes of the result.
        """
        rank = signals[0].ndim
        others = [axis for axis in range(rank) if axis != skipped]
        explicit = [
            axis
            for axis in others
            if any(signal.units.shape[axis] > 1 for signal in signals)
        ]
        signals = [
            self.expand(signal, [a for a in explicit if is_own(signal.axes[a])])
            for signal in signals
        ]
        axes: list[Axis] = [()] * rank
        for axis in others:
            if axis not in explicit:
                found = [signal.axes[axis] for signal in signals]
                size = max(signal.shape[axis] for signal in signals)
                axes[axis] = next(filter(is_own, found), repeated(size))
        result = independent(axes)
        return [self._moved(signal, result, others) for signal in signals], result

    def _moved(
        self, signal: Signal, axes: tuple[Axis, ...], considered: Sequence[int]
    ) -> Signal:
        changed = [
            axis
            for axis in considered
            if is_own(signal.axes[axis]) and signal.axes[axis] != axes[axis]
        ]
        if not changed:
            return signal
        own = [signal.axes[axis] for axis in changed]
        code = layout_code(*own, *(axes[axis] for axis in changed), is_usual=False)
        copy = self.copy(signal, node_type="moved", attributes={"layout": code})
        moved = [
            axes[axis] if axis in changed else old
            for axis, old in enumerate(signal.axes)
        ]
        return copy.replace(axes=tuple(moved))

    def combine(
        self,
        node_type: str,
        signals: Sequence[Signal],
        values: Sequence[Table],
        *,
        edge_types: Sequence[str] | None = None,
        attributes: dict[str, float] | None = None,
    ) -> Signal:
        """New units that combine several signals element by element.

        Args:
          node_type: What the units do: "sum", "product", "maximum", ...
          signals: Of one rank; shapes, units and axes are broadcast.
          values: Value of the edges from each signal.
          edge_types: Type of the edges from each signal, "identity" unless given.
          attributes: As for `add_nodes`.
        """
        shape = np.broadcast_shapes(*(signal.shape for signal in signals))
        signals, axes = self.align(signals)
        units = self.add_nodes(
            node_type,
            np.broadcast_shapes(*(signal.units.shape for signal in signals)),
            layer=self.layer(*signals),
            attributes=attributes,
        )
        edge_types = edge_types or ["identity"] * len(signals)
        for signal, value, kind in zip(signals, values, edge_types, strict=True):
            self.link(signal, units, values=value, edge_type=kind)
        return Signal(units, shape, axes)

    def add_table(
        self, table: Table, receivers: np.ndarray, axes: Sequence, *, layer: int
    ) -> None:
        """Edges of a table that is added to (or multiplied with) units.

        Args:
          table: Of the rank of the receivers; broadcastable to the array.
          receivers: Node ids; an axis of length 1 where units are shared.
          axes: Coordinates of shared axes; a table that varies on them gets one
            node with an order id per position.
          layer: Layer of the nodes and edges.
        """
        table = table.collapse(
            [axis for axis, size in enumerate(receivers.shape) if size == 1]
        )
        sizes, places = np.array(table.shape), np.array(receivers.shape)
        is_row = (sizes > 1) & (places == 1)
        is_repeated = (sizes == 1) & (places > 1)
        is_listed = (sizes > 1) & (places > 1)
        if any(is_repeated) and any(is_listed):
            # Units that share an entry move with it.
            first = [axis for axis, repeat in enumerate(is_repeated) if repeat]
            last = [axis for axis in range(table.ndim) if axis not in first]
            rows = receivers.transpose(*first, *last)
            count = math.prod(rows.shape[: len(first)])
            self.tie_rows(rows.reshape(count, -1))
        row_shape = tuple(
            s if row else 1 for s, row in zip(table.shape, is_row, strict=True)
        )
        positions = np.zeros((*(1,) * table.ndim, NUM_COORDINATES), np.float32)
        for axis, row in enumerate(is_row):
            if row:
                others = [1] * table.ndim
                others[axis] = table.shape[axis]
                offsets = axis_positions(axes[axis])
                positions = positions + offsets.reshape(*others, NUM_COORDINATES)
        num_rows = math.prod(row_shape)
        row_axes = [axes[axis] for axis, row in enumerate(is_row) if row]
        rows = self.add_nodes(
            "position",
            row_shape,
            layer=layer,
            orders=np.arange(num_rows).reshape(row_shape) if num_rows > 1 else None,
            attributes={"layout": layout_code(*row_axes)},
            is_fixed=True,
        )
        self.add_edges(
            rows,
            receivers,
            "table",
            layer=layer,
            values=table,
            positions=np.broadcast_to(
                positions,
                (
                    *np.broadcast_shapes(rows.shape, receivers.shape, table.shape),
                    NUM_COORDINATES,
                ),
            ),
        )

    def table_signal(
        self, table: Table, axes: Sequence[Axis] | None = None, *, layer: int = 0
    ) -> Signal:
        """Units that hold the entries of a table, under the table's function.

        Args:
          table: In its full shape.
          axes: Axes that units are shared on; on all others units differ, where
            entries do.
          layer: Layer of the units.
        """
        axes = [axis if is_own(axis) else () for axis in axes or [()] * table.ndim]
        size, full = table.shape, table.collapse(range(table.ndim))
        axes = [axis if full.shape[i] > 1 else () for i, axis in enumerate(axes)]
        shape = tuple(
            1 if axis else count for axis, count in zip(axes, full.shape, strict=True)
        )
        units = self.add_nodes("table", shape, layer=layer)
        self.add_table(full.replace(function=IDENTITY), units, axes, layer=layer)
        found = tuple(
            axis or (repeated(length) if count == 1 else ())
            for axis, length, count in zip(axes, size, full.shape, strict=True)
        )
        return Signal(units, size, found, function=table.function)
