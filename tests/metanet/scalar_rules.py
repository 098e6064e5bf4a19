"""What primitives do to single numbers, for `scalar_programs`."""

import itertools
import math

import numpy as np
import scipy.special

RULES = {}


class Operands:
    """Operands of a primitive: numbers `ids(i)`, or values where they are constants."""

    def __init__(self, program, values, avals):
        self._program, self._values, self._avals = program, values, avals

    def __len__(self):
        return len(self._values)

    def ids(self, index):
        return self._program.ids(self._values[index])

    def constant(self, index):
        """The value of an operand; an error if it is not known."""
        value = self._values[index]
        if not hasattr(value, "value"):
            raise NotImplementedError("a place that is computed")
        return value.value

    def is_constant(self, index):
        return hasattr(self._values[index], "value")

    def dtype(self, index):
        return self._avals[index].dtype

    def add(self, *args, **kwargs):
        return self._program.add(*args, **kwargs)


def rule(*names):
    def register(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# Numbers that are moved.


@rule(
    "copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier",
    "device_put",
)  # fmt: skip
def _same(operands, params, shapes):
    return [operands.ids(i) for i in range(len(operands))]


@rule("reshape", "squeeze", "expand_dims")
def _reshape(operands, params, shapes):
    return [operands.ids(0).reshape(shapes[0])]


@rule("transpose")
def _transpose(operands, params, shapes):
    return [operands.ids(0).transpose(params["permutation"])]


@rule("broadcast_in_dim")
def _broadcast(operands, params, shapes):
    ids, placed = operands.ids(0), [1] * len(shapes[0])
    for axis, target in enumerate(params["broadcast_dimensions"]):
        placed[target] = ids.shape[axis]
    return [np.broadcast_to(ids.reshape(placed), shapes[0])]


@rule("slice")
def _slice(operands, params, shapes):
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return [operands.ids(0)[tuple(map(slice, starts, limits, strides))]]


@rule("dynamic_slice")
def _dynamic_slice(operands, params, shapes):
    ids, index = operands.ids(0), []
    for axis, size in enumerate(params["slice_sizes"]):
        start = int(operands.constant(1 + axis))
        start = min(max(start, 0), ids.shape[axis] - size)
        index.append(slice(start, start + size))
    return [ids[tuple(index)]]


@rule("dynamic_update_slice")
def _dynamic_update_slice(operands, params, shapes):
    ids, update = operands.ids(0).copy(), operands.ids(1)
    index = []
    for axis, size in enumerate(update.shape):
        start = min(max(int(operands.constant(2 + axis)), 0), ids.shape[axis] - size)
        index.append(slice(start, start + size))
    ids[tuple(index)] = update
    return [ids]


@rule("split")
def _split(operands, params, shapes):
    places = np.cumsum(params["sizes"])[:-1]
    return np.split(operands.ids(0), places, params["axis"])


@rule("concatenate")
def _concatenate(operands, params, shapes):
    parts = [operands.ids(i) for i in range(len(operands))]
    return [np.concatenate(parts, params["dimension"])]


@rule("stack")
def _stack(operands, params, shapes):
    parts = [operands.ids(i) for i in range(len(operands))]
    return [np.stack(parts, params["axis"])]


@rule("unstack")
def _unstack(operands, params, shapes):
    return list(np.moveaxis(operands.ids(0), params["axis"], 0))


@rule("tile")
def _tile(operands, params, shapes):
    return [np.tile(operands.ids(0), params["reps"])]


@rule("rev")
def _rev(operands, params, shapes):
    return [np.flip(operands.ids(0), params["dimensions"])]


def padded(ids, fill, config):
    """Numbers with fill around and between them; negative counts cut."""
    for axis, (low, high, interior) in enumerate(config):
        ids = np.moveaxis(ids, axis, 0)
        size = len(ids) + max(len(ids) - 1, 0) * interior
        wide = np.full((size + max(low, 0) + max(high, 0), *ids.shape[1:]), fill)
        wide[max(low, 0) : max(low, 0) + size : interior + 1] = ids
        ids = wide[max(-low, 0) : len(wide) - max(-high, 0)]
        ids = np.moveaxis(ids, 0, axis)
    return ids


@rule("pad")
def _pad(operands, params, shapes):
    return [padded(operands.ids(0), operands.ids(1), params["padding_config"])]


def gather_places(shape, indices, params, out_shape):
    """Coordinates `[*out, rank]` of a gather; indices `[..., m]` or None for zeros."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    batch = [a for a in range(len(out_shape)) if a not in numbers.offset_dims]
    batching = numbers.operand_batching_dims
    dropped = (*numbers.collapsed_slice_dims, *batching)
    kept = [a for a in range(len(shape)) if a not in dropped]
    places = np.zeros((*out_shape, len(shape)), int)
    grid = np.indices(out_shape)
    for out_axis, axis in zip(numbers.offset_dims, kept, strict=True):
        places[..., axis] += grid[out_axis]
    where = tuple(grid[a] for a in batch)
    for axis, index_axis in zip(
        batching, numbers.start_indices_batching_dims, strict=True
    ):
        places[..., axis] += where[index_axis]
    if indices is not None:
        for column, axis in enumerate(numbers.start_index_map):
            start = indices[(*where, column)]
            places[..., axis] += np.clip(start, 0, shape[axis] - sizes[axis])
    return places, where


@rule("gather")
def _gather(operands, params, shapes):
    ids = operands.ids(0)
    if operands.is_constant(1):
        indices = np.asarray(operands.constant(1)).astype(int)
        places, _ = gather_places(ids.shape, indices, params, shapes[0])
        return [ids[tuple(np.moveaxis(places, -1, 0))]]
    indices = operands.ids(1)
    places, where = gather_places(ids.shape, None, params, shapes[0])
    axes = params["dimension_numbers"].start_index_map
    sizes = [ids.shape[axis] for axis in axes]
    if any(params["slice_sizes"][axis] != 1 for axis in axes):
        raise NotImplementedError("gather of windows at places that are computed")
    choices = []
    for index in np.ndindex(*sizes):
        moved = places.copy()
        moved[..., list(axes)] = index
        choices.append(ids[tuple(np.moveaxis(moved, -1, 0))])
    starts = [indices[(*where, column)] for column in range(len(axes))]
    count = len(axes)

    def evaluate(values):
        start = values[:, :count].astype(int)
        start = [np.clip(start[:, i], 0, size - 1) for i, size in enumerate(sizes)]
        flat = np.ravel_multi_index(tuple(start), sizes)
        return np.take_along_axis(values, count + flat[:, None], 1)[:, 0]

    table = np.stack([*starts, *choices], axis=-1)
    return [operands.add(f"gather {sizes}", table, evaluate)]


# Operations on numbers of one place.

_UNARY = {
    "neg": np.negative, "sign": np.sign, "floor": np.floor, "ceil": np.ceil,
    "round": np.round, "exp": np.exp, "exp2": np.exp2, "log": np.log,
    "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin,
    "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "logistic": scipy.special.expit,
    "erf": scipy.special.erf, "erfc": scipy.special.erfc,
    "erf_inv": scipy.special.erfinv, "lgamma": scipy.special.gammaln,
    "digamma": scipy.special.digamma, "sqrt": np.sqrt, "cbrt": np.cbrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "abs": np.abs, "square": np.square,
    "one_minus_square": lambda x: 1 - np.square(x),
    "is_finite": np.isfinite, "not": lambda x: 1 - x,
}  # fmt: skip
_BINARY = {
    "sub": np.subtract, "div": np.divide, "rem": np.fmod, "pow": np.power,
    "atan2": np.arctan2, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "lt_to": np.less, "le_to": np.less_equal, "ge": np.greater_equal,
    "nextafter": np.nextafter,
}  # fmt: skip
_SYMMETRIC = {
    "add": np.add, "add_any": np.add, "mul": np.multiply, "max": np.maximum,
    "min": np.minimum, "eq": np.equal, "ne": np.not_equal, "and": np.minimum,
    "or": np.maximum, "xor": np.not_equal,
}  # fmt: skip


def _table(operands):
    ids = [operands.ids(i) for i in range(len(operands))]
    return np.stack(np.broadcast_arrays(*ids), axis=-1)


@rule(*_UNARY)
def _unary(operands, params, shapes):
    name = params["name"]
    function = _UNARY[name]
    return [operands.add(name, operands.ids(0)[..., None], lambda v: function(v[:, 0]))]


@rule(*_BINARY, *_SYMMETRIC)
def _binary(operands, params, shapes):
    name = params["name"]
    function = _BINARY.get(name) or _SYMMETRIC[name]
    is_integer = np.issubdtype(operands.dtype(0), np.integer)
    if name in ("and", "or", "xor") and is_integer:
        raise NotImplementedError(f"{name} of integers")

    def evaluate(values):
        found = function(values[:, 0], values[:, 1])
        return np.trunc(found) if name == "div" and is_integer else found

    name = "sum" if name in ("add", "add_any") else name
    return [operands.add(name, _table(operands), evaluate, name in (
        *_SYMMETRIC, "sum"))]  # fmt: skip


@rule("integer_pow")
def _integer_pow(operands, params, shapes):
    power = params["y"]
    return [
        operands.add(f"power {power}", operands.ids(0)[..., None],
                     lambda v: v[:, 0] ** float(power))
    ]  # fmt: skip


@rule("convert_element_type")
def _convert(operands, params, shapes):
    new, old = np.dtype(params["new_dtype"]), np.dtype(operands.dtype(0))
    is_kept = np.can_cast(old, new) or new.kind not in "iub" or old == new
    if is_kept:
        return [operands.ids(0)]
    function = (
        (lambda v: v[:, 0] != 0) if new.kind == "b" else (lambda v: np.trunc(v[:, 0]))
    )
    return [operands.add(f"to {new}", operands.ids(0)[..., None], function)]


@rule("select_n")
def _select(operands, params, shapes):
    if operands.is_constant(0) and len(operands) == 3:
        return [np.where(operands.constant(0), operands.ids(2), operands.ids(1))]
    return [
        operands.add("select", _table(operands),
                     lambda v: np.take_along_axis(
                         v, 1 + v[:, :1].astype(int), 1)[:, 0])
    ]  # fmt: skip


@rule("clamp")
def _clamp(operands, params, shapes):
    return [
        operands.add("clamp", _table(operands),
                     lambda v: np.minimum(np.maximum(v[:, 1], v[:, 0]), v[:, 2]))
    ]  # fmt: skip


# Operations along axes.

_REDUCTIONS = {
    "sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod,
    "and": np.min, "or": np.max,
}  # fmt: skip


@rule(*(f"reduce_{name}" for name in _REDUCTIONS))
def _reduce(operands, params, shapes):
    kind = params["name"].removeprefix("reduce_")
    ids, axes = operands.ids(0), params["axes"]
    kept = [a for a in range(ids.ndim) if a not in axes]
    table = ids.transpose(*kept, *axes).reshape(*shapes[0], -1)
    function = _REDUCTIONS[kind]
    kind = kind if kind == "sum" else f"reduce {kind}"
    return [operands.add(kind, table, lambda v: function(v, axis=1), True)]


def _along(operands, params, axis):
    return np.moveaxis(operands.ids(0), axis, -1)


@rule("argmax", "argmin")
def _extreme(operands, params, shapes):
    table = _along(operands, params, params["axes"][0])
    function = np.argmax if params["name"] == "argmax" else np.argmin
    return [operands.add(params["name"], table, lambda v: function(v, axis=1))]


_CUMULATIVE = {
    "cumsum": ("sum", np.sum), "cumprod": ("product", np.prod),
    "cummax": ("largest", np.max), "cummin": ("smallest", np.min),
    "cumlogsumexp": ("logsumexp", scipy.special.logsumexp),
}  # fmt: skip


@rule(*_CUMULATIVE)
def _cumulate(operands, params, shapes):
    table = _along(operands, params, params["axis"])
    key, function = _CUMULATIVE[params["name"]]
    table = table[..., ::-1] if params["reverse"] else table
    parts = [
        operands.add(key, table[..., : i + 1], lambda v: function(v, axis=1), True)
        for i in range(table.shape[-1])
    ]
    result = np.stack(parts, -1)
    result = result[..., ::-1] if params["reverse"] else result
    return [np.moveaxis(result, -1, params["axis"])]


def _ordered(operands, table, rank, descending, place):
    def evaluate(values):
        values = -values if descending else values
        found = np.argsort(values, axis=1, kind="stable")[:, rank]
        if place:
            return found
        found = np.take_along_axis(values, found[:, None], 1)[:, 0]
        return -found if descending else found

    key = f"order {rank} {descending} {place}"
    return operands.add(key, table, evaluate, not place)


@rule("sort")
def _sort(operands, params, shapes):
    axis = params["dimension"]
    table = _along(operands, params, axis)
    size, ids = table.shape[-1], []
    if len(operands) == 1:
        parts = [_ordered(operands, table, r, False, False) for r in range(size)]
        return [np.moveaxis(np.stack(parts, -1), -1, axis)]
    if params["num_keys"] != 1:
        raise NotImplementedError("sort by several keys")
    for index in range(len(operands)):
        other = np.moveaxis(operands.ids(index), axis, -1)
        pairs = np.stack([table, other], -1).reshape(*table.shape[:-1], 2 * size)

        def evaluate(values, rank):
            found = np.argsort(values[:, ::2], axis=1, kind="stable")[:, rank]
            return np.take_along_axis(values[:, 1::2], found[:, None], 1)[:, 0]

        parts = [
            operands.add(f"sort {r}", pairs, lambda v, r=r: evaluate(v, r))
            for r in range(size)
        ]
        ids.append(np.moveaxis(np.stack(parts, -1), -1, axis))
    return ids


@rule("top_k")
def _top_k(operands, params, shapes):
    axis = params.get("axis", len(shapes[0]) - 1) % len(shapes[0])
    table = _along(operands, params, axis)
    count = shapes[0][axis]
    results = []
    for place in (False, True):
        parts = [_ordered(operands, table, r, True, place) for r in range(count)]
        results.append(np.moveaxis(np.stack(parts, -1), -1, axis))
    return results


# Sums of products.


def _dot(operands, left, right):
    """Products of `[..., K]` with `[..., K]`, summed."""
    pairs = np.stack(np.broadcast_arrays(left, right), axis=-1)
    return operands.add("dot", pairs, lambda v: (v[:, :, 0] * v[:, :, 1]).sum(1), True)


@rule("dot_general")
def _dot_general(operands, params, shapes):
    axes, batch = params["dimension_numbers"]
    sides = []
    for index in range(2):
        ids = operands.ids(index)
        free = [a for a in range(ids.ndim) if a not in (*axes[index], *batch[index])]
        moved = ids.transpose(*batch[index], *free, *axes[index])
        lead = len(batch[index]) + len(free)
        sides.append((moved.reshape(*moved.shape[:lead], -1), len(free)))
    (left, num_left), (right, num_right) = sides
    num_batch = len(batch[0])
    lead = left.shape[:num_batch]
    left = left.reshape(*left.shape[:-1], *[1] * num_right, left.shape[-1])
    right = right.reshape(*lead, *[1] * num_left, *right.shape[num_batch:])
    return [_dot(operands, left, right)]


def _windows(ids, sizes, strides, dilations):
    """Places `[*out, *window]` of sliding windows over the last axes."""
    first = ids.ndim - len(sizes)
    outs = [
        (n - (size - 1) * d - 1) // s + 1
        for n, size, s, d in zip(ids.shape[first:], sizes, strides, dilations,
                                 strict=True)
    ]  # fmt: skip
    index = []
    for axis, (out, size, s, d) in enumerate(
        zip(outs, sizes, strides, dilations, strict=True)
    ):
        place = np.arange(out)[:, None] * s + np.arange(size)[None] * d
        shape = [1] * (2 * len(sizes))
        shape[axis], shape[axis + len(sizes)] = out, size
        index.append(place.reshape(shape))
    return ids[(slice(None),) * first + tuple(index)], outs


@rule("conv_general_dilated")
def _convolution(operands, params, shapes):
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        raise NotImplementedError("batch_group_count")
    zero = _zero(operands)
    x = operands.ids(0).transpose(numbers.lhs_spec)
    kernel = operands.ids(1).transpose(numbers.rhs_spec)
    config = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"],
                                         strict=True)
    ]  # fmt: skip
    x = padded(x, zero, [(0, 0, 0), (0, 0, 0), *config])
    sizes, num = kernel.shape[2:], len(config)
    places, outs = _windows(x, sizes, params["window_strides"], params["rhs_dilation"])
    num_out, per_group = kernel.shape[:2]
    parts = []
    for out in range(num_out):
        group = out // (num_out // groups)
        rows = places[:, group * per_group : (group + 1) * per_group]
        rows = np.moveaxis(rows, 1, 1 + num).reshape(len(x), *outs, -1)
        parts.append(_dot(operands, rows, kernel[out].reshape([1] * (1 + num) + [-1])))
    result = np.stack(parts, axis=1)
    return [result.transpose(np.argsort(numbers.out_spec))]


def _zero(operands, value=0.0):
    from tests.metanet.scalar_programs import Constant

    return operands._program.ids(Constant(np.float32(value)))


_POOLS = {
    "reduce_window_sum": ("sum", np.sum, 0.0),
    "reduce_window_max": ("largest", np.max, -np.inf),
    "reduce_window_min": ("smallest", np.min, np.inf),
}


@rule(*_POOLS)
def _pool(operands, params, shapes):
    key, function, fill = _POOLS[params["name"]]
    config = [
        (low, high, base - 1)
        for (low, high), base in zip(params["padding"], params["base_dilation"],
                                     strict=True)
    ]  # fmt: skip
    ids = padded(operands.ids(0), _zero(operands, fill), config)
    sizes = params["window_dimensions"]
    places, outs = _windows(
        ids, sizes, params["window_strides"], params["window_dilation"]
    )
    table = places.reshape(*outs, math.prod(sizes))
    return [operands.add(key, table, lambda v: function(v, axis=1), True)]


@rule("scatter-add", "scatter", "scatter-mul", "scatter-max", "scatter-min")
def _scatter(operands, params, shapes):
    """Updates at constant places, added or set."""
    numbers = params["dimension_numbers"]
    ids, updates = operands.ids(0), operands.ids(2)
    indices = np.asarray(operands.constant(1)).astype(int)
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [a for a in range(ids.ndim) if a not in dropped]
    lead = [a for a in range(updates.ndim) if a not in numbers.update_window_dims]
    found = {}
    for place in itertools.product(*map(range, updates.shape)):
        target = [0] * ids.ndim
        for out_axis, axis in zip(numbers.update_window_dims, kept, strict=True):
            target[axis] += place[out_axis]
        where = tuple(place[a] for a in lead)
        for axis, index_axis in zip(
            numbers.operand_batching_dims, numbers.scatter_indices_batching_dims,
            strict=True,
        ):  # fmt: skip
            target[axis] += where[index_axis]
        for column, axis in enumerate(numbers.scatter_dims_to_operand_dims):
            target[axis] += int(indices[(*where, column)])
        if all(0 <= t < n for t, n in zip(target, ids.shape, strict=True)):
            found.setdefault(tuple(target), []).append(updates[place])
    if params["name"] == "scatter":
        ids = ids.copy()
        for target, values in found.items():
            ids[target] = values[-1]
        return [ids]
    if params["name"] != "scatter-add":
        name = {"mul": "mul", "max": "max", "min": "min"}[params["name"][8:]]
        function = _SYMMETRIC[name]
        ids = ids.copy()
        for target, values in found.items():
            for value in values:
                pair = np.array([ids[target], value])
                ids[target] = operands.add(
                    name, pair, lambda v: function(v[:, 0], v[:, 1]), True
                )
        return [ids]
    depth = max(map(len, found.values()), default=0)
    table = np.full((*ids.shape, 1 + depth), _zero(operands))
    table[..., 0] = ids
    for target, values in found.items():
        table[target][1 : 1 + len(values)] = values
    return [operands.add("sum", table, lambda v: v.sum(1), True)]
