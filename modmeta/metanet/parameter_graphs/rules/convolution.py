"""Convolutions: one node per channel, one edge per entry of the kernel."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from modmeta.metanet.input_networks.layers import PatchConv
from modmeta.metanet.parameter_graphs.arrays import reshape
from modmeta.metanet.parameter_graphs.builder import ONE, Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Atom,
    is_listed,
    is_own,
    replace_axis,
    window_slots,
)
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.signals import Signal, Table


class Window(NamedTuple):
    """How a window slides; one entry per spatial axis.

    Attributes:
      strides: Step of the output.
      padding: `(low, high)` elements added before and after.
      dilation: Distance of the window's elements.
      input_dilation: Distance of the input's elements after zeros were put between.
      groups: Number of groups of channels.
      mode: 0 zero padding, 1 circular, 2 reflecting.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    groups: int = 1
    mode: int = 0


def window_attributes(
    signal: Signal, spatial: range, window: Window, slots: list[int], layout: float
) -> dict[str, float]:
    """Node attributes that tell windows apart, by coordinate."""
    attributes = {
        "layout": layout,
        "groups": window.groups,
        "is_circular": float(window.mode == 1),
        "mode": window.mode,
    }
    for index, (axis, slot) in enumerate(zip(spatial, slots, strict=True)):
        attributes |= {
            f"stride_{slot}": window.strides[index],
            f"padding_low_{slot}": window.padding[index][0],
            f"padding_high_{slot}": window.padding[index][1],
            f"dilation_{slot}": window.dilation[index],
            f"input_dilation_{slot}": window.input_dilation[index],
            f"extent_{slot}": signal.shape[axis],
        }
    return attributes


def convolve(
    builder: Builder,
    signal: Signal,
    kernel: Table,
    bias: Table | None,
    window: Window,
    out_shape: tuple[int, ...],
) -> Signal:
    """A convolution over the axes before the last one.

    Args:
      builder: The graph.
      signal: `[..., *spatial, I]`.
      kernel: `[*window, I / groups, O]`.
      bias: `[O]` or None.
      window: How the kernel slides.
      out_shape: Shape of the result.

    Returns:
      `[..., *spatial, O]`. Edge positions are those of the input relative to the
      place where the window begins, `index * dilation - padding_low`, in pixels.
    """
    num_spatial = kernel.ndim - 2
    if _mixes(builder, signal, kernel, window):
        kernel = kernel.map(lambda a: a.reshape(a.shape[-2:]))
        return builder.mix(signal, kernel, bias and bias.map(np.ravel))
    slid = range(signal.ndim - 1 - num_spatial, signal.ndim - 1)
    listed = [axis for axis in slid if is_listed(signal.axes[axis])]
    signal = builder.expand(signal, [*listed, signal.ndim - 1])
    if signal.units.size != signal.units.shape[-1]:
        return _convolve_units(builder, signal, kernel, bias, window, out_shape)
    signal = builder.distinct(signal)
    layer = builder.layer(signal) + 1
    *sizes, group_inputs, num_outputs = kernel.shape
    num_taps = int(np.prod(sizes))
    outputs, taps, slots = _window_units(builder, signal, window, kernel.shape, layer)
    signal = builder.distinct_at(signal, taps.reshape(-1, NUM_COORDINATES))
    senders = signal.units.ravel()
    inputs = _group_inputs(window.groups, group_inputs, num_outputs)
    own = signal.all_positions().reshape(-1, NUM_COORDINATES)[inputs]
    builder.add_edges(
        senders[inputs][None],
        outputs[None, None],
        "convolution",
        layer=layer,
        values=kernel.map(lambda a: a.reshape(num_taps, group_inputs, num_outputs)),
        function=signal.function,
        positions=taps.reshape(num_taps, 1, 1, NUM_COORDINATES) + own[None],
    )
    if window.groups > 1:
        builder.tie_groups(senders, outputs, window.groups)
    if bias is not None:
        builder.add_unit_node(outputs, bias.map(np.ravel), layer=layer)
    return _slid(builder, signal, outputs, num_spatial, slots, out_shape)


def _mixes(builder: Builder, signal: Signal, kernel: Table, window: Window) -> bool:
    """True for a dense layer along positions, written as a window of one element."""
    num_spatial = kernel.ndim - 2
    usual = Window(*((one,) * num_spatial for one in (1, (0, 0), 1, 1)))
    is_pointwise = kernel.shape[:-2] == (1,) * num_spatial
    is_pointwise = is_pointwise and window._replace(mode=0) == usual
    return is_pointwise and builder.can_mix(signal, signal.ndim - 1)


def _group_inputs(num_groups: int, num_inputs: int, num_outputs: int) -> np.ndarray:
    """Inputs `[I / groups, O]` that every output reads, `[I, 1]` for one group."""
    if num_groups == 1:
        return np.arange(num_inputs)[:, None]
    group = np.arange(num_outputs) // (num_outputs // num_groups)
    return group[None] * num_inputs + np.arange(num_inputs)[:, None]


