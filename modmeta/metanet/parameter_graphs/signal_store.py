"""Nodes and edges of a graph under construction, in terms of signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import identity_of
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Atom,
    axis_positions,
)
from modmeta.metanet.parameter_graphs.signals import Signal, Table
from modmeta.metanet.parameter_graphs.store import MINUS_ONE as MINUS_ONE
from modmeta.metanet.parameter_graphs.store import ONE as ONE
from modmeta.metanet.parameter_graphs.store import GraphStore


class SignalStore(GraphStore):
    """Units behind arrays of the network, one signal at a time.

    Attributes are those of `GraphStore`.
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

    def distinct_at(self, signal: Signal, offsets: np.ndarray) -> Signal:
        """The signal, or a copy if offsets of edges would hide where elements are.

        Args:
          signal: Units with positions.
          offsets: Added to its positions, `[n, 3]` for n edges of every element, or
            one for each, `units.shape + (3,)`.
        """
        if signal.positions is None or not np.any(signal.positions):
            return signal
        if offsets.ndim == 2:
            offsets = offsets.reshape(-1, *(1,) * signal.ndim, NUM_COORDINATES)
        positions = signal.positions + offsets
        units = np.broadcast_to(signal.units, positions.shape[:-1])
        rows = [units.reshape(-1, 1), positions.reshape(-1, NUM_COORDINATES)]
        rows = np.concatenate(rows, axis=1)
        return (
            signal if len(np.unique(rows, axis=0)) == len(rows) else self.copy(signal)
        )
