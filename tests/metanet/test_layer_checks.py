"""A graph is of what a layer computes, not of what it is called."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import UnsupportedLayerError, trace
from tests.metanet.network_cases import Case, make
from tests.metanet.soundness import largest_change, vary
from tests.metanet.test_tracing import signature


class Masked(nn.Dense):
    """A pruned layer: the mask is nowhere among the settings of the layer."""

    def param(self, name, *arguments, **settings):
        values = super().param(name, *arguments, **settings)
        if name == "kernel":
            values = values * (1.0 + jnp.arange(values.shape[1]))[None]
        return values


class Standardized(nn.Dense):
    def param(self, name, *arguments, **settings):
        values = super().param(name, *arguments, **settings)
        return values / jnp.std(values) if name == "kernel" else values


def clipped_product(left, right, dimensions, precision=None, **_):
    return jax.lax.dot_general(left, jnp.tanh(right), dimensions, precision=precision)


def ramp_product(left, right, dimensions, precision=None, **_):
    ramp = 1.0 + jnp.arange(right.shape[-1])[None]
    return jax.lax.dot_general(left, right * ramp, dimensions, precision=precision)


def mapped(module, x):
    """Variables that a lifted transformation maps on their way to the layer."""
    ramp = 1.0 + jnp.arange(4.0)

    def scale(variables):
        return jax.tree.map(
            lambda leaf: leaf * ramp.reshape((1,) * (leaf.ndim - 1) + (-1,)), variables
        )

    layer = nn.map_variables(nn.Dense, "params", scale, init=True)
    return layer(4)(x)


def hooked(module, x):
    def intercept(next_call, args, kwargs, context):
        result = next_call(*args, **kwargs)
        is_layer = context.method_name == "__call__"
        return result * (1.0 + jnp.arange(4.0))[None] if is_layer else result

    with nn.intercept_methods(intercept):
        return nn.Dense(4)(x)


def normed_weights(module, x):
    return nn.WeightNorm(nn.Dense(4), use_scale=False)(x)


CHANGED = {
    "masked": lambda m, x: Masked(4)(x),
    "standardized": lambda m, x: Standardized(4)(x),
    "function of weights": lambda m, x: nn.Dense(4, dot_general=clipped_product)(x),
    "ramp on weights": lambda m, x: nn.Dense(4, dot_general=ramp_product)(x),
    "mapped": mapped,
    "hooked": hooked,
    "weight norm": normed_weights,
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_layers_have_no_graph_or_one_of_their_own(name):
    def network(layer):
        return lambda m, x: nn.Dense(2)(nn.tanh(layer(m, x)))

    model, variables, x = make(Case(network(CHANGED[name]), (2, 3)))
    variables = vary(variables)
    try:
        change, topology, _ = largest_change(model, variables, x)
    except UnsupportedLayerError:
        return
    assert change < 1e-5
    plain = make(Case(network(lambda m, x: nn.Dense(4)(x)), (2, 3)))
    assert signature(topology) != signature(trace(*plain))


def test_zeros_of_a_mask_are_edges_of_no_parameter():
    """Weights that a mask takes out have no edge; the others keep theirs."""

    class Triangular(nn.Dense):
        def param(self, name, *arguments, **settings):
            values = super().param(name, *arguments, **settings)
            return values * jnp.tri(*values.shape) if name == "kernel" else values

    model, variables, x = make(Case(lambda m, x: Triangular(3)(x), (2, 3)))
    with pytest.raises(UnsupportedLayerError, match="kernel: found entries that no"):
        trace(model, variables, x)


def test_subclasses_that_compute_the_same_are_read_by_the_rule():
    class Renamed(nn.Dense):
        """Nothing is changed."""

    class Louder(nn.Dense):
        def param(self, name, *arguments, **settings):
            return super().param(name, *arguments, **settings)

    expected = signature(trace(*make(Case(lambda m, x: nn.Dense(4)(x), (2, 3)))))
    for layer in (Renamed, Louder):
        found = trace(*make(Case(lambda m, x, layer=layer: layer(4)(x), (2, 3))))
        assert signature(found) == expected


def test_integers_among_inputs_and_variables():
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, tokens, mask, key):
            del key
            self.variable("state", "step", lambda: jnp.array(7))
            order = self.variable("state", "order", lambda: jnp.array([2, 0, 1]))
            words = nn.Embed(9, 4)(tokens) * (tokens > 0)[..., None]
            words = words * mask[..., None]
            return nn.Dense(3)(nn.tanh(nn.Dense(5)(words))) * order.value[None, None]

    inputs = (
        jnp.array([[1, 2, 0]]),
        jnp.array([[True, False, True]]),
        jax.random.key(3),
    )
    model = Counting()
    variables = vary(model.init(jax.random.key(0), *inputs))
    change, topology, moved = largest_change(model, variables, *inputs)
    assert change < 1e-5 and moved
    assert topology.num_parameters == 9 * 4 + 4 * 5 + 5 + 5 * 3 + 3
    # What the output depends on is part of the graph, what it does not is not.
    step, order = (
        {**variables, "state": {**variables["state"], name: value}}
        for name, value in (("step", np.array(9)), ("order", np.array([0, 1, 2])))
    )
    np.testing.assert_array_equal(
        topology.edge_values(step), topology.edge_values(variables)
    )
    assert topology.unflatten(topology.flatten(step), step)["state"]["step"] == 9
    with pytest.raises(ValueError, match="state/order: found other integers"):
        topology.edge_values(order)


def test_masks_of_other_tokens_are_other_graphs():
    def language(token):
        def body(module, x):
            tokens = x.astype(jnp.int32)[..., 0]
            return nn.Dense(2)(nn.Embed(9, 4)(tokens) * (tokens != token)[..., None])

        return body

    signatures = [
        signature(trace(*make(Case(language(token), (2, 3, 1))))) for token in (0, 5)
    ]
    assert signatures[0] != signatures[1]


def test_one_number_per_example():
    class Denoiser(nn.Module):
        @nn.compact
        def __call__(self, x, t):
            hidden = nn.Dense(6)(x) + nn.Dense(6)(nn.tanh(nn.Dense(4)(t[:, None])))
            return nn.Dense(2)(nn.relu(hidden))

    x, t = jnp.ones((2, 4)), jnp.array([0.1, 0.7])
    variables = vary(Denoiser().init(jax.random.key(0), x, t))
    change, topology, moved = largest_change(Denoiser(), variables, x, t)
    assert change < 1e-5 and moved
    assert topology.num_parameters == 4 * 6 + 6 + 8 + 4 * 6 + 6 + 14


def test_failures_of_primitives_are_unsupported():
    def body(module, x):
        x = nn.Dense(4)(x)
        return jax.lax.linalg.eigh(x[:, None] * x[:, :, None])[0]

    model, variables, x = make(Case(body, (2, 3)))
    with pytest.raises(UnsupportedLayerError, match=r"Network.*test_layer_checks.py"):
        trace(model, variables, x)