def _window_units(
    builder: Builder,
    signal: Signal,
    window: Window,
    kernel_shape: tuple[int, ...],
    layer: int,
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Units of the outputs, positions `[*window, 3]` of taps, and their coordinates."""
    *sizes, _, num_outputs = kernel_shape
    num_spatial = len(sizes)
    spatial = range(signal.ndim - 1 - num_spatial, signal.ndim - 1)
    slots, layout = window_slots([signal.axes[axis] for axis in spatial])
    outputs = builder.add_nodes(
        "convolution",
        num_outputs,
        layer=layer,
        attributes=window_attributes(signal, spatial, window, slots, layout),
    )
    taps = np.zeros((*sizes, NUM_COORDINATES), np.float32)
    for index, slot in enumerate(slots):
        shape = [1] * num_spatial
        shape[index] = sizes[index]
        offsets = np.arange(sizes[index]) * window.dilation[index]
        taps[..., slot] += (offsets - window.padding[index][0]).reshape(shape)
    return outputs, taps, slots


def _slid(
    builder: Builder,
    signal: Signal,
    outputs: np.ndarray,
    num_spatial: int,
    slots: list[int],
    out_shape: tuple[int, ...],
) -> Signal:
    """The signal of units of a sliding window over the axes before the last one."""
    spatial = range(signal.ndim - 1 - num_spatial, signal.ndim - 1)
    axes = tuple(() if a in spatial else old for a, old in enumerate(signal.axes[:-1]))
    for axis, slot in zip(spatial, slots, strict=True):
        size = out_shape[axis]
        own = (Atom(slot, 1, size),) if size > 1 else ()
        axes = replace_axis(axes, axis, own)
    return builder.signal_like(
        signal,
        outputs.reshape((1,) * (signal.ndim - 1) + (-1,)),
        axes=(*axes, ()),
        shape=tuple(out_shape),
    )


def convolve_computed(
    builder: Builder,
    signal: Signal,
    kernel: Signal,
    window: Window,
    out_shape: tuple[int, ...],
) -> Signal:
    """A convolution with a kernel that is computed: a product per entry of the kernel.

    Arguments and result as for `convolve`.

    Raises:
      UnsupportedLayerError: If units of the signal differ from place to place, or if
        the kernel does not have the same entries everywhere.
    """
    num_spatial = kernel.ndim - 2
    signal = builder.expand(signal, [signal.ndim - 1])
    if signal.units.size != signal.units.shape[-1]:
        raise UnsupportedLayerError(
            "convolution of units that differ from place to place with a kernel that "
            "is computed"
        )
    if any(map(is_own, kernel.axes)):
        raise UnsupportedLayerError("convolution with a kernel made of positions")
    signal = builder.distinct(signal)
    units = np.broadcast_to(kernel.units, kernel.shape)
    own = np.broadcast_to(kernel.all_positions(), (*kernel.shape, NUM_COORDINATES))
    layer = builder.layer(signal, kernel) + 1
    outputs, taps, slots = _window_units(builder, signal, window, kernel.shape, layer)
    *sizes, num_inputs, num_outputs = kernel.shape
    inputs = _group_inputs(window.groups, num_inputs, num_outputs)
    inputs = inputs[:, :1] if window.groups == 1 else inputs
    lead, rank = signal.ndim - 1, signal.ndim + 1
    left = Signal(
        signal.units[..., inputs],
        (*signal.shape[:-1], *inputs.shape),
        (*signal.axes[:-1], (), ()),
        None if signal.positions is None else signal.positions[..., inputs, :],
        signal.function,
    )
    for tap in np.ndindex(*sizes):
        entries = units[tap].reshape(*[1] * lead, num_inputs, num_outputs)
        right = Signal(
            entries,
            entries.shape,
            ((),) * rank,
            own[tap].reshape(*entries.shape, NUM_COORDINATES),
            kernel.function,
        )
        products = builder.combine("product", [left, right], [ONE, ONE])
        rows = products.units.reshape(num_inputs, num_outputs).T
        builder.add_edges(
            rows,
            outputs[:, None],
            "convolution",
            layer=layer,
            positions=taps[tap],
        )
        if num_outputs > 1:
            builder.tie_to_rows(outputs, rows)
    return _slid(builder, signal, outputs, num_spatial, slots, out_shape)


def _convolve_units(
    builder: Builder,
    signal: Signal,
    kernel: Table,
    bias: Table | None,
    window: Window,
    out_shape: tuple[int, ...],
) -> Signal:
    """A convolution of units that differ from place to place: units for every place.

    Arguments and result as for `convolve`; positions of edges are those of the signal
    alone, as the taps are where their units are.
    """
    num_spatial = kernel.ndim - 2
    spatial = list(range(signal.ndim - 1 - num_spatial, signal.ndim - 1))
    if (
        window.groups > 1
        or window.mode
        or signal.units.size
        != math.prod(signal.units.shape[axis] for axis in (*spatial, -1))
    ):
        raise UnsupportedLayerError(
            "convolution of units that differ from place to place, with groups, "
            "without zero padding, or along other axes too"
        )
    signal = builder.distinct(builder.expand(signal, spatial))
    layer = builder.layer(signal) + 1
    *sizes, num_inputs, num_outputs = kernel.shape
    extents = [signal.units.shape[axis] for axis in spatial]
    senders = signal.units.reshape(-1, num_inputs)
    own = signal.all_positions().reshape(-1, num_inputs, 1, NUM_COORDINATES)
    out_extents = [out_shape[axis] for axis in spatial]
    outputs = np.stack(
        [
            builder.add_nodes("linear", num_outputs, layer=layer)
            for _ in range(math.prod(out_extents))
        ]
    )
    places = np.stack(np.indices(out_extents), -1).reshape(-1, num_spatial)
    for tap in np.ndindex(*sizes):
        where = places * window.strides + np.multiply(tap, window.dilation)
        where = where - [low for low, _ in window.padding]
        inside = np.all(where % window.input_dilation == 0, axis=1)
        where = where // window.input_dilation
        inside &= np.all((where >= 0) & (where < extents), axis=1)
        if inside.any():
            index = np.ravel_multi_index(where[inside].T, extents)
            builder.add_edges(
                senders[index][:, :, None],
                outputs[inside][:, None],
                "linear",
                layer=layer,
                values=kernel.map(lambda array, tap=tap: array[tap][None]),
                function=signal.function,
                positions=own[index],
            )
    builder.tie_rows(senders)
    builder.tie_rows(outputs)
    if bias is not None:
        bias = bias.map(lambda a: np.broadcast_to(a.ravel(), outputs.shape))
        builder.add_unit_node(outputs, bias, layer=layer)
    lead = signal.axes[: spatial[0]]
    return Signal(
        outputs.reshape((1,) * spatial[0] + (*out_extents, num_outputs)),
        tuple(out_shape),
        (*lead, *[()] * (num_spatial + 1)),
    )


def _per_axis(value: int | tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (value,) * count if isinstance(value, int) else tuple(value)


def _window(module: nn.Conv, shape: tuple[int, ...], num_spatial: int) -> Window:
    """Settings of an `nn.Conv`, padding in numbers."""
    sizes = _per_axis(module.kernel_size, num_spatial)
    strides = _per_axis(module.strides, num_spatial)
    dilation = _per_axis(module.kernel_dilation, num_spatial)
    input_dilation = _per_axis(module.input_dilation, num_spatial)
    spans = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    padding, mode = module.padding, 0
    if isinstance(padding, int):
        pairs = [(padding, padding)] * num_spatial
    elif not isinstance(padding, str):
        pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in padding]
        pairs = pairs * num_spatial if len(pairs) < num_spatial else pairs
    elif padding in ("CIRCULAR", "REFLECT"):
        pairs = [((span - 1) // 2, span // 2) for span in spans]
        mode = 1 if padding == "CIRCULAR" else 2
    elif padding == "CAUSAL":
        pairs = [(span - 1, 0) for span in spans]
    else:
        extents = shape[-1 - num_spatial : -1]
        extents = [
            (n - 1) * d + 1 for n, d in zip(extents, input_dilation, strict=True)
        ]
        pairs = jax.lax.padtype_to_pads(extents, spans, strides, padding)
    pairs = tuple((int(low), int(high)) for low, high in pairs)
    return Window(
        strides, pairs, dilation, input_dilation, module.feature_group_count, mode
    )


@register_rule(
    nn.Conv,
    PatchConv,
    defaults=("conv_general_dilated", "conv_general_dilated_cls", "promote_dtype"),
    passes_axes=True,
)
def conv(builder: Builder, call: LayerCall) -> Signal:
    """`nn.Conv` in one, two or three dimensions."""
    module, signal = call.module, call.signal
    if module.mask is not None:
        raise UnsupportedLayerError("Conv with a mask")
    kernel = call.parameters["kernel"]
    num_spatial = kernel.ndim - 2
    if num_spatial == 0:
        raise UnsupportedLayerError("Conv with an empty kernel_size")
    window = _window(module, signal.shape, num_spatial)
    if signal.is_shared[-1] and not _mixes(builder, signal, kernel, window):
        signal = reshape(builder, builder.expand(signal, [-1]), signal.shape)
    return convolve(
        builder,
        signal,
        kernel,
        call.parameters.get("bias"),
        window,
        call.outputs.shape,
    )
