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


def init_bank(num_copies):
    return networks.init_bank(MODULE, jax.random.key(0), num_copies, jnp.zeros(4))


@functools.cache
def bank(num_copies):
    return jax.jit(init_bank, static_argnums=0)(num_copies)


@jax.jit
def apply_chosen(params, copies, inputs):
    return networks.apply_chosen(apply, params, copies, inputs)


def one_at_a_time(params, copies, inputs):
    """The copy of every item, applied by itself, in NumPy."""
    layers = [jax.tree.map(np.asarray, params[f"layer_{i}"]) for i in range(2)]
    found = []
    for copy, row in zip(np.asarray(copies).tolist(), np.asarray(inputs), strict=True):
        first, second = (
            {name: leaf[copy] for name, leaf in layer.items()} for layer in layers
        )
        hidden = np.tanh(row @ first["kernel"] + first["bias"])
        found.append(hidden @ second["kernel"] + second["bias"])
    return np.stack(found)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([1, 5, 12]),
    rows=st.sampled_from([(), (3,), (2, 150)]),
    data=st.data(),
)
def test_chosen_copies_against_one_at_a_time(size, rows, data):
    copies = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    # 150 rows fill more than half a tile: few items share one.
    inputs = np.random.default_rng(1).normal(size=(size, *rows, 4)).astype(np.float32)
    found = apply_chosen(bank(5), np.array(copies), inputs)
    np.testing.assert_allclose(
        found, one_at_a_time(bank(5), copies, inputs), rtol=1e-5, atol=1e-6
    )


def apply_gathered(params, copies, inputs):
    """Every item with parameters of its own."""
    return jax.vmap(apply)(networks.copy_of(params, copies), inputs)


@functools.partial(jax.jit, static_argnums=0)
def gradients(chosen, params, copies, inputs):
    def loss(params, inputs):
        return jnp.sum(jnp.sin(chosen(params, copies, inputs)))

    return jax.grad(loss, argnums=(0, 1))(params, inputs)


@pytest.mark.parametrize("copies", [[0] * 7, [2] * 7, [0, 2, 1, 1, 0, 2, 2]])
def test_gradients_of_chosen_copies(copies):
    inputs = np.random.default_rng(1).normal(size=(7, 90, 4)).astype(np.float32)
    found, expected = (
        gradients(chosen, bank(3), np.array(copies), inputs)
        for chosen in (apply_chosen, apply_gathered)
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

        params = jax.eval_shape(lambda: init_bank(num_copies))
        arguments = (params, np.zeros(512, np.int32), np.zeros((512, 16, 4), "f4"))
        return jax.jit(chosen).lower(*arguments).compile().cost_analysis()["flops"]

    assert operations(8) < 1.3 * operations(4)


def test_several_inputs_and_a_batch_of_problems():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, first, second):
            return networks.Dense(2)(first) + networks.Dense(2)(second)

    first = np.ones((3, 6, 5), np.float32)
    second = np.arange(3 * 6 * 2, dtype=np.float32).reshape(3, 6, 2)
    params = jax.jit(
        lambda key: networks.init_bank(Sum(), key, 2, first[0, 0], second[0, 0])
    )(jax.random.key(0))
    copies = np.array([[0, 1, 0, 1, 1, 1], [0] * 6, [1, 1, 0, 0, 0, 0]])

    def add(params, *inputs):
        return Sum().apply({"params": params}, *inputs)

    found = jax.jit(jax.vmap(lambda c, *x: networks.apply_chosen(add, params, c, *x)))(
        copies, first, second
    )
    both = jax.jit(lambda *given: networks.apply_bank(Sum(), *given))(
        params, first, second
    )
    expected = np.where(copies[..., None] == 0, both[0], both[1])
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
