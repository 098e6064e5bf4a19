"""Random small programs: equal graphs must mean equal functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 3
SHAPE = (2, SIZE, SIZE, SIZE)  # examples, two axes of positions, features


class Operation(NamedTuple):
    """One step of a program: a kind, an axis, a second axis, and a number."""

    kind: str
    axis: int
    other: int
    number: int


def _table(parameters, axis, other):
    """Parameters `[4, 4]` placed on two axes of the array."""
    shape = [1] * 4
    shape[axis] = SIZE
    if other == axis:
        return parameters[0].reshape(shape)
    shape[other] = SIZE
    table = parameters if axis < other else parameters.T
    return table.reshape(shape)


def _attend(x, parameters, axis):
    names = {1: "btsc,busc,btsd->busd", 2: "btsc,btuc,btsd->btud"}
    if axis == 3:
        return jax.nn.softmax(x @ parameters, -1)
    weights = jnp.einsum(names[axis][: names[axis].index(",btsd")] + (
        "->bstu" if axis == 1 else "->btsu"), x @ parameters, x)  # fmt: skip
    weights = jax.nn.softmax(weights, -1)
    if axis == 1:
        return jnp.einsum("bstu,btsd->busd", weights, x)
    return jnp.einsum("btsu,btsd->btud", weights, x)


FUNCTIONS = {
    "relu": lambda x, p, o: jnp.maximum(x, 0.1 * o.number),
    "clip": lambda x, p, o: jnp.clip(x, -0.5 * o.number, 2.0),
    "tanh": lambda x, p, o: jnp.tanh((1 + o.number) * x),
    "swap": lambda x, p, o: jnp.swapaxes(x, o.axis, o.other),
    "reverse": lambda x, p, o: jnp.flip(x, o.axis),
    "roll": lambda x, p, o: jnp.roll(x, 1 + o.number % 2, o.axis),
    "sum up": lambda x, p, o: jnp.cumsum(x, o.axis),
    "softmax": lambda x, p, o: jax.nn.softmax((1 + o.number) * x, o.axis),
    "centre": lambda x, p, o: x - x.mean(o.axis, keepdims=True),
    "largest": lambda x, p, o: x + x.max(o.axis, keepdims=True),
    "norm": lambda x, p, o: x / (1 + jnp.square(x).sum(o.axis, keepdims=True)),
    "norms": lambda x, p, o: (
        x / (1 + jnp.square(x).sum(tuple({o.axis, o.other}), keepdims=True))
    ),
    "sort": lambda x, p, o: jnp.sort(x, o.axis),
    "take": lambda x, p, o: jnp.take(
        x, np.array([[1, 2, 0], [0, 0, 2], [1, 0, 2]][o.number]), o.axis
    ),
    "dense": lambda x, p, o: jnp.moveaxis(jnp.moveaxis(x, o.axis, -1) @ p, -1, o.axis),
    "add": lambda x, p, o: x + _table(p, o.axis, o.other),
    "scale": lambda x, p, o: x * _table(p, o.axis, o.other),
    "turned": lambda x, p, o: x - jnp.tanh(jnp.swapaxes(x, o.axis, o.other)),
    "product": lambda x, p, o: x * jnp.flip(x, o.axis),
    "choose": lambda x, p, o: jnp.where(
        x > jnp.roll(x, 1, o.axis), x, 0.5 * jnp.flip(x, o.other)
    ),
    "attend": lambda x, p, o: _attend(x, p, o.axis),
    "halves": lambda x, p, o: jnp.concatenate(
        [
            jax.lax.slice_in_dim(x, o.number, SIZE, axis=o.axis),
            jnp.tanh(jax.lax.slice_in_dim(x, 0, o.number, axis=o.axis)),
        ],
        o.axis,
    ),
    "repeat": lambda x, p, o: (
        jnp.repeat(x, 2, o.axis).reshape(
            *SHAPE[: o.axis], SIZE, 2, *SHAPE[o.axis + 1 :]
        ).sum(o.axis + o.number % 2, keepdims=False)[
            (slice(None),) * o.axis + (slice(0, 2),)
        ]
        if o.number % 2 == 0
        else x
    ),
    "merge": lambda x, p, o: (
        x.reshape(2, SIZE * SIZE, SIZE)
        .reshape(2, SIZE, SIZE, SIZE)
        .transpose(0, 2, 1, 3)
        if o.number
        else x.reshape(2, SIZE, SIZE * SIZE)[..., ::-1].reshape(SHAPE)
    ),
    "position": lambda x, p, o: (
        x + jnp.argmax(x, o.axis, keepdims=True).astype(jnp.float32)
    ),
}  # fmt: skip
del FUNCTIONS["repeat"]
KINDS = tuple(FUNCTIONS)


def draw_operation(rng: np.random.Generator, kind: str | None = None) -> Operation:
    kind = kind or KINDS[rng.integers(len(KINDS))]
    axis, other = rng.integers(1, 4, size=2)
    return Operation(kind, int(axis), int(other), int(rng.integers(3)))


def draw_program(rng: np.random.Generator, length: int) -> tuple[Operation, ...]:
    return tuple(draw_operation(rng) for _ in range(length))


def mutate(rng: np.random.Generator, program: tuple[Operation, ...]):
    """The program with one operation changed, or two in each other's place."""
    place = int(rng.integers(len(program)))
    program = list(program)
    choice = rng.integers(3)
    if choice == 0 and place:
        program[place - 1 : place + 1] = program[place : place - 2 : -1] if (
            place > 1) else program[1::-1]  # fmt: skip
    elif choice == 1:
        program[place] = draw_operation(rng, program[place].kind)
    else:
        program[place] = draw_operation(rng)
    return tuple(program)


def model(program):
    """A function of parameters `{"0": [3, 3], ...}` and an array."""

    def run(parameters, x):
        for index, operation in enumerate(program):
            table = parameters[str(index)]
            x = FUNCTIONS[operation.kind](x, table, operation)
        return jnp.einsum("btsc,cd->btsd", jnp.tanh(x), parameters["last"])

    return run


def parameters(rng: np.random.Generator, length: int):
    names = [*map(str, range(length)), "last"]
    return {name: rng.normal(size=(SIZE, SIZE)).astype(np.float32) for name in names}
