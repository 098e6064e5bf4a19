"""What rules of layers that mix positions ask of their inputs."""

from __future__ import annotations

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import check_coordinate, window_slots
from modmeta.metanet.parameter_graphs.signals import Signal


def feature_signal(builder: Builder, signal: Signal) -> Signal:
    """The signal with units along its last axis, and along that axis alone.

    Raises:
      UnsupportedLayerError: If units differ along another axis too: a layer that
        mixes positions would carry every parameter on many edges.
    """
    signal = builder.distinct(builder.expand(signal, [signal.ndim - 1]))
    if signal.units.size != signal.units.shape[-1]:
        raise UnsupportedLayerError(
            f"array of shape {signal.shape}: found units of shape "
            f"{signal.units.shape}, expected units that differ on the last axis alone"
        )
    return signal


def mixed_axis(signal: Signal) -> tuple[int, float]:
    """The axis before the last one, along which a layer mixes positions.

    Returns:
      The coordinate that positions on this axis are reported in, and the layout code
      of the axis.

    Raises:
      UnsupportedLayerError: If it is the axis of examples, or has no position.
    """
    if signal.ndim < 2:
        raise UnsupportedLayerError(
            f"array of shape {signal.shape}: expected an axis before the last one"
        )
    axis = signal.axes[-2]
    for atom in axis:
        check_coordinate(atom)
    (slot,), layout = window_slots([axis])
    return slot, layout
