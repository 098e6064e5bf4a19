"""Random small programs whose arrays change shape, on purpose or by accident.

Axes are mixed, merged, split, cut, joined, turned and attended to: units and positions
meet in ways that nobody wrote down. `python -m tests.metanet.fuzz` tries many.
"""

import itertools
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = ((3, 4), (3, 3), (4, 3), (3, 2, 3), (2, 2, 2), (6,))  # without examples
LARGEST = 80  # elements of an array, without examples


class Step(NamedTuple):
    """A step of a program: its kind, and numbers in [0, 1) that choose the rest."""

    kind: str
    numbers: tuple[float, float, float, float]


class Run:
    """A program on its way: parameters, arrays that were kept, the present array.

    Attributes:
      tables: Parameters by name, drawn by name and shape where they are missing.
      kept: Arrays that later steps may use.
      name: Name of the present step.
    """

    def __init__(self, tables):
        self.tables, self.kept, self.name = dict(tables), [], ""

    def table(self, suffix, *shape):
        name = f"{self.name} {suffix}"
        if name not in self.tables:
            rng = np.random.default_rng(zlib.crc32(f"{name} {shape}".encode()))
            self.tables[name] = 0.6 * rng.normal(size=shape).astype(np.float32)
        return self.tables[name]

    def recent(self, number, fits):
        """A kept array that fits, the first or the last; None if there is none."""
        found = [array for array in self.kept if fits(array)]
        return found[0 if number < 0.5 else -1] if found else None


def pick(number, options):
    return options[int(number * len(options)) % len(options)]


def last(function):
    """A step of the last axis, along any axis."""

    def apply(run, x, axis, other, *numbers):
        return jnp.moveaxis(
            function(run, jnp.moveaxis(x, axis, -1), *numbers), -1, axis
        )

    return apply


ACTIVATIONS = (jnp.tanh, jax.nn.relu, lambda x: x * jnp.tanh(x), jnp.abs)
REDUCTIONS = (jnp.sum, jnp.mean, jnp.max, jnp.min)


def _dense(run, x, c, d):
    width = pick(c, (2, 3, 4, 5))
    if x[0].size // x.shape[-1] * width > LARGEST:
        return x
    y = x @ run.table("kernel", x.shape[-1], width)
    if d > 0.5:
        y = y + run.table("bias", *(1,) * (x.ndim - 1), width)
    return pick(d * 7 % 1, (jnp.tanh, jax.nn.relu, lambda x: x))(y)


def _residual(run, x, c, d):
    size = x.shape[-1]
    y = jnp.tanh(x @ run.table("first", size, size + 1))
    return x + y @ run.table("second", size + 1, size)


def _merge(run, x, axis, other, c, d):
    axis = min(axis, x.ndim - 2)
    if x.ndim < 3:
        return x
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1],
                     *x.shape[axis + 2 :])  # fmt: skip


