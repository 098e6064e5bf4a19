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

import numpy as np

from modmeta.metanet.parameter_graphs.axis_store import AxisStore
from modmeta.metanet.parameter_graphs.functions import IDENTITY
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Axis,
    axis_positions,
    independent,
    is_listed,
    is_own,
    layout_code,
    repeated,
)
from modmeta.metanet.parameter_graphs.signals import Signal, Table
from modmeta.metanet.parameter_graphs.store import MINUS_ONE as MINUS_ONE
from modmeta.metanet.parameter_graphs.store import ONE as ONE


class Builder(AxisStore):
    """A parameter graph under construction, in terms of signals and tables.

    Nodes, edges and ties are methods of `GraphStore`; those of `SignalStore` and
    `AxisStore` are in terms of one array of the network, those below in terms of
    several, or of tables.
    Attributes are those of `GraphStore`.
    """

    def __init__(self):
        super().__init__()
        # Units of tables, which may be read under several functions.
        self._tables: dict[tuple, np.ndarray] = {}

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
                # Positions before places, which can be put in their order.
                found = [signal.axes[axis] for signal in signals]
                found = sorted(filter(is_own, found), key=is_listed)
                size = max(signal.shape[axis] for signal in signals)
                axes[axis] = found[0] if found else repeated(size)
        for axis, own in enumerate(axes):
            if is_listed(own) and own in axes[:axis]:
                axes[axis] = self.copy_axis(own)
        result = independent(axes)
        if any(_crosses(signal, result) for signal in signals):
            listed = [axis for axis, own in enumerate(result) if is_listed(own)]
            signals = [
                self.expand(s, [a for a in listed if is_own(s.axes[a])])
                for s in signals
            ]
            return self.align(signals, skipped=skipped)
        return [self._moved(signal, result, others) for signal in signals], result

    def _moved(
        self, signal: Signal, axes: tuple[Axis, ...], considered: Sequence[int]
    ) -> Signal:
        changed, listed = (
            [
                axis
                for axis in considered
                if is_own(signal.axes[axis])
                and signal.axes[axis] != axes[axis]
                and is_listed(signal.axes[axis]) == kind
            ]
            for kind in (False, True)
        )
        if changed:
            signal = self._turned(signal, axes, changed)
        for axis in listed:
            signal = self.along(signal, axis, axes[axis])
        return signal

    def _turned(
        self, signal: Signal, axes: tuple[Axis, ...], changed: Sequence[int]
    ) -> Signal:
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
        parts = []
        for index, signal in enumerate(signals):
            kind = edge_types[index] if edge_types else "identity"
            if any(_meets(signal, earlier) for earlier in signals[:index]):
                signal = self.copy(signal)  # parallel edges could not be told apart
            self.link(signal, units, values=values[index], edge_type=kind, tie=False)
            parts.append(signal.units)
        self.tie_product(units, parts)
        return Signal(units, shape, axes)

    def add_table(
        self, table: Table, receivers: np.ndarray, axes: Sequence, *, layer: int
    ) -> None:
        """Edges of a table that is added to (or multiplied with) units.

        Args:
          table: Of the rank of the receivers; broadcastable to the array.
          receivers: Node ids; an axis of length 1 where units are shared.
          axes: Coordinates of shared axes; a table that varies on them gets one
            node with an order id per position. One that varies on a listed axis, and
            on no other shared axis, has edges from its places.
          layer: Layer of the nodes and edges.
        """
        table = table.collapse(
            [axis for axis, size in enumerate(receivers.shape) if size == 1]
        )
        sizes, places = np.array(table.shape), np.array(receivers.shape)
        is_row = (sizes > 1) & (places == 1)
        row_shape = tuple(
            s if row else 1 for s, row in zip(table.shape, is_row, strict=True)
        )
        positions = np.zeros((*(1,) * table.ndim, NUM_COORDINATES), np.float32)
        for axis, row in enumerate(is_row):
            if row and not is_listed(axes[axis]):
                others = [1] * table.ndim
                others[axis] = table.shape[axis]
                offsets = axis_positions(axes[axis])
                positions = positions + offsets.reshape(*others, NUM_COORDINATES)
        num_rows = math.prod(row_shape)
        row_axes = [axes[axis] for axis, row in enumerate(is_row) if row]
        if any(map(is_listed, row_axes)):
            (axis,) = row_axes
            places = self.listed(axis).places.reshape(row_shape)
            self.add_edges(places, receivers, "table", layer=layer, values=table)
            return
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
        if sum(map(is_own, axes)) > 1:
            axes = [() if is_listed(axis) else axis for axis in axes]
        shape = tuple(
            1 if axis else count for axis, count in zip(axes, full.shape, strict=True)
        )
        key = tuple(axes), layer, full.shape, full.parameters.tobytes()
        key = *key, np.asarray(full.constants, np.float32).tobytes()
        units = self._tables.get(key)
        if units is None:
            units = self._tables[key] = self.add_nodes("table", shape, layer=layer)
            self.add_table(full.replace(function=IDENTITY), units, axes, layer=layer)
        found = tuple(
            axis or (repeated(length) if count == 1 else ())
            for axis, length, count in zip(axes, size, full.shape, strict=True)
        )
        return Signal(units, size, found, function=table.function)


def _crosses(signal: Signal, axes: Sequence[Axis]) -> bool:
    """True if listed axes of a signal cannot be moved to others one after the other."""
    present = list(signal.axes)
    for axis, target in enumerate(axes):
        if is_listed(present[axis]) and present[axis] != target:
            if is_listed(target) and target in present:
                return True
            present[axis] = target
    return False


def _meets(first: Signal, second: Signal) -> bool:
    """True if two signals have a unit in one place, under one function."""
    return first.function.key == second.function.key and bool(
        np.any(first.units == second.units)
    )
