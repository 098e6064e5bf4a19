"""Symmetries of sine networks against the functions that must stay."""

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.input_networks import sine_symmetries
from modmeta.metanet.input_networks.fields import SIREN
from modmeta.metanet.input_networks.sine_symmetries import SineLayer
from modmeta.metanet.zoo import sine_rows
from modmeta.metanet.zoo.specification import flatten, leaves_of

OMEGA = 7.0
MODULE = SIREN((5, 4), 2, first_omega=OMEGA, hidden_omega=OMEGA, output_offset=0.5)
INPUTS = jnp.linspace(-1.0, 1.0, 18).reshape(9, 2)


def networks(count):
    """Variables with leaves `[count, ...]`, of phases of many turns."""
    keys = jax.random.split(jax.random.key(0), count)
    variables = jax.vmap(lambda key: MODULE.init(key, INPUTS))(keys)
    return jax.tree.map(lambda leaf: 3.0 * leaf, variables)


VARIABLES = networks(20)
LEAVES = leaves_of(jax.tree.map(lambda leaf: leaf[0], VARIABLES))
ROWS = flatten(VARIABLES)


def outputs(layers):
    """What networks compute, layer by layer in float64."""
    values = np.asarray(INPUTS, np.float64)[None]
    for index, (bias, kernel) in enumerate(layers):
        bias, kernel = (np.asarray(leaf, np.float64) for leaf in (bias, kernel))
        values = values @ kernel + bias[:, None]
        values = values + 0.5 if index == 2 else np.sin(OMEGA * values)
    return values


def test_rows_and_layers():
    layers = sine_rows.layers_of(LEAVES, ROWS)
    expected = jax.vmap(lambda one: MODULE.apply(one, INPUTS))(VARIABLES)
    np.testing.assert_allclose(outputs(layers), expected, atol=2e-5)
    np.testing.assert_array_equal(sine_rows.rows_of(LEAVES, layers), ROWS)


def test_equal_networks_have_one_canonical_form():
    layers = sine_rows.layers_of(LEAVES, ROWS)
    drawn = sine_symmetries.draw_equal_networks(jax.random.key(1), layers, OMEGA, 3)
    assert np.abs(sine_rows.rows_of(LEAVES, drawn) - ROWS).max() > 0.5
    np.testing.assert_allclose(outputs(drawn), outputs(layers), atol=2e-5)
    canonical = sine_rows.canonical_rows(LEAVES, ROWS, OMEGA)
    again = sine_rows.canonical_rows(LEAVES, sine_rows.rows_of(LEAVES, drawn), OMEGA)
    np.testing.assert_allclose(again, canonical, atol=1e-5)
    found = sine_rows.layers_of(LEAVES, canonical)
    np.testing.assert_allclose(outputs(found), outputs(layers), atol=2e-5)
    for bias, _ in found[:-1]:
        assert bias.min() >= 0.0 and OMEGA * bias.max() <= np.pi / 2 + 1e-6
    np.testing.assert_array_equal(found[-1].bias, layers[-1].bias)


def test_the_last_layer_has_no_sines():
    """A network of one layer is what it is."""
    layers = [SineLayer(jnp.full((1, 2), -9.0), jnp.ones((1, 2, 2)))]
    (layer,) = sine_symmetries.canonical_networks(layers, OMEGA)
    np.testing.assert_array_equal(layer.bias, -9.0)
