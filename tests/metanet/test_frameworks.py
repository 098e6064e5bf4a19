"""One network in several ways of writing is one graph; parts of networks."""

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from modmeta.metanet import (
    InvariantMetanet,
    MetanetConfig,
    UnsupportedLayerError,
    to_graph,
    trace,
)
from tests.metanet.soundness import largest_change, vary
from tests.metanet.test_tracing import signature


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        x = nn.tanh(nn.Dense(5, name="hidden")(x.mean(axis=(1, 2))))
        return nn.Dense(2, name="last")(x)


def plain(params, x):
    """The same with products written out."""
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jnp.maximum(x + bias.reshape(1, 1, 1, -1), 0.0)
    x = jnp.mean(x, axis=(1, 2))
    x = jnp.tanh(jnp.einsum("bi,io->bo", x, params["hidden"]["kernel"])
                 + params["hidden"]["bias"][None])  # fmt: skip
    return x @ params["last"]["kernel"] + params["last"]["bias"][None]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
        self.last = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x)).mean(axis=(1, 2))
        return self.last(jnp.tanh(self.hidden(x)))


def haiku_network():
    """The network in Haiku, and its parameters from those of Linen."""
    hk = pytest.importorskip("haiku")

    def run(x):
        x = jax.nn.relu(hk.Conv2D(4, (3, 3), name="conv")(x)).mean(axis=(1, 2))
        return hk.Linear(2, name="last")(jnp.tanh(hk.Linear(5, name="hidden")(x)))

    def convert(params):
        return {k: {"w": v["kernel"], "b": v["bias"]} for k, v in params.items()}

    return hk.without_apply_rng(hk.transform(run)).apply, convert


def equinox_network():
    """The same in Equinox, which has outputs and channels first, and no batches."""
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        conv: eqx.nn.Conv2d
        hidden: eqx.nn.Linear
        last: eqx.nn.Linear

        def __call__(self, x):
            x = jax.nn.relu(self.conv(x)).mean(axis=(1, 2))
            return self.last(jnp.tanh(self.hidden(x)))

    def convert(params):
        layers = (
            eqx.nn.Conv2d(3, 4, 3, padding=1, key=jax.random.key(0)),
            *(
                eqx.nn.Linear(*sizes, key=jax.random.key(0))
                for sizes in ((4, 5), (5, 2))
            ),
        )
        found = []
        for layer, name in zip(layers, ("conv", "hidden", "last"), strict=True):
            kernel, bias = params[name]["kernel"], params[name]["bias"]
            weight = jnp.moveaxis(kernel, (-1, -2), (0, 1))
            values = weight, bias.reshape(layer.bias.shape)
            layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, values)
            found.append(layer)
        return Network(*found)

    def run(network, x):
        return jax.vmap(network)(jnp.moveaxis(x, -1, 1))

    return run, convert


@pytest.mark.parametrize("make", [haiku_network, equinox_network])
def test_other_frameworks_give_the_same_graph(make):
    run, convert = make()
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    variables = vary(jax.eval_shape(Linen().init, jax.random.key(0), x))
    params = convert(variables["params"])
    np.testing.assert_allclose(
        run(params, x), Linen().apply(variables, x), rtol=1e-5, atol=1e-5
    )
    expected, found = trace(Linen(), variables, x), trace(run, params, x)
    assert signature(found, found.edge_values(params)) == signature(
        expected, expected.edge_values(variables)
    )
    network = InvariantMetanet(MetanetConfig(width=4, num_blocks=1), 2)
    graphs = [
        to_graph(topology, np.asarray(topology.edge_values(tree)))
        for topology, tree in ((expected, variables), (found, params))
    ]
    weights = jax.jit(network.init)(jax.random.key(1), graphs[0])
    outputs = [jax.jit(network.apply)(weights, graph) for graph in graphs]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


def test_what_is_no_array_is_refused_with_a_way_out():
    tree = {"kernel": np.ones((3, 2), np.float32), "activation": jnp.tanh}
    with pytest.raises(UnsupportedLayerError, match="activation: found .* no array"):
        trace(lambda tree, x: tree["activation"](x @ tree["kernel"]), tree, np.ones(3))


