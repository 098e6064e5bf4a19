"""Banks of networks against one copy at a time."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modmeta import networks

MODULE = networks.MLP((5, 3), activation="tanh")


def apply(params, inputs):
    return MODULE.apply({"params": params}, inputs)


@functools.cache
def bank(num_copies, seed=0):
    return networks.init_bank(MODULE, jax.random.key(seed), num_copies, jnp.zeros(4))


@jax.jit
def apply_chosen(params, copies, inputs):
    return networks.apply_chosen(apply, params, copies, inputs)


def one_at_a_time(params, copies, inputs):
    """The copy of every item, applied by itself."""
    return jnp.stack(
        [
            MODULE.apply({"params": networks.copy_of(params, c)}, x)
            for c, x in zip(copies.tolist(), inputs, strict=True)
        ]
    )


@settings(max_examples=25, deadline=None)
@given(
    copies=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    rows=st.sampled_from([(), (1,), (3,), (2, 150)]),
)
def test_chosen_copies_against_one_at_a_time(copies, rows):
    copies = jnp.array(copies)
    # 150 rows fill more than half a tile: few items share one.
    inputs = jax.random.normal(jax.random.key(1), (len(copies), *rows, 4))
    found = apply_chosen(bank(5), copies, inputs)
    np.testing.assert_allclose(
        found, one_at_a_time(bank(5), copies, inputs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("copies", [[0] * 7, [2] * 7, [0, 2, 1, 1, 0, 2, 2]])
def test_gradients_of_chosen_copies(copies):
    copies = jnp.array(copies)
    inputs = jax.random.normal(jax.random.key(1), (7, 90, 4))

    def loss(apply):
        return lambda p, x: jnp.sum(jnp.sin(apply(p, copies, x)))

    found, expected = (
        jax.grad(loss(f), argnums=(0, 1))(bank(3), inputs)
        for f in (apply_chosen, one_at_a_time)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found,
        expected,
    )


def test_chosen_copies_do_the_work_of_one():
    """Twice the copies, nearly the same number of operations."""

    def operations(num_copies):
        def chosen(params, copies, inputs):
            return networks.apply_chosen(apply, params, copies, inputs)

        arguments = (bank(num_copies), jnp.zeros(512, int), jnp.zeros((512, 16, 4)))
        return jax.jit(chosen).lower(*arguments).compile().cost_analysis()["flops"]

    assert operations(8) < 1.3 * operations(4)


def test_several_inputs_and_a_batch_of_problems():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, first, second):
            return networks.Dense(2)(first) + networks.Dense(2)(second)

    first, second = jnp.ones((3, 6, 5)), jnp.arange(3 * 6 * 2.0).reshape(3, 6, 2)
    params = networks.init_bank(Sum(), jax.random.key(0), 2, first[0, 0], second[0, 0])
    copies = jnp.array([[0, 1, 0, 1, 1, 1], [0] * 6, [1, 1, 0, 0, 0, 0]])

    def add(params, *inputs):
        return Sum().apply({"params": params}, *inputs)

    found = jax.vmap(lambda c, *x: networks.apply_chosen(add, params, c, *x))(
        copies, first, second
    )
    both = networks.apply_bank(Sum(), params, first, second)
    expected = jnp.where(copies[..., None] == 0, both[0], both[1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 3, 4), (0, 4)])
def test_dense_layers_are_those_of_flax(shape):
    inputs = jax.random.normal(jax.random.key(0), shape)
    ours, flax = networks.Dense(3), nn.Dense(3)
    params = flax.init(jax.random.key(1), inputs)
    np.testing.assert_allclose(
        ours.apply(params, inputs), flax.apply(params, inputs), rtol=1e-6
    )
    jax.tree.map(
        np.testing.assert_array_equal, ours.init(jax.random.key(1), inputs), params
    )
