"""Axes whose places are nodes: mixing positions without a unit per pair.

A dense layer along an axis of positions, such as the mixing of tokens, treats all units
alike. Its outputs are an outer product of units and of new places: instead of a node
per pair, there is one per unit and one per place, and the kernel is between places.

    source -(weights)-> places -> axis -> mixed units <- units before

The value of a mixed unit at a place is the sum, over the edges into the place, of a
weight times the value of the unit before it at the sender's place. An axis like that is
*listed*: the node of the axis knows its places, and places may change places with each
other. What cannot be said of units and places apart takes a node per pair after all
(`expand`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modmeta.metanet.parameter_graphs.layout import (
    BATCH,
    LISTED,
    NUM_COORDINATES,
    Atom,
    Axis,
    axis_positions,
    is_listed,
    is_own,
    layout_code,
    replace_axis,
)
from modmeta.metanet.parameter_graphs.signal_store import SignalStore
from modmeta.metanet.parameter_graphs.signals import Signal, Table


class ListedAxis(NamedTuple):
    """Nodes of a listed axis.

    Attributes:
      places: `[n]` one node per place.
      node: `[1]` the node that all of them send to.
      origin: The axis that its places repeat, or ().
    """

    places: np.ndarray
    node: np.ndarray
    origin: Axis = ()


class AxisStore(SignalStore):
    """Units behind arrays of the network, along axes that are listed or not.

    Attributes are those of `GraphStore`.
    """

    def __init__(self):
        super().__init__()
        self._listed: list[ListedAxis] = []

    def listed(self, axis: Axis) -> ListedAxis:
        """The nodes of a listed axis."""
        return self._listed[LISTED - axis[0].coordinate]

    def _axis_node(
        self, places: np.ndarray, *, layer: int, target: Axis = ()
    ) -> np.ndarray:
        """The node of an axis; with a target, its places are positions of that axis."""
        attributes = {"layout": layout_code(target)} if target else None
        node = self.add_nodes("axis", 1, layer=layer, attributes=attributes)
        positions = axis_positions(target) if target else None
        self.add_edges(places, node, "identity", layer=layer, positions=positions)
        return node

    def add_places(self, units: np.ndarray, axis: Axis) -> None:
        """Edges from the node of a listed axis to units that are made along it."""
        layer = int(self.node_array("layers")[units].max(initial=0))
        node = self.listed(axis).node
        self.add_edges(node.reshape((1,) * units.ndim), units, "axis", layer=layer)

    def can_mix(self, signal: Signal, axis: int) -> bool:
        """True if a dense layer along an axis need not tell units apart.

        Along an axis of positions that only one unit has, every weight has an edge of
        its own anyway.
        """
        own = signal.axes[axis]
        if not (signal.is_shared[axis] and is_own(own)):
            return False
        if is_listed(own):
            return True
        if signal.units.size == 1 or any(atom.coordinate == BATCH for atom in own):
            return False
        positions = axis_positions(own)
        return len(np.unique(positions, axis=0)) == signal.shape[axis]

    def mix(self, signal: Signal, kernel: Table, bias: Table | None = None) -> Signal:
        """`signal @ kernel + bias` over a last axis for which `can_mix` holds.

        Args:
          signal: `[..., K]`.
          kernel: `[K, O]`.
          bias: `[O]` or None.

        Returns:
          `[..., O]`, of new units that the last axis is listed for.
        """
        own, count = signal.axes[-1], kernel.shape[1]
        layer = self.layer(signal) + 1
        if is_listed(own):
            senders = self.listed(own).places
            positions = np.zeros((1, 1, NUM_COORDINATES), np.float32)
        else:
            attributes = {"layout": layout_code(own), "extent_0": signal.shape[-1]}
            senders = self.add_nodes("axis", 1, layer=layer - 1, attributes=attributes)
            positions = axis_positions(own)[:, None]
        places = self.add_nodes("place", count, layer=layer)
        self.add_edges(
            senders[:, None],
            places[None],
            "linear",
            layer=layer,
            values=kernel,
            positions=positions,
        )
        if bias is not None:
            self.add_unit_node(places, bias, layer=layer)
        axis = self._add_listed(places, layer)
        units = self.add_nodes("mixed", signal.units.shape, layer=layer)
        self.link(signal, units)
        self.add_places(units, axis)
        axes = (*signal.axes[:-1], axis if count > 1 else ())
        return Signal(units, (*signal.shape[:-1], count), axes)

    def _add_listed(self, places: np.ndarray, layer: int, origin: Axis = ()) -> Axis:
        node = self._axis_node(places, layer=layer)
        self._listed.append(ListedAxis(places, node, origin))
        return (Atom(LISTED + 1 - len(self._listed), 1, len(places)),)

    def copy_axis(self, axis: Axis) -> Axis:
        """A listed axis whose places are those of another one once more.

        Queries and keys of the same places, for example, are two axes of their logits.
        """
        own = self.listed(axis)
        layer = int(self.node_array("layers")[own.places].max())
        places = self.add_nodes("place", own.places.shape, layer=layer)
        self.add_edges(own.places, places, "identity", layer=layer)
        self.tie(places, own.places)
        return self._add_listed(places, layer, axis)

    def along(self, signal: Signal, axis: int, target: Axis) -> Signal:
        """A signal whose listed axis runs along another one of its length.

        Places of a listed axis move with those of the target; those that are to be
        positions stay where they are.
        """
        own = self.listed(signal.axes[axis])
        layer = max(
            self.layer(signal), int(self.node_array("layers")[own.places].max())
        )
        if is_listed(target) and self.listed(target).origin == signal.axes[axis]:
            node = self.listed(target).node
        elif is_listed(target):
            pairs = self.add_nodes("place", own.places.shape, layer=layer)
            both = self.listed(target).places, own.places
            for places, kind in zip(both, ("first", "second"), strict=True):
                self.add_edges(places, pairs, kind, layer=layer)
                self.tie(pairs, places)
            node = self._axis_node(pairs, layer=layer)
        else:
            self.fix(own.places)
            node = self._axis_node(own.places, layer=layer, target=target)
        units = self.add_nodes("moved", signal.units.shape, layer=layer)
        self.link(signal, units)
        self.add_edges(node.reshape((1,) * units.ndim), units, "axis", layer=layer)
        axes = (*signal.axes[:axis], target, *signal.axes[axis + 1 :])
        return Signal(units, signal.shape, axes)

    def in_order(self, signal: Signal) -> Signal:
        """A signal whose listed axes became axes of positions."""
        for axis, own in enumerate(signal.axes):
            if is_listed(own):
                taken = {atom.coordinate for other in signal.axes for atom in other}
                free = [c for c in range(NUM_COORDINATES) if c not in taken]
                plain = (Atom(free[0] if free else 0, 1, signal.shape[axis]),)
                target = replace_axis(signal.axes, axis, plain)[axis]
                signal = self.along(signal, axis, target)
        return signal

    def expand(self, signal: Signal, axes: Sequence[int]) -> Signal:
        """Turns shared axes into explicit ones.

        Along a listed axis there are new units, one per unit and place; along others
        the same units at several positions.
        """
        listed = [a for a in axes if is_listed(signal.axes[a])]
        return super().expand(self._spread(signal, listed), axes)

    def expand_listed(self, signal: Signal) -> Signal:
        """A signal without listed axes, for what works with units or positions."""
        listed = [a for a, own in enumerate(signal.axes) if is_listed(own)]
        return self._spread(signal, listed)

    def _spread(self, signal: Signal, axes: Sequence[int]) -> Signal:
        """A unit per pair of a unit and a place of some listed axes."""
        if not axes:
            return signal
        parts, new_axes = [signal.units], list(signal.axes)
        for axis in axes:
            shape = [1] * signal.ndim
            shape[axis] = signal.shape[axis]
            parts.append(self.listed(signal.axes[axis]).places.reshape(shape))
            new_axes[axis] = ()
        layer = int(max(self.node_array("layers")[part].max() for part in parts))
        shape = np.broadcast_shapes(*(part.shape for part in parts))
        units = self.add_nodes("copy", shape, layer=layer)
        self.link(signal, units, tie=False)
        for places in parts[1:]:
            self.add_edges(places, units, "axis", layer=layer)
        self.tie_product(units, parts)
        return Signal(units, signal.shape, tuple(new_axes))