def _split(run, x, axis, other, c, d):
    size, part = x.shape[axis], pick(c, (2, 3))
    if size % part or size == part or x.ndim > 3:
        return x
    pair = (part, size // part) if d < 0.5 else (size // part, part)
    return x.reshape(*x.shape[:axis], *pair, *x.shape[axis + 1 :])


def _cut(run, x, axis, other, c, d):
    size = x.shape[axis]
    if size < 3:
        return x
    stop, step = size - pick(d, (0, 1)), pick(c * 5 % 1, (1, 2))
    return jax.lax.slice_in_dim(x, pick(c, (0, 1)), stop, step, axis)


def _take(run, x, axis, other, c, d):
    rng, size = np.random.default_rng(int(c * 1e6)), x.shape[axis]
    count = pick(d * 3 % 1, (2, size))
    places = rng.integers(0, size, count) if d < 0.5 else rng.permutation(size)[:count]
    return jnp.take(x, places, axis)


def _reduce(run, x, axis, other, c, d):
    return pick(c, REDUCTIONS)(x, axis) if x.ndim > 2 else x


def _level(run, x, axis, other, c, d):
    axes = axis if d < 0.6 else tuple({axis, other})
    y = pick(c, REDUCTIONS)(x, axis=axes, keepdims=True)
    return pick(c * 5 % 1, (jnp.add, jnp.multiply, jnp.subtract))(x, y)


def _keep(run, x, axis, other, c, d):
    run.kept.append(x)
    return x


def _choose(x, y):
    return jnp.where(x > 0, x, y)


def _with(function):
    """A function of the present array and of a kept one, turned where that helps."""

    def apply(run, x, axis, other, c, d):
        order, y = range(x.ndim), run.recent(c, lambda y: y.shape == x.shape)
        if y is None:
            for order in itertools.permutations(range(1, x.ndim)):
                shape = (x.shape[0], *(x.shape[a] for a in order))
                y = run.recent(c, lambda y, shape=shape: y.shape == shape)
                if y is not None:
                    y = y.transpose(0, *(1 + np.argsort(order)))
                    break
        if y is None:
            return x
        return function(x, y) if d < 0.5 else function(y, x)

    return apply


def _join(run, x, axis, other, c, d):
    def fits(y):
        rest = y.shape[:axis], y.shape[axis + 1 :]
        return rest == (x.shape[:axis], x.shape[axis + 1 :]) and (
            x[0].size + y[0].size <= LARGEST
        )

    y = run.recent(c, lambda y: y.ndim == x.ndim and fits(y))
    if y is None:
        return x
    return jnp.concatenate([x, y] if d < 0.5 else [y, x], axis)


def _product(run, x, axis, other, c, d):
    """A product with a kept array over an axis of both, as of queries and keys."""
    if x.ndim != 3:
        return x
    y = run.recent(c, lambda y: y.ndim == 3 and x.shape[2] in y.shape[1:])
    if y is None:
        return x
    return jnp.einsum(
        "bij,bkj->bik" if y.shape[2] == x.shape[2] else "bij,bjk->bik", x, y
    )


def _table(run, x, axis, other, c, d):
    numbers = (axis * 0.37 % 1, c, d)
    shape = [n if numbers[i] < 0.5 else 1 for i, n in enumerate(x.shape[1:])]
    table = run.table("table", 1, *shape)
    return pick(d * 5 % 1, (
        lambda: x + table, lambda: x * table, lambda: table - x,
        lambda: jnp.maximum(x, table),
    ))()  # fmt: skip


def _norm(run, x, axis, other, c, d):
    axes = axis if d < 0.7 else tuple({axis, other})
    x = x - x.mean(axes, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(axes, keepdims=True) + 0.1)


def _order(run, x, axis, other, c, d):
    operations = (
        jnp.cumsum,
        jax.lax.cummax,
        jnp.sort,
        lambda y, axis: jnp.cumsum(jnp.flip(y, axis), axis),
    )
    return pick(c, operations)(x, axis)


def _pairs(run, x, c, d):
    if x[0].size * x.shape[-1] > LARGEST or x.ndim > 3:
        return x
    first, second = x[..., :, None], x[..., None, :]
    return jnp.tanh(first * jnp.tanh(second) if d < 0.5 else first - second)


def _own(run, x, axis, other, c, d):
    """A kernel of its own in every place of another axis."""
    if axis == other:
        return x
    y = jnp.moveaxis(x, (other, axis), (-2, -1))
    kernels = run.table("kernels", y.shape[-2], y.shape[-1], y.shape[-1])
    y = jnp.einsum("...ic,icd->...id", y, kernels)
    return jnp.moveaxis(y, (-2, -1), (other, axis))


def _convolution(run, x, axis, other, c, d):
    if x.ndim != 3:
        return x
    kernel = run.table("window", 2, x.shape[2], pick(c, (2, 3)))
    strides = (pick(d, (1, 2)) if x.shape[1] > 2 else 1,)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )


