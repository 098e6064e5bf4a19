"""Attention: queries, keys and values apart, and one node per head.

A logit of head h is the sum over d of query (h, d) times key (h, d): a product node per
(h, d) and a head node that sums them. A head's weights multiply its values: an attended
node per (h, d), with edges from the value and from the head. So heads may change
places as a whole, query and key dimensions of a head only together, and likewise the
value dimensions with the rows of the output kernel.

Letters: H heads, D dimensions of a head, I and O features in and out.
"""

from __future__ import annotations

import zlib
from typing import Any

import flax.linen as nn
import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import layout_code
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.rules.axes import feature_signal, mixed_axis
from modmeta.metanet.parameter_graphs.signals import Signal, Table


def _check_settings(call: LayerCall) -> None:
    module = call.module
    is_deterministic = call.kwargs.get("deterministic")
    if is_deterministic is None:
        is_deterministic = module.deterministic
    unsupported = {
        "decode": module.decode,
        "normalize_qk": module.normalize_qk,
        "attention_fn": module.attention_fn is not nn.dot_product_attention,
        "dropout in training": module.dropout_rate > 0 and not is_deterministic,
    }
    for setting, is_used in unsupported.items():
        if is_used:
            raise UnsupportedLayerError(f"attention with {setting}")


def _mask_attributes(mask: Signal | Table | None) -> dict[str, float]:
    """Node attributes that tell constant masks apart; none for a mask of ones."""
    if mask is None:
        return {}
    if isinstance(mask, Signal) or not mask.is_constant:
        raise UnsupportedLayerError("attention with a mask that is not constant")
    allowed = mask.constants.astype(bool)
    allowed = allowed.reshape(-1, *allowed.shape[-2:])
    if np.any(allowed != allowed[:1]):
        raise UnsupportedLayerError(
            "attention with a mask that differs between examples or heads"
        )
    if np.all(allowed):
        return {}
    if np.array_equal(allowed[0], np.tri(*allowed.shape[-2:], dtype=bool)):
        return {"is_causal": 1.0}
    code = zlib.crc32(np.packbits(allowed[0]).tobytes())
    return {"mode": (1 + code % 65521) / 65536.0}


def _arguments(call: LayerCall) -> tuple[Signal, Signal, Signal, Any]:
    """Queries, keys, values and the mask of a call."""
    queries = call.signal
    if isinstance(call.module, nn.SelfAttention):
        return queries, queries, queries, call.argument("mask", 1)
    both = call.kwargs.get("inputs_kv")
    keys = call.argument("inputs_k", 1, queries if both is None else both)
    values = call.argument("inputs_v", 2, keys)
    if isinstance(keys, Table) or isinstance(values, Table):
        raise UnsupportedLayerError("attention to a constant or a parameter")
    return queries, keys, values, call.kwargs.get("mask")


def _layout(queries: Signal, keys: Signal, values: Signal) -> tuple[int, float]:
    """Coordinate of the keys' axis, and a code that is 0 for aligned axes."""
    slot, layout = mixed_axis(keys)

    def coordinates(signal: Signal) -> list:
        return [[a._replace(size=0) for a in axis] for axis in signal.axes[:-1]]

    mixed_axis(queries)
    signals = (queries, keys, values)
    if any(coordinates(signal) != coordinates(keys) for signal in signals):
        axes = [axis for signal in signals for axis in signal.axes[:-1]]
        layout = layout_code(*axes, is_usual=False)
    return slot, layout


def _vector(units: np.ndarray) -> Signal:
    """Units as the elements of a vector."""
    return Signal(units, units.shape, ((),))


@register_rule(
    nn.MultiHeadDotProductAttention,
    nn.SelfAttention,
    defaults=(
        "attention_fn",
        "qkv_dot_general",
        "out_dot_general",
        "qkv_dot_general_cls",
        "out_dot_general_cls",
        "qk_attn_weights_einsum_cls",
        "attn_weights_value_einsum_cls",
    ),
)
def attention(builder: Builder, call: LayerCall) -> Signal:
    """Dot-product attention of Flax: to itself or to other signals, H heads."""
    _check_settings(call)
    *signals, mask = _arguments(call)
    queries, keys, values = (feature_signal(builder, signal) for signal in signals)
    num_heads, width = call.parameters["query"]["kernel"].shape[1:]
    size = num_heads * width
    layer = builder.layer(queries, keys, values) + 1

    def project(name: str, signal: Signal) -> np.ndarray:
        parameters = call.parameters[name]
        units = builder.add_nodes(name, size, layer=layer)
        kernel = parameters["kernel"].map(lambda array: array.reshape(-1, size))
        builder.connect(signal, units, kernel, name, layer=layer)
        if "bias" in parameters:
            builder.add_unit_node(units, parameters["bias"].map(np.ravel), layer=layer)
        return units

    query = project("query", queries)
    key = project("key", keys)
    value = project("value", values)

    products = builder.add_nodes("attention_product", size, layer=layer)
    builder.link(_vector(query), products)
    builder.link(_vector(key), products)
    slot, layout = _layout(queries, keys, values)
    attributes = {
        "heads": num_heads,
        "factor": width**-0.5,
        "layout": layout,
        f"extent_{slot}": keys.shape[-2],
        **_mask_attributes(mask),
    }
    heads = builder.add_nodes("head", num_heads, layer=layer, attributes=attributes)
    grouped = products.reshape(num_heads, width)
    builder.add_edges(grouped, heads[:, None], "identity", layer=layer)
    builder.tie_groups(products, heads, num_heads)

    attended = builder.add_nodes("attended", size, layer=layer)
    builder.link(_vector(value), attended)
    grouped = attended.reshape(num_heads, width)
    builder.add_edges(heads[:, None], grouped, "identity", layer=layer)
    builder.tie_groups(attended, heads, num_heads)

    parameters = call.parameters["out"]
    kernel = parameters["kernel"].map(lambda array: array.reshape(size, -1))
    layer = layer + 1
    outputs = builder.add_nodes("attention_output", kernel.shape[1], layer=layer)
    builder.connect(_vector(attended), outputs, kernel, "attention_output", layer=layer)
    if "bias" in parameters:
        builder.add_unit_node(outputs, parameters["bias"], layer=layer)
    return builder.signal_like(queries, outputs)
