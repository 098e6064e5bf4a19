"""Normalisations: new units, joined one to one to those that are normalised.

Gains, shifts and running statistics are edges from nodes of their own: one node each
for gain, shift, mean and variance, and one edge per entry to every unit.
"""

from __future__ import annotations

import math

import flax.linen as nn
import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import is_own, window_slots
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.signals import Signal


def normalize(
    builder: Builder,
    call: LayerCall,
    signal: Signal,
    node_type: str,
    attributes: dict[str, float],
    num_groups: int | None = None,
) -> Signal:
    """Adds the units of a normalisation over the last axis, and their parameters.

    Units of a group are joined to a node for the moments of the group, which tells who
    is normalised with whom.
    """
    if signal.is_shared[-1] or signal.units.size != signal.units.shape[-1]:
        raise UnsupportedLayerError(
            f"{type(call.module).__name__} over units that differ along several axes "
            f"(array {signal.shape}, units {signal.units.shape})"
        )
    signal = builder.distinct(signal)
    layer = builder.layer(signal)
    attributes = {"epsilon": call.module.epsilon, **attributes}
    units = builder.add_nodes(
        node_type, signal.units.shape, layer=layer, attributes=attributes
    )
    builder.link(signal, units)
    if num_groups is not None:
        moments = builder.add_nodes("moments", (num_groups, 1), layer=layer)
        senders = signal.units.reshape(num_groups, -1)
        builder.add_edges(
            senders, moments, "identity", layer=layer, function=signal.function
        )
        members = units.reshape(num_groups, -1)
        builder.add_edges(moments, members, "identity", layer=layer)
        if num_groups > 1:
            builder.tie_to_rows(moments.ravel(), members)
    for name, kind in (("scale", "scale"), ("bias", "shift")):
        if name in call.parameters:
            values = call.parameters[name].map(np.ravel)
            builder.add_unit_node(
                units.ravel(), values, node_type=kind, edge_type=kind, layer=layer
            )
    for name, kind in (("mean", "mean"), ("var", "variance")):
        if name in call.statistics:
            values = call.statistics[name].map(np.ravel)
            builder.add_unit_node(
                units.ravel(), values, node_type=kind, edge_type=kind, layer=layer
            )
    return builder.signal_like(signal, units, shape=signal.shape)


def _is_last(axes, ndim: int) -> bool:
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    return tuple(axis % ndim for axis in axes) == (ndim - 1,)


def _check_mask(call: LayerCall) -> None:
    if call.kwargs.get("mask") is not None:
        raise UnsupportedLayerError(f"{type(call.module).__name__} with a mask")


def _check_axes(call: LayerCall, ndim: int, *names: str) -> None:
    for name in names:
        axes = getattr(call.module, name)
        if not _is_last(axes, ndim):
            raise UnsupportedLayerError(
                f"{type(call.module).__name__} with {name}={axes}: only the last axis "
                "is covered"
            )


@register_rule(nn.BatchNorm, passes_axes=True)
def batch_norm(builder: Builder, call: LayerCall) -> Signal:
    """`nn.BatchNorm` with its running averages."""
    _check_mask(call)
    signal = call.signal
    _check_axes(call, signal.ndim, "axis")
    uses_average = call.argument(
        "use_running_average", 1, call.module.use_running_average
    )
    if not uses_average:
        raise UnsupportedLayerError(
            "BatchNorm of the statistics of a batch: pass use_running_average=True "
            "(or what the model calls it, for example train=False)"
        )
    return normalize(builder, call, signal, "batch_norm", {})


@register_rule(nn.LayerNorm, passes_axes=True)
def layer_norm(builder: Builder, call: LayerCall) -> Signal:
    """`nn.LayerNorm` over the last axis."""
    _check_mask(call)
    _check_axes(call, call.signal.ndim, "reduction_axes", "feature_axes")
    return normalize(builder, call, call.signal, "layer_norm", {}, 1)


@register_rule(nn.RMSNorm, passes_axes=True)
def rms_norm(builder: Builder, call: LayerCall) -> Signal:
    """`nn.RMSNorm` over the last axis."""
    _check_mask(call)
    _check_axes(call, call.signal.ndim, "reduction_axes", "feature_axes")
    return normalize(builder, call, call.signal, "rms_norm", {}, 1)


@register_rule(nn.GroupNorm)
def group_norm(builder: Builder, call: LayerCall) -> Signal:
    """`nn.GroupNorm`: groups of neighbouring channels move together."""
    _check_mask(call)
    module, signal = call.module, call.signal
    axes = module.reduction_axes
    expected = tuple(range(1, signal.ndim))
    if axes is not None and tuple(sorted(a % signal.ndim for a in axes)) != expected:
        raise UnsupportedLayerError(
            f"GroupNorm with reduction_axes={axes}: expected all axes but the first"
        )
    groups = module.num_groups or signal.shape[-1] // module.group_size
    extents = _extents(signal)
    return normalize(
        builder, call, signal, "group_norm", {"groups": groups, **extents}, groups
    )


@register_rule(nn.InstanceNorm)
def instance_norm(builder: Builder, call: LayerCall) -> Signal:
    """`nn.InstanceNorm` over the axes between the first and the last."""
    _check_mask(call)
    _check_axes(call, call.signal.ndim, "feature_axes")
    return normalize(builder, call, call.signal, "instance_norm", _extents(call.signal))


def _extents(signal: Signal) -> dict[str, float]:
    """Sizes of the axes that statistics are taken over, and which axes these are."""
    axes = [axis for axis in signal.axes[1:] if is_own(axis)]
    slots, layout = window_slots(axes)
    sizes = [math.prod(atom.size for atom in axis) for axis in axes]
    extents = zip(slots, sizes, strict=True)
    return {"layout": layout, **{f"extent_{slot}": size for slot, size in extents}}