def _diagonal(run, x, axis, other, c, d):
    if axis == other or x.ndim < 4 or x.shape[axis] != x.shape[other]:
        return x
    return jnp.diagonal(x, axis1=axis, axis2=other)


STEPS = {
    "dense": last(_dense),
    "residual": last(_residual),
    "activation": lambda run, x, a, b, c, d: pick(c, ACTIVATIONS)((1 + int(3 * d)) * x),
    "swap": lambda run, x, axis, other, c, d: jnp.swapaxes(x, axis, other),
    "merge": _merge,
    "split": _split,
    "cut": _cut,
    "take": _take,
    "flip": lambda run, x, axis, other, c, d: jnp.flip(x, axis),
    "roll": lambda run, x, axis, other, c, d: jnp.roll(x, 1, axis),
    "reduce": _reduce,
    "level": _level,
    "keep": _keep,
    "add": _with(jnp.add),
    "multiply": _with(jnp.multiply),
    "choose": _with(_choose),
    "largest": _with(jnp.maximum),
    "join": _join,
    "product": _product,
    "table": _table,
    "softmax": lambda run, x, axis, other, c, d: jax.nn.softmax(x, axis),
    "norm": _norm,
    "order": _order,
    "pairs": last(_pairs),
    "own kernels": _own,
    "convolution": _convolution,
    "diagonal": _diagonal,
}  # fmt: skip
OFTEN = ("dense", "dense", "residual", "residual", "swap", "keep", "keep", "table")
KINDS = (*STEPS, *OFTEN)


class Program(NamedTuple):
    steps: tuple[Step, ...]
    end: int

    def run(self, tables, x):
        """Outputs, and all parameters."""
        run = Run(tables)
        run.kept.append(x)
        for index, (kind, (a, b, c, d)) in enumerate(self.steps):
            run.name = str(index)
            axes = range(1, x.ndim)
            x = STEPS[kind](run, x, pick(a, axes), pick(b, axes), c, d)
            if kind == "pairs" and x.ndim > 4:
                x = x.sum(-1)
        run.name = "last"
        if self.end == 0:
            x = x.reshape(len(x), -1)
        elif self.end == 1:
            x = jnp.swapaxes(x, 1, -1)
        elif self.end == 2:
            x = x.reshape(*x.shape[:2], -1).mean(-1)
        return x @ run.table("kernel", x.shape[-1], 2), run.tables

    def __call__(self, tables, x):
        return self.run(tables, x)[0]

    def tables(self, x):
        """Parameters for inputs of a shape."""
        found = {}
        jax.eval_shape(lambda x: found.update(self.run({}, x)[1]), x)
        return found


def draw_step(rng, kind=None):
    return Step(kind or pick(rng.random(), KINDS), tuple(map(float, rng.random(4))))


def draw(rng, length):
    return Program(tuple(draw_step(rng) for _ in range(length)), int(rng.integers(4)))


def mutate(rng, program):
    """The program with a step or a number of one changed, or with two exchanged."""
    steps, place = list(program.steps), int(rng.integers(len(program.steps)))
    choice = rng.integers(3)
    if choice == 0:
        steps[place] = draw_step(rng)
    elif choice == 1:
        numbers = list(steps[place].numbers)
        numbers[rng.integers(4)] = float(rng.random())
        steps[place] = Step(steps[place].kind, tuple(numbers))
    else:
        steps[place - 1], steps[place] = steps[place], steps[place - 1]
    return program._replace(steps=tuple(steps))


def reorder(rng, tables):
    """Parameters with those of one array in another order, or two arrays exchanged."""
    name = pick(rng.random(), sorted(tables))
    same = [n for n in sorted(tables) if tables[n].shape == tables[name].shape]
    if len(same) > 1 and rng.random() < 0.3:
        other = pick(rng.random(), same)
        return {**tables, name: tables[other], other: tables[name]}
    axis = int(rng.integers(tables[name].ndim))
    order = rng.permutation(tables[name].shape[axis])
    return {**tables, name: tables[name].take(order, axis)}
