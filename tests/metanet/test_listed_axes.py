"""Dense layers along positions: nodes for units and for places, an edge per weight."""

import collections
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import trace
from modmeta.metanet.parameter_graphs.functions import fingerprint_of
from modmeta.metanet.parameter_graphs.vocabulary import EDGE_TYPES, NODE_TYPES
from tests.metanet.network_cases import Case, Network, make
from tests.metanet.patterns import fac
from tests.metanet.sweep import examine
from tests.metanet.test_tracing import signature

TOKENS = (2, 3, 4)
D = nn.Dense


def turn(x):
    return jnp.swapaxes(x, 1, 2)


def param(module, name, *shape):
    return module.param(name, nn.initializers.normal(1.0), shape)


def mlp_mixer(m, x):
    for _ in range(2):
        x = x + turn(D(3)(nn.gelu(D(5)(turn(nn.LayerNorm()(x))))))
        x = x + D(4)(nn.gelu(D(6)(nn.LayerNorm()(x))))
    return D(2)(x.mean(1))


def gated(m, x):
    for _ in range(2):
        u, v = jnp.split(nn.gelu(D(8)(nn.LayerNorm()(x))), 2, -1)
        x = x + D(4)(u * turn(D(3)(turn(nn.LayerNorm()(v)))))
    return D(2)(x.max(1))


def affine(m, x):
    gain, shift, scale = (
        param(m, name, 1, 1, 4) for name in ("gain", "shift", "scale")
    )
    x = x + scale * turn(D(3)(turn(x * gain + shift)))
    return D(2)((x + D(4)(nn.gelu(D(5)(x)))).mean(1))


def forecast(m, x):
    """Channels keep apart: every step ahead is a sum over the steps before."""
    return turn(D(5)(turn(x + turn(D(3)(nn.relu(D(4)(turn(x))))))))


def windows_of_one(m, x):
    x = nn.Conv(3, (1,))(jnp.tanh(nn.Conv(5, (1,))(turn(D(4)(x)))))
    return D(2)(turn(x)).sum(1)


def two_axes(m, x):
    x = D(4)(x).reshape(2, 2, 3, 4)
    rows = jnp.moveaxis(jnp.tanh(D(5)(jnp.moveaxis(x, 1, -1))), -1, 1)
    both = jnp.moveaxis(D(2)(jnp.moveaxis(rows, 2, -1)), -1, 2)
    return D(2)(nn.relu(both).sum((1, 2)))


def on_places(m, x):
    """Residuals, tables, gains, a softmax and a mean along hidden tokens."""
    h = D(5)(turn(D(4)(x)))
    h = h + D(5)(nn.relu(h))
    h = (h + param(m, "table", 1, 4, 5)) * param(m, "gain", 1, 1, 5)
    h = turn(nn.softmax(h, -1))
    return D(2)((D(3)(nn.LayerNorm()(h))).max(1))


def meeting(m, x):
    """Places of two axes that meet, where pairs of them are read, too."""
    h, k = (D(3)(turn(D(4)(y))) for y in (x, jnp.tanh(x)))
    pairs = jnp.einsum("bch,bck->bhk", h, k)
    return D(2)((nn.relu(pairs) + turn(pairs) ** 2).sum(1)) + D(2)(turn(h * k).sum(1))


def attended(m, x):
    """Queries and keys of the same hidden tokens: an axis that is there twice."""
    h = turn(D(3)(turn(D(4)(x))))
    logits = jnp.einsum("bqc,bkc->bqk", D(3)(h), D(3)(h))
    return D(2)((nn.softmax(logits + turn(logits)) @ D(4)(h)).max(1))


def cut(m, x):
    """Places that are cut, turned round, joined, and read one by one."""
    h = turn(jnp.tanh(D(5)(turn(D(4)(x)))))
    h = jnp.concatenate([h[:, :2], h[:, :0:-1], D(4)(x)], 1)
    return D(2)(jnp.tanh(D(3)(h[:, 1:]).reshape(2, -1)))


def with_constants(m, x):
    h = jnp.einsum("st,btc->bsc", jnp.tri(3) * param(m, "kernel", 3, 3), D(4)(x))
    h = turn(jnp.tanh(D(3)(turn(h)))) * jnp.arange(1.0, 4.0)[None, :, None]
    return D(2)(h.sum(1))


# What can change places: sizes of sets of hidden units and places.
SOUND = {
    "mixer": (mlp_mixer, fac(5, 6, 5, 6)),
    "gated by tokens": (gated, fac(4, 4)),
    "affine": (affine, fac(5)),
    "forecast": (forecast, fac(4)),
    "windows of one element": (windows_of_one, fac(4, 5, 3)),
    "two axes": (two_axes, fac(4, 5, 2)),
    "operations on places": (on_places, fac(4, 5, 3)),
    "places that meet": (meeting, None),
    "attention of places": (attended, fac(4, 3, 3, 4)),
    "places cut and joined": (cut, None),
    "constants": (with_constants, None),
}


@pytest.mark.parametrize("name", SOUND)
def test_symmetries_are_true_and_all_there_are(name):
    body, order = SOUND[name]
    shape = (2, 6, 4) if name == "two axes" else TOKENS
    finding = examine(Network(body), (np.ones(shape, np.float32),), num_symmetries=6)
    assert finding.is_exact and finding.change < 1e-5
    assert finding.found <= finding.expected + 1e-6
    if order is not None:
        assert finding.found == pytest.approx(math.log(order), abs=1e-6)


