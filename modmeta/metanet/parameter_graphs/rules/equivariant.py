"""Layers that are equivariant to permutations or cyclic shifts of an axis.

The units are features: one stands for a feature at all elements of the axis.
"""

from __future__ import annotations

import numpy as np

from modmeta.metanet.input_networks.layers import CyclicDense, DeepSetsDense
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.rules.axes import feature_signal, mixed_axis
from modmeta.metanet.parameter_graphs.signals import Signal


@register_rule(DeepSetsDense)
def deep_sets_dense(builder: Builder, call: LayerCall) -> Signal:
    """Two parallel sets of edges, whose types tell element and mean apart."""
    signal = feature_signal(builder, call.signal)
    slot, layout = mixed_axis(signal)
    layer = builder.layer(signal) + 1
    attributes = {f"extent_{slot}": signal.shape[-2], "layout": layout}
    units = builder.add_nodes(
        "set", call.module.features, layer=layer, attributes=attributes
    )
    for name, edge_type in (("pointwise", "set_pointwise"), ("mean", "set_mean")):
        kernel = call.parameters[name]
        builder.connect(signal, units, kernel, edge_type, layer=layer)
    if "bias" in call.parameters:
        builder.add_unit_node(units, call.parameters["bias"], layer=layer)
    return builder.signal_like(signal, units)


@register_rule(CyclicDense)
def cyclic_dense(builder: Builder, call: LayerCall) -> Signal:
    """One edge per shift and pair of features; the shift is its position."""
    signal = feature_signal(builder, call.signal)
    slot, layout = mixed_axis(signal)
    layer = builder.layer(signal) + 1
    kernel = call.parameters["kernel"]
    num_shifts = kernel.shape[0]
    attributes = {
        f"extent_{slot}": num_shifts,
        "is_circular": 1.0,
        "layout": layout,
    }
    units = builder.add_nodes(
        "cyclic", call.module.features, layer=layer, attributes=attributes
    )
    for shift in range(num_shifts):
        position = np.zeros(NUM_COORDINATES, np.float32)
        position[slot] = shift
        builder.connect(
            signal,
            units,
            kernel.map(lambda array, shift=shift: array[shift]),
            "cyclic",
            layer=layer,
            positions=position,
        )
    if "bias" in call.parameters:
        builder.add_unit_node(units, call.parameters["bias"], layer=layer)
    return builder.signal_like(signal, units)
