"""Message passing with weights set by hand against the networks that it runs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import metanet
from modmeta.metanet.models import forward_pass
from tests.metanet.small_networks import normal, random_variables


class Perceptron(nn.Module):
    widths: tuple[int, ...] = (5, 4, 3)
    activation: str = "relu"
    has_skip: bool = False

    @nn.compact
    def __call__(self, inputs):
        hidden = inputs
        for width in self.widths[:-1]:
            hidden = getattr(nn, self.activation)(nn.Dense(width)(hidden))
            if self.has_skip:
                hidden = hidden - nn.Dense(width)(hidden)
        return nn.Dense(self.widths[-1])(hidden)


def setup(**options):
    model, inputs = Perceptron(**options), normal(2)
    variables = random_variables(model, inputs)
    topology = metanet.trace(model, variables, inputs)
    return model, variables, topology, topology.edge_values(variables), inputs


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("widths", [(3,), (5, 4, 3)])
def test_one_round_per_layer_is_the_forward_pass(activation, widths):
    model, variables, topology, values, inputs = setup(
        widths=widths, activation=activation
    )
    expected = model.apply(variables, inputs)
    assert forward_pass.num_rounds(topology) == len(widths)
    function = getattr(nn, activation)
    run = jax.jit(
        lambda values, inputs: forward_pass.forward_pass(
            topology, values, inputs, function
        )
    )
    np.testing.assert_allclose(run(values, inputs), expected, rtol=1e-5, atol=1e-6)
    # One round less does not reach the output, one more changes nothing.
    found = [
        forward_pass.forward_pass(
            topology, values, inputs, function, rounds=len(widths) + change
        )
        for change in (-1, 1)
    ]
    assert np.abs(found[0] - expected).max() > 1e-2
    np.testing.assert_allclose(found[1], expected, rtol=1e-5, atol=1e-6)


def test_residual_sums_are_run_too():
    model, variables, topology, values, inputs = setup(has_skip=True)
    found = forward_pass.forward_pass(topology, values, inputs, nn.relu)
    expected = model.apply(variables, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert forward_pass.num_rounds(topology) > topology.num_layers


@pytest.mark.parametrize("num_pieces", [1, 4, 32])
def test_relu_product_keeps_its_bound_and_reaches_it(num_pieces):
    message = forward_pass.ReluProduct(bound=2.0, num_pieces=num_pieces)
    grid = np.linspace(-2.0, 2.0, 129, dtype=np.float32)
    values, weights = (axis.ravel() for axis in np.meshgrid(grid, grid))
    error = np.abs(message(values, weights) - values * weights).max()
    assert 0.9 * message.error < error < message.error + 1e-4


def test_forward_pass_by_relu_messages_alone():
    model, variables, topology, values, inputs = setup()
    expected = model.apply(variables, inputs)
    errors = []
    for num_pieces in (16, 512):
        message = forward_pass.ReluProduct(bound=4.0, num_pieces=num_pieces)
        found = forward_pass.forward_pass(
            topology, values, inputs, nn.relu, message=message
        )
        errors.append(np.abs(found - expected).max())
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] / 20


def test_networks_that_do_not_fit_are_refused():
    _, _, topology, values, inputs = setup(activation="tanh")
    with pytest.raises(ValueError, match="node_functions: found a unit"):
        forward_pass.forward_pass(topology, values, inputs, nn.relu)

    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.LayerNorm()(nn.Dense(3)(inputs))

    model = Normalized()
    variables = random_variables(model, inputs)
    topology = metanet.trace(model, variables, inputs)
    with pytest.raises(ValueError, match=r"node_types: found \['layer_norm'"):
        forward_pass.forward_pass(
            topology, topology.edge_values(variables), inputs, nn.relu
        )
    cycle = metanet.trace(Perceptron(), *_perceptron_arguments())
    senders = np.concatenate([cycle.senders, cycle.outputs[:1]])
    receivers = np.concatenate([cycle.receivers, cycle.inputs[:1]])
    object.__setattr__(cycle, "senders", senders)
    object.__setattr__(cycle, "receivers", receivers)
    with pytest.raises(ValueError, match="topology: found a cycle"):
        forward_pass.num_rounds(cycle)


def _perceptron_arguments():
    inputs = jnp.asarray(normal(2))
    return random_variables(Perceptron(), inputs), inputs
