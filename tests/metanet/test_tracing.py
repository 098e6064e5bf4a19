"""Different functions get different graphs; what has no graph is refused by name."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import UnsupportedLayerError, register_rule, trace
from modmeta.metanet.parameter_graphs.rules.linear import dense
from modmeta.metanet.parameter_graphs.vocabulary import (
    ATTRIBUTES,
    EDGE_TYPES,
    NODE_TYPES,
)
from tests.metanet.network_cases import IMAGE, Case, make


def signature(topology, values=None, num_rounds=3):
    """Colours of nodes after rounds of refinement by their edges.

    Equal for isomorphic graphs; layers are left out, as they follow from the edges.
    The weights take part where they are given.
    """
    if values is None:
        values = np.zeros(topology.num_edges)
    features = np.concatenate(
        [
            topology.node_types[:, None],
            topology.node_orders[:, None],
            topology.node_functions,
            topology.node_attributes,
        ],
        axis=1,
    )
    edge_features = np.concatenate(
        [
            topology.edge_types[:, None],
            (topology.edge_parameters < 0)[:, None],
            topology.edge_constants[:, None],
            topology.edge_positions,
            np.asarray(values)[:, None],
        ],
        axis=1,
    )
    colors = [hash(row.tobytes()) for row in features.astype(np.float32)]
    edges = [hash(row.tobytes()) for row in edge_features.astype(np.float32)]
    for _ in range(num_rounds):
        messages = collections.defaultdict(list)
        for s, r, edge in zip(topology.senders, topology.receivers, edges, strict=True):
            messages[r].append((0, edge, colors[s]))
            messages[s].append((1, edge, colors[r]))
        colors = [
            hash((color, tuple(sorted(messages[node]))))
            for node, color in enumerate(colors)
        ]
    return sorted(colors)


def conv(activation=nn.relu, pool=None, **settings):
    def body(module, x):
        x = activation(nn.Conv(4, settings.pop("size", (2, 2)), **settings)(x))
        x = pool(x) if pool else x
        return nn.Dense(2)(x.mean(axis=(1, 2)))

    return body


def hidden(activation):
    return lambda module, x: nn.Dense(2)(activation(nn.Dense(4)(x.mean(axis=(1, 2)))))


def between(operation, head=True):
    def body(module, x):
        x = operation(nn.Conv(4, (2, 2))(x))
        return nn.Dense(2)(x.reshape((x.shape[0], -1))) if head else x

    return body


def pool(kind, *args, **settings):
    return conv(pool=lambda x: kind(x, *args, **settings))


def normed(layer, *args, **settings):
    return between(lambda x: nn.relu(layer(*args, **settings)(x)))


def squares(module, x):
    x = nn.Dense(4)(x.mean(axis=(1, 2)))
    y = nn.Dense(4)(x)
    return nn.Dense(2)(x * y)


def sums(module, x):
    x = nn.Dense(4)(x.mean(axis=(1, 2)))
    y = nn.Dense(4)(x)
    return nn.Dense(2)(x + y)


def differences(module, x):
    x = nn.Dense(4)(x.mean(axis=(1, 2)))
    y = nn.Dense(4)(x)
    return nn.Dense(2)(x - y)


def before_activation(module, x):
    x = nn.Dense(4)(x.mean(axis=(1, 2)))
    return nn.Dense(2)(x + nn.Dense(4)(nn.relu(x)))


def after_activation(module, x):
    x = nn.relu(nn.Dense(4)(x.mean(axis=(1, 2))))
    return nn.Dense(2)(x + nn.Dense(4)(x))


PAIRS = {
    "stride": (conv(strides=1), conv(strides=2)),
    "stride of one axis": (conv(strides=(1, 2)), conv(strides=(2, 1))),
    "padding": (conv(padding="SAME"), conv(padding="VALID")),
    "side of padding": (
        conv(padding=((0, 1), (0, 1))),
        conv(padding=((1, 0), (1, 0))),
    ),
    "high padding": (conv(padding=((0, 1), (0, 1))), conv(padding=((0, 2), (0, 2)))),
    "circular padding": (
        conv(padding="CIRCULAR"),
        conv(padding=((0, 1), (0, 1))),
    ),
    "reflecting padding": (conv(padding="CIRCULAR"), conv(padding="REFLECT")),
    "kernel dilation": (conv(kernel_dilation=1), conv(kernel_dilation=2)),
    "input dilation": (
        conv(padding=0, input_dilation=1),
        conv(padding=0, input_dilation=2),
    ),
    "relu, gelu": (hidden(nn.relu), hidden(nn.gelu)),
    "two gelus": (
        hidden(lambda x: nn.gelu(x, approximate=False)),
        hidden(lambda x: nn.gelu(x, approximate=True)),
    ),
    "relu, clipped relu": (
        hidden(lambda x: nn.relu(10 * x)),
        hidden(lambda x: nn.relu6(10 * x)),
    ),
    "slope": (
        hidden(lambda x: nn.leaky_relu(x, 0.01)),
        hidden(lambda x: nn.leaky_relu(x, 0.02)),
    ),
    "omega": (
        hidden(lambda x: jnp.sin(30.0 * x)),
        hidden(lambda x: jnp.sin(29.0 * x)),
    ),
    "elu": (hidden(lambda x: nn.elu(x, 1.0)), hidden(lambda x: nn.elu(x, 0.5))),
    "power": (hidden(lambda x: x**2), hidden(lambda x: x**3)),
    "constant factor": (hidden(lambda x: 2.0 * x), hidden(lambda x: x)),
    "kind of pooling": (
        pool(nn.avg_pool, (2, 2), (2, 2)),
        pool(nn.max_pool, (2, 2), (2, 2)),
    ),
    "size of pooling": (pool(nn.max_pool, (2, 2)), pool(nn.max_pool, (3, 3))),
    "axis of pooling": (pool(nn.max_pool, (1, 2)), pool(nn.max_pool, (2, 1))),
    "stride of pooling": (
        pool(nn.max_pool, (2, 2), (1, 1)),
        pool(nn.max_pool, (2, 2), (2, 2)),
    ),
    "padding of pooling": (
        pool(nn.avg_pool, (2, 2), (2, 2), padding=((0, 0), (0, 0))),
        pool(nn.avg_pool, (2, 2), (2, 2), padding=((1, 1), (1, 1))),
    ),
    "counted padding": (
        pool(nn.avg_pool, (2, 2), padding="SAME", count_include_pad=True),
        pool(nn.avg_pool, (2, 2), padding="SAME", count_include_pad=False),
    ),
    "mean, sum": (
        lambda m, x: nn.Dense(2)(x.mean(axis=(1, 2))),
        lambda m, x: nn.Dense(2)(x.sum(axis=(1, 2))),
    ),
    "sum, max": (
        lambda m, x: nn.Dense(2)(x.sum(axis=(1, 2))),
        lambda m, x: nn.Dense(2)(x.max(axis=(1, 2))),
    ),
    "axis of a mean": (
        lambda m, x: nn.Dense(2)(x.mean(axis=1)),
        lambda m, x: nn.Dense(2)(x.mean(axis=2)),
    ),
    "epsilon": (normed(nn.LayerNorm, epsilon=1e-6), normed(nn.LayerNorm, epsilon=0.1)),
    "kind of norm": (
        normed(nn.LayerNorm, use_bias=False),
        normed(nn.RMSNorm),
    ),
    "groups of a norm": (normed(nn.GroupNorm, 2), normed(nn.GroupNorm, 4)),
    "norm of instances": (
        normed(nn.GroupNorm, 1),
        normed(nn.InstanceNorm, epsilon=1e-6),
    ),
    "order of output axes": (
        between(lambda x: x, head=False),
        between(lambda x: x.swapaxes(1, 2), head=False),
    ),
    "merged axes before a convolution": (
        between(lambda x: nn.Conv(2, (3,))(x.reshape(2, 16, 4))),
        between(lambda x: nn.Conv(2, (3,))(x.swapaxes(1, 2).reshape(2, 16, 4))),
    ),
    "chosen position": (
        between(lambda x: x[:, 0:1]),
        between(lambda x: x[:, 1:2]),
    ),
    "order of outputs": (
        lambda m, x: nn.Dense(2)(x),
        lambda m, x: (lambda y: jnp.concatenate([y[..., 1:], 3 * y[..., :1]], -1))(
            nn.Dense(2)(x)
        ),
    ),
    "sum, product": (sums, squares),
    "sum, difference": (sums, differences),
    "residual around an activation": (before_activation, after_activation),
    "constant shift of outputs": (
        lambda m, x: nn.Dense(2)(x),
        lambda m, x: nn.Dense(2)(x) + 0.5,
    ),
    "table": (
        lambda m, x: nn.Dense(2)(x + np.arange(3, dtype=np.float32)[None, None, None]),
        lambda m, x: nn.Dense(2)(x + np.ones((1, 1, 1, 3), np.float32)),
    ),
}


def assert_told_apart(bodies):
    """Different outputs, where shapes allow to compare them, and different graphs."""
    outputs, signatures, shapes = [], [], []
    for body in bodies:
        model, variables, x = make(Case(body, IMAGE))
        outputs.append(np.asarray(model.apply(variables, x)))
        signatures.append(signature(trace(model, variables, x)))
        shapes.append(jax.tree.map(jnp.shape, variables))
    same_shape = outputs[0].shape == outputs[1].shape and shapes[0] == shapes[1]
    if same_shape:  # the premise: with equal weights, other outputs
        assert not np.allclose(*outputs, rtol=1e-6)
    assert signatures[0] != signatures[1]


# The kernel of the dense layer has a row per pixel and channel: another order of axes
# gives each row another pixel, which shows where the weights are.
ORDERS = {
    "order of axes": (
        between(lambda x: x.swapaxes(1, 2)),
        between(lambda x: x),
    ),
    "order of channels": (
        between(lambda x: x.transpose(0, 3, 1, 2)),
        between(lambda x: x.transpose(0, 3, 2, 1)),
    ),
    "order of features": (
        lambda m, x: nn.Dense(2)(x),
        lambda m, x: nn.Dense(2)(jnp.concatenate([x[..., 1:], x[..., :1]], -1)),
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_axes_moves_weights_to_other_edges(name):
    outputs, signatures = [], []
    for body in ORDERS[name]:
        model, variables, x = make(Case(body, IMAGE))
        outputs.append(np.asarray(model.apply(variables, x)))
        topology = trace(model, variables, x)
        signatures.append(signature(topology, topology.edge_values(variables)))
    assert not np.allclose(*outputs, rtol=1e-6)
    assert signatures[0] != signatures[1]


@pytest.mark.parametrize("name", PAIRS)
def test_different_functions_have_different_graphs(name):
    assert_told_apart(PAIRS[name])


def test_signatures_of_one_architecture_are_equal():
    for body in (PAIRS["stride"][0], PAIRS["counted padding"][1]):
        first, second = (make(Case(body, IMAGE)) for _ in range(2))
        assert signature(trace(*first)) == signature(trace(*second))


def test_number_of_groups_changes_the_edges():
    topologies = [
        trace(*make(Case(conv(feature_group_count=groups), (2, 4, 4, 4))))
        for groups in (1, 2, 4)
    ]
    counts = [
        int(np.sum(t.edge_types == EDGE_TYPES.id("convolution"))) for t in topologies
    ]
    assert counts == [64, 32, 16]


def test_units_and_functions_of_an_mlp():
    model, variables, x = make("mlp")
    topology = trace(model, variables, x)
    names = [NODE_TYPES.name(i) for i in topology.node_types]
    assert collections.Counter(names) == {"input": 3, "linear": 9, "bias": 3}
    from modmeta.metanet.parameter_graphs.functions import PROBES

    layer = topology.node_layers
    is_linear = topology.node_types == NODE_TYPES.id("linear")
    for index, function in ((1, nn.relu), (2, jnp.tanh), (3, lambda v: v)):
        for values in topology.node_functions[is_linear & (layer == index)]:
            probed = values[: len(PROBES)]
            np.testing.assert_allclose(probed, function(PROBES), rtol=1e-6)
    homogeneous = topology.node_homogeneous[is_linear]
    np.testing.assert_array_equal(homogeneous, layer[is_linear] != 2)
    assert topology.num_layers == 3


def test_statistics_of_batch_norm_are_edges():
    def body(module, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x)))

    model, variables, x = make(Case(body, (2, 3)))
    topology = trace(model, variables, x)
    values = np.asarray(topology.edge_values(variables))
    for kind, expected in (
        ("scale", variables["params"]["BatchNorm_0"]["scale"]),
        ("shift", variables["params"]["BatchNorm_0"]["bias"]),
        ("mean", variables["batch_stats"]["BatchNorm_0"]["mean"]),
        ("variance", variables["batch_stats"]["BatchNorm_0"]["var"]),
    ):
        chosen = topology.edge_types == EDGE_TYPES.id(kind)
        np.testing.assert_array_equal(values[chosen], expected)
    norm = topology.node_types == NODE_TYPES.id("batch_norm")
    epsilon = topology.node_attributes[norm, ATTRIBUTES.id("epsilon")]
    np.testing.assert_allclose(epsilon, 1e-5)


def test_keyword_arguments_and_dropout():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(3)(x))
            return nn.BatchNorm(use_running_average=not train)(x)

    model = Model()
    x = jnp.ones((2, 3))
    variables = model.init(jax.random.key(0), x, train=False)
    topology = trace(model, variables, x, train=False)
    assert topology.num_parameters == 9 + 3 + 4 * 3


class Wrapped(nn.Module):
    body: collections.abc.Callable

    @nn.compact
    def __call__(self, x):
        return self.body(x)


REFUSED = {
    "no rule": (lambda x: jnp.fft.fft(nn.Dense(3)(x)).real, "Wrapped_0.*fft"),
    "mean over the batch": (lambda x: nn.Dense(3)(x).mean(axis=0), "batch"),
    "norm over examples": (
        lambda x: nn.LayerNorm(reduction_axes=(0, 1))(x),
        r"Wrapped_0/LayerNorm_0 \(LayerNorm\).*reduction_axes.*batch",
    ),
    "loop of unknown length": (
        lambda x: jax.lax.while_loop(
            lambda y: y.sum() < 9.0, lambda y: 2 * y, nn.Dense(3)(x)
        ),
        "Wrapped_0.*while",
    ),
    "places that are computed": (
        lambda x: jnp.take_along_axis(
            nn.Dense(3)(x), jnp.argsort(nn.Dense(3)(x), -1), -1
        ),
        "Wrapped_0.*places that are computed",
    ),
    "complex numbers": (
        lambda x: jnp.abs(nn.Dense(2, dtype=jnp.complex64)(1j * x)),
        "Wrapped_0/Dense_0.*complex",
    ),
    "unused parameters": (
        lambda x: (nn.Dense(2)(x), nn.Dense(3)(x))[1],
        "Wrapped_0/Dense_0/bias.*no edge",
    ),
    "constant output": (lambda x: jnp.zeros((2, 2)), "output 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    body, message = REFUSED[name]
    model, variables, x = make(Case(lambda module, x: Wrapped(body)(x), IMAGE))
    with pytest.raises(UnsupportedLayerError, match=message):
        trace(model, variables, x)


def test_a_model_that_does_not_run_is_refused():
    model, variables, x = make(Case(lambda module, x: nn.Dense(2)(x), (2, 3)))
    with pytest.raises(UnsupportedLayerError, match="does not run.*ScopeParamShape"):
        trace(model, variables, np.ones((2, 4), np.float32))


def test_a_registered_rule_covers_a_new_layer():
    class Doubled(nn.Module):
        """A dense layer whose computation has no rule."""

        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (3, 2))
            return jnp.fft.fft(x @ kernel).real

    def body(module, x):
        return Doubled()(x)

    model, variables, x = make(Case(body, (2, 3)))
    with pytest.raises(UnsupportedLayerError, match="fft"):
        trace(model, variables, x)
    register_rule(Doubled)(dense)
    topology = trace(model, variables, x)
    assert topology.num_edges == 6


def test_a_rule_with_a_wrong_shape_is_an_error():
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x[:, :2]

    register_rule(Odd)(lambda builder, call: call.signal)
    model, variables, x = make(Case(lambda m, x: nn.Dense(2)(Odd()(x)), (2, 3)))
    with pytest.raises(ValueError, match="rule of Odd_0.*expected"):
        trace(model, variables, x)


def test_shapes_are_enough():
    model, variables, x = make("tokens")
    abstract = jax.eval_shape(lambda tree: tree, variables)
    inputs = jax.ShapeDtypeStruct(x.shape, x.dtype)
    first, second = trace(model, abstract, inputs), trace(model, variables, x)
    np.testing.assert_array_equal(first.senders, second.senders)
    np.testing.assert_array_equal(first.edge_positions, second.edge_positions)
