"""Dense layers: one node per output unit, one edge per weight, one bias node."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import numpy as np

from modmeta.metanet.parameter_graphs.arrays import reshape, transpose
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.signals import Signal, Table


def linear(
    builder: Builder,
    signal: Signal,
    kernel: Table,
    bias: Table | None = None,
    *,
    node_type: str = "linear",
    edge_type: str = "linear",
) -> Signal:
    """`signal @ kernel + bias` over the last axis.

    Args:
      builder: The graph.
      signal: `[..., K]`. Positions that were merged into the last axis become
        positions of the edges. Where the last axis is one of positions that several
        units share, the outputs are places of a listed axis. If units differ along
        other axes too, every one of them gets its own outputs, and weights have
        several edges.
      kernel: `[K, O]`.
      bias: `[O]` or None.
      node_type: Type of the outputs.
      edge_type: Type of the edges of the kernel.

    Returns:
      `[..., O]`.
    """
    if node_type == "linear" and builder.can_mix(signal, signal.ndim - 1):
        return builder.mix(signal, kernel, bias)
    signal = builder.distinct(builder.expand(signal, [signal.ndim - 1]))
    layer = builder.layer(signal) + 1
    lead = signal.units.shape[:-1]
    num_copies, num_inputs = math.prod(lead), signal.units.shape[-1]
    num_outputs = kernel.shape[1]
    rows = signal.units.reshape(num_copies, num_inputs)
    heads = builder.row_heads(rows) if num_copies > 1 else None
    if heads is not None or num_copies == 1:
        outputs = builder.add_nodes(node_type, (*lead, num_outputs), layer=layer)
    else:
        copies = [
            builder.add_nodes(node_type, num_outputs, layer=layer)
            for _ in range(num_copies)
        ]
        outputs = np.stack(copies).reshape(*lead, num_outputs)
    flat = outputs.reshape(num_copies, 1, num_outputs)
    builder.add_edges(
        signal.units.reshape(num_copies, num_inputs, 1),
        flat,
        edge_type,
        layer=layer,
        values=kernel.map(lambda array: array[None]),
        function=signal.function,
        positions=signal.all_positions().reshape(num_copies, num_inputs, 1, -1),
        in_step=_is_distinct(kernel),
    )
    # Copies share their weights: their units move in step.
    if heads is not None:
        builder.derive_copies(heads, outputs.reshape(num_copies, num_outputs))
    elif num_copies > 1:
        builder.tie_rows(rows)
        builder.tie_rows(outputs.reshape(num_copies, num_outputs))
    if bias is not None:
        in_step = _is_distinct(bias)
        bias = bias.map(
            lambda array: np.broadcast_to(array, (num_copies, 1, num_outputs))
        )
        builder.add_unit_node(flat, bias, layer=layer, in_step=in_step)
    return builder.signal_like(
        signal,
        outputs,
        axes=(*signal.axes[:-1], ()),
        shape=(*signal.shape[:-1], num_outputs),
    )


def _is_distinct(table: Table) -> bool:
    """True if no parameter occurs twice."""
    used = table.parameters[table.parameters >= 0]
    return bool(np.all(np.diff(np.sort(used)) > 0))


def contract(
    builder: Builder,
    signal: Signal,
    kernel: Table,
    axes: Sequence[int],
    kernel_axes: Sequence[int],
    bias: Table | None = None,
) -> Signal:
    """Contracts some axes of a signal with axes of a kernel, as `lax.dot_general`.

    Args:
      builder: The graph.
      signal: Any shape.
      kernel: Any shape.
      axes: Contracted axes of the signal.
      kernel_axes: Contracted axes of the kernel, in the same order.
      bias: In the shape of the kernel's other axes, or None.

    Returns:
      The signal's other axes, then the kernel's other axes.
    """
    free = [axis for axis in range(signal.ndim) if axis not in axes]
    kernel_free = [axis for axis in range(kernel.ndim) if axis not in kernel_axes]
    free_shape = tuple(signal.shape[axis] for axis in free)
    out_shape = tuple(kernel.shape[axis] for axis in kernel_free)
    num_inputs = math.prod(signal.shape[axis] for axis in axes)
    if len(axes) != 1 or not builder.can_mix(signal, axes[0]):
        signal = builder.expand(signal, axes)
    signal = transpose(signal, [*free, *axes])
    signal = reshape(builder, signal, (*free_shape, num_inputs))
    order = (*kernel_axes, *kernel_free)
    kernel = kernel.map(lambda array: array.transpose(order).reshape(num_inputs, -1))
    if bias is not None:
        bias = bias.map(np.ravel)
    result = linear(builder, signal, kernel, bias)
    return reshape(builder, result, (*free_shape, *out_shape))


_DEFAULTS = ("dot_general", "dot_general_cls", "promote_dtype")


@register_rule(nn.Dense, defaults=_DEFAULTS, passes_axes=True)
def dense(builder: Builder, call: LayerCall) -> Signal:
    """`nn.Dense`."""
    return linear(
        builder, call.signal, call.parameters["kernel"], call.parameters.get("bias")
    )


@register_rule(nn.DenseGeneral, defaults=_DEFAULTS, passes_axes=True)
def dense_general(builder: Builder, call: LayerCall) -> Signal:
    """`nn.DenseGeneral` without batch axes."""
    if call.module.batch_dims:
        raise UnsupportedLayerError(
            f"DenseGeneral with batch_dims={call.module.batch_dims}"
        )
    signal, axes = call.signal, call.module.axis
    axes = [axes] if isinstance(axes, int) else list(axes)
    axes = [axis % signal.ndim for axis in axes]
    kernel = call.parameters["kernel"]
    return contract(
        builder,
        signal,
        kernel,
        axes,
        range(len(axes)),
        call.parameters.get("bias"),
    )