def test_frameworks_give_one_graph():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    variables = vary(Linen().init(jax.random.key(0), x))
    expected = trace(Linen(), variables, x)
    values = expected.edge_values(variables)
    # A plain function of a tree of parameters.
    change, found, moved = largest_change(plain, variables["params"], x)
    assert change < 1e-5 and moved
    assert signature(found, found.edge_values(variables["params"])) == signature(
        expected, values
    )
    # NNX: a function of the state of a module.
    definition, state = nnx.split(Nnx(nnx.Rngs(0)))
    state = nnx.to_pure_dict(state)
    state = jax.tree.map(
        lambda old, new: new, state, jax.tree.map(jnp.asarray, variables["params"])
    )

    def run(tree, x):
        return nnx.merge(definition, nnx.State(tree))(x)

    change, found, moved = largest_change(run, state, x)
    assert change < 1e-5 and moved
    assert signature(found, found.edge_values(state)) == signature(expected, values)
    with pytest.raises(UnsupportedLayerError, match="found Nnx, expected the state"):
        trace(Nnx(nnx.Rngs(0)), Nnx(nnx.Rngs(0)), x)
    # Its module and its state, or their pure dict, do as well.
    for tree in (state, nnx.State(jax.tree.map(nnx.Param, state))):
        found = trace(Nnx(nnx.Rngs(1)), tree, x)
        assert [leaf.name for leaf in found.leaves][:2] == ["conv/bias", "conv/kernel"]
        assert signature(found, found.edge_values(tree)) == signature(expected, values)
        returned = found.to_parameters(found.edge_values(tree))
        assert jax.tree.all(jax.tree.map(np.array_equal, returned, tree))


def test_frozen_variables_stay_frozen():
    x = np.ones((2, 3), np.float32)
    model = nn.Dense(2)
    frozen = flax.core.freeze(vary(jax.eval_shape(model.init, jax.random.key(0), x)))
    topology = trace(model, frozen, x)
    returned = topology.to_parameters(topology.edge_values(frozen))
    assert isinstance(returned, flax.core.FrozenDict)
    assert jax.tree.all(jax.tree.map(np.array_equal, returned, frozen))
    bare = trace(model, frozen["params"], x)
    np.testing.assert_array_equal(bare.senders, topology.senders)


class Coder(nn.Module):
    def setup(self):
        self.encoder, self.decoder = nn.Dense(3), nn.Dense(4)
        self.last = nn.Dense(4)

    def __call__(self, x):
        return self.generate(nn.relu(self.encoder(x)))

    def generate(self, code):
        return self.last(nn.tanh(self.decoder(code)))


def test_parts_of_a_network():
    x = jnp.ones((2, 4))
    variables = vary(Coder().init(jax.random.key(0), x))
    options = {"method": Coder.generate}
    with pytest.raises(UnsupportedLayerError, match="encoder/bias.*allow_unused=True"):
        trace(Coder(), variables, jnp.ones((2, 3)), **options)
    change, topology, moved = largest_change(
        Coder(), variables, jnp.ones((2, 3)), allow_unused=True, **options
    )
    assert change < 1e-5 and moved
    assert topology.num_parameters == 4 * 3 + 3 + 3 * 4 + 4 + 4 * 4 + 4


def test_masked_weights_are_carried_along():
    class Pruned(nn.Dense):
        def param(self, name, *arguments, **settings):
            values = super().param(name, *arguments, **settings)
            return values * jnp.tri(*values.shape) if name == "kernel" else values

    model = nn.Sequential([Pruned(4), nn.relu, nn.Dense(2)])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    variables = vary(model.init(jax.random.key(0), x))
    change, _, _ = largest_change(model, variables, x, allow_unused=True)
    assert change < 1e-5


def test_keyword_arguments_may_be_inputs():
    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x, *, mask):
            x = nn.MultiHeadDotProductAttention(2, name="attention")(x, mask=mask)
            return nn.Dense(2)(x)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6)).astype(np.float32)
    mask = jnp.tri(4, dtype=bool)[None, None] | (rng.random((2, 1, 4, 4)) > 0.5)
    variables = vary(Masked().init(jax.random.key(0), x, mask=mask))
    change, topology, moved = largest_change(Masked(), variables, x, mask=mask)
    assert change < 1e-5 and moved
    assert len(topology.inputs) == 6 + 1
