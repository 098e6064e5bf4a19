"""Ways to apply the chosen module of a bank to every edge: forward and gradient.

    python -m benchmarks.module_banks

Edges whose modules are drawn at random, several frames each, as in a training step:
- sorted_tiles: the default, edges sorted into tiles of one module each,
- stacked: all modules on all edges as one batched product, then a selection,
- masked: the same on inputs that are zero where a module was not chosen,
- ragged: edges sorted by module, `jax.lax.ragged_dot`,
- gathered: the parameters of its module at every edge.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import timing
from experiments import common
from modmeta import networks

_EDGES = flags.DEFINE_integer("edges", 2880, "Edges of a batch.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 16, "Frames of an edge.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 64, "Width of the modules.", lower_bound=1)
_MODULES = flags.DEFINE_multi_integer("modules", [2, 4, 8], "Modules of the banks.")

_NUM_INPUTS = 8
_CALLS = 10


def stacked(module, params, copies, inputs):
    """All modules on all edges."""
    outputs = networks.apply_bank(module, params, inputs)
    num_copies = jax.tree.leaves(params)[0].shape[0]
    is_chosen = jax.nn.one_hot(copies, num_copies, axis=0)
    return jnp.einsum("ke,keth->eth", is_chosen, outputs)


def masked(module, params, copies, inputs):
    """All modules on inputs that are zero where they were not chosen."""
    num_copies = jax.tree.leaves(params)[0].shape[0]
    is_chosen = jax.nn.one_hot(copies, num_copies, axis=0)[..., None, None]
    outputs = jax.vmap(lambda p, x: module.apply({"params": p}, x))(
        params, is_chosen * inputs[None]
    )
    return jnp.sum(is_chosen * outputs, axis=0)


def ragged(module, params, copies, inputs):
    """Edges sorted by module, one ragged product per layer."""
    num_copies = jax.tree.leaves(params)[0].shape[0]
    num_edges, num_frames = inputs.shape[:2]
    order = jnp.argsort(copies, stable=True)
    rows_of = num_frames * jnp.bincount(copies, length=num_copies).astype(jnp.int32)
    copy_of_row = jnp.repeat(copies[order], num_frames)
    hidden = inputs[order].reshape(num_edges * num_frames, -1)
    for index in range(len(module.sizes)):
        layer = params[f"layer_{index}"]
        hidden = jax.lax.ragged_dot(hidden, layer["kernel"], rows_of)
        hidden = hidden + layer["bias"][copy_of_row]
        if index < len(module.sizes) - 1:
            hidden = jax.nn.relu(hidden)
    return hidden.reshape(num_edges, num_frames, -1)[jnp.argsort(order)]


def gathered(module, params, copies, inputs):
    """The parameters of its module at every edge."""
    return jax.vmap(lambda p, x: module.apply({"params": p}, x))(
        jax.tree.map(lambda leaf: leaf[copies], params), inputs
    )


def sorted_tiles(module, params, copies, inputs):
    """Edges sorted by module, in tiles of one module each: the library's way."""
    return networks.apply_chosen(
        lambda p, x: module.apply({"params": p}, x), params, copies, inputs
    )


WAYS = (stacked, masked, ragged, gathered, sorted_tiles)


def forward_calls(way: Callable, module, copies) -> Callable:
    """Several calls in one program, each after the other."""

    def run(params, inputs):
        def body(inputs, _):
            outputs = way(module, params, copies, inputs)
            return inputs + 1e-9 * jnp.mean(outputs, axis=-1, keepdims=True), None

        return jax.lax.scan(body, inputs, None, length=_CALLS)[0]

    return jax.jit(run)


def gradient_calls(way: Callable, module, copies) -> Callable:
    """Several gradient steps in one program."""

    def run(params, inputs):
        gradient = jax.grad(
            lambda p: jnp.mean(jnp.square(way(module, p, copies, inputs)))
        )

        def body(params, _):
            step = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient(params))
            return step, None

        return jax.lax.scan(body, params, None, length=_CALLS)[0]

    return jax.jit(run)


def measure(num_modules: int) -> list[dict]:
    """Rows of the table for a size of the bank."""
    module = networks.MLP((_WIDTH.value,) * 3)
    params = networks.init_bank(
        module, jax.random.key(0), num_modules, jnp.zeros(_NUM_INPUTS)
    )
    copies = jax.random.randint(jax.random.key(1), (_EDGES.value,), 0, num_modules)
    shape = (_EDGES.value, _FRAMES.value, _NUM_INPUTS)
    inputs = jax.random.normal(jax.random.key(2), shape)
    expected = gathered(module, params, copies, inputs)
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        found = jax.jit(functools.partial(way, module))(params, copies, inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        row: dict[str, Any] = {"modules": num_modules, "way": way.__name__}
        for name, build in (("forward", forward_calls), ("gradient", gradient_calls)):
            seconds = timing.seconds_of(build(way, module, copies), params, inputs)
            row[f"{name}, ms"] = 1e3 * seconds / _CALLS
            reference = rows[0] if rows else row
            row[f"{name}, ratio"] = reference[f"{name}, ms"] / row[f"{name}, ms"]
        rows.append(row)
    return rows


def main(argv: list[str]) -> None:
    """Prints the table; ratios are speeds relative to the stacked product."""
    del argv
    rows = [row for number in _MODULES.value for row in measure(number)]
    print(common.format_table(rows, float_format=".3g"))
    print(f"\n{_EDGES.value} edges, {_FRAMES.value} frames, width {_WIDTH.value}")


if __name__ == "__main__":
    app.run(main)