def test_edges_are_of_the_order_of_the_parameters():
    def body(m, x):
        for _ in range(2):
            x = x + turn(D(16)(nn.gelu(D(24)(turn(nn.LayerNorm()(x))))))
            x = x + D(12)(nn.gelu(D(48)(nn.LayerNorm()(x))))
        return D(2)(x.mean(1))

    x = jax.ShapeDtypeStruct((2, 16, 12), "float32")
    model = Network(body)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    topology = trace(model, shapes, x)
    assert topology.num_edges < 1.2 * topology.num_parameters


def square(axis, other):
    """Layers along two axes of one length, one after the other."""

    def body(m, x):
        x = jnp.moveaxis(D(3)(jnp.moveaxis(D(3)(x), axis, -1)), -1, axis)
        x = jnp.tanh(x)
        x = jnp.moveaxis(D(3)(jnp.moveaxis(x, other, -1)), -1, other)
        return jnp.tanh(x)

    return body


def added(turned):
    def body(m, x):
        x = jnp.moveaxis(D(3)(x), -1, 1)
        rows, columns = D(3)(x), jnp.swapaxes(D(3)(jnp.swapaxes(x, 2, 3)), 2, 3)
        return jnp.moveaxis(rows + (jnp.swapaxes(rows, 2, 3) if turned else rows)
                            + columns, 1, -1)  # fmt: skip

    return body


def shifted(axis):
    def body(m, x):
        h = turn(D(3)(x[:, 0]))
        bias = jnp.expand_dims(param(m, "bias", 3), (0, axis))
        h = h @ param(m, "kernel", 3, 3) + bias
        return D(2)(turn(jnp.tanh(h)))

    return body


def read(back):
    def body(m, x):
        h = jnp.tanh(D(3)(turn(D(3)(x[:, 0]))))
        k = D(3)(h)
        return D(2)(turn(jnp.tanh(h if back else k) * k))

    return body


SQUARE = (2, 3, 3, 3)
PAIRS = {
    "which axis is mixed": (square(1, 1), square(2, 2)),
    "which is mixed first": (square(1, 2), square(2, 1)),
    "a sum with its transpose": (added(True), added(False)),
    "a bias of places or of units": (shifted(1), shifted(2)),
    "which places meet": (read(True), read(False)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_functions_have_other_graphs(name):
    outputs, signatures = [], []
    for body in PAIRS[name]:
        model, variables, x = make(Case(body, SQUARE))
        outputs.append(np.asarray(model.apply(variables, x)))
        topology = trace(model, variables, x)
        signatures.append(signature(topology, topology.edge_values(variables)))
    assert not np.allclose(*outputs, rtol=1e-6)
    assert signatures[0] != signatures[1]


def evaluate(topology, values, x):
    """Outputs `[T, outputs]` of one example `[T, inputs]`, from the graph alone.

    A unit has a value per place of its axis. The meaning of every type of node is
    written out here; functions are the identity or tanh.
    """
    kinds = [NODE_TYPES.name(i) for i in topology.node_types]
    distance = np.abs(topology.node_functions - fingerprint_of(np.tanh))
    is_tanh = np.max(distance, axis=1) < 1e-4
    incoming = collections.defaultdict(list)
    edges = zip(
        topology.senders,
        topology.receivers,
        [EDGE_TYPES.name(i) for i in topology.edge_types],
        topology.edge_positions[:, 0],
        np.asarray(values),
        strict=True,
    )
    for sender, receiver, kind, position, value in edges:
        incoming[receiver].append((sender, kind, int(position), value))

    def places_of(node):
        """Places of an axis: in order of their position, or of their number."""
        return [
            sender for sender, _, _, _ in sorted(incoming[node], key=lambda e: e[::2])
        ]

    def unit(node):
        found = total(node)
        return np.tanh(found) if is_tanh[node] else found

    def total(node):
        if kinds[node] == "input":
            return x[:, topology.node_orders[node]]
        if kinds[node] == "bias":
            return np.ones(1)
        if kinds[node] in ("linear", "sum", "view"):
            return sum(value * unit(sender) for sender, _, _, value in incoming[node])
        (before,) = [s for s, kind, _, _ in incoming[node] if kind == "identity"]
        (axis,) = [s for s, kind, _, _ in incoming[node] if kind == "axis"]
        if kinds[node] == "moved":
            # The places before, in the order of the positions that they go to.
            here = sorted(incoming[axis], key=lambda edge: edge[2])
            order = sorted(s for s, _, _, _ in here)
            return unit(before)[[order.index(s) for s, _, _, _ in here]]
        assert kinds[node] == "mixed"
        return np.array([place(p, unit(before)) for p in sorted(places_of(axis))])

    def place(node, before):
        senders = sorted(s for s, _, _, _ in incoming[node] if kinds[s] == "place")
        result = 0.0
        for sender, _, position, value in incoming[node]:
            if kinds[sender] == "bias":
                result += value
            elif kinds[sender] == "axis":
                result += value * before[position]
            else:
                result += value * before[senders.index(sender)]
        return result

    outputs = sorted(topology.outputs, key=lambda node: topology.node_orders[node])
    return np.stack([unit(node) for node in outputs], -1)


def test_the_graph_alone_gives_the_outputs():
    def body(m, x):
        x = x + turn(D(3)(jnp.tanh(D(5)(turn(x)))))
        x = x + D(4)(jnp.tanh(D(6)(x)))
        return D(2)(x)

    model, variables, x = make(Case(body, TOKENS))
    topology = trace(model, variables, x)
    found = evaluate(topology, topology.edge_values(variables), x[0])
    np.testing.assert_allclose(found, model.apply(variables, x)[0], atol=1e-5)
