"""Operations that compute something else have other graphs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import UnsupportedLayerError, trace
from modmeta.metanet.parameter_graphs.functions import fingerprint_of
from modmeta.metanet.parameter_graphs.vocabulary import NODE_TYPES
from tests.metanet.network_cases import IMAGE, Case, make
from tests.metanet.test_tracing import assert_told_apart, between, hidden, signature


def copies(count, reduce=jnp.sum):
    def body(module, x):
        x = nn.Dense(4)(x.mean(axis=(1, 2)))
        return nn.Dense(2)(reduce(jnp.broadcast_to(x[:, None], (2, count, 4)), 1))

    return body


def attending(products, axis=-1):
    def body(module, x):
        x = x.reshape(2, 16, 3)
        logits = jnp.einsum(products, nn.Dense(4)(x), nn.Dense(4)(x))
        return jax.nn.softmax(logits, axis) @ nn.Dense(2)(x)

    return body


def compared(choose):
    def body(module, x):
        x = x.mean(axis=(1, 2))
        return nn.Dense(2)(1.0 * choose(nn.Dense(4)(x), nn.tanh(nn.Dense(4)(x))))

    return body


def pairs(operation):
    def body(module, x):
        x = nn.Dense(4)(x.reshape(2, 16, 3))
        mixed = operation(x[:, :, None], x[:, None])
        return nn.Dense(2)(jnp.cumsum(mixed, 1))

    return body


def segments(places):
    """A sum over the rows of an image that belong together."""

    def body(module, x):
        x = jnp.moveaxis(nn.Dense(4)(x), 1, 0)
        x = jnp.moveaxis(jax.ops.segment_sum(x, np.array(places), 4), 0, 1)
        return nn.Dense(2)(nn.tanh(x))

    return body


PAIRS = {
    "number of copies": (copies(5), copies(7)),
    "copies, largest of them": (copies(5), copies(5, jnp.max)),
    "repetition, tiling": (
        between(lambda x: nn.Conv(2, (3, 1))(jnp.repeat(x, 2, 1))),
        between(lambda x: nn.Conv(2, (3, 1))(jnp.tile(x, (1, 2, 1, 1)))),
    ),
    "relu, clip at 7": (
        hidden(lambda x: nn.relu(50 * x)),
        hidden(lambda x: jnp.clip(50 * x, 0, 7)),
    ),
    "steps": (
        hidden(lambda x: 1.0 * (x > 0)),
        hidden(lambda x: 1.0 * (x > 0.4)),
    ),
    "axis of a softmax": (attending("bqc,bkc->bqk", -1), attending("bqc,bkc->bqk", 1)),
    "values between points": (
        hidden(lambda x: jnp.interp(x, np.array([-1.0, 1]), np.array([0.0, 1]))),
        hidden(lambda x: jnp.interp(x, np.array([-1.0, 1]), np.array([0.0, 1.1]))),
    ),
    "who is compared": (compared(jnp.greater), compared(jnp.less)),
    "chosen and other": (
        compared(lambda a, b: jnp.where(a > b, a, b * b)),
        compared(lambda a, b: jnp.where(a > b, b * b, a)),
    ),
    "direction of a sum": (
        between(lambda x: jnp.cumsum(x, 1)),
        between(lambda x: jnp.cumsum(x[:, ::-1], 1)[:, ::-1]),
    ),
    "axis of a sum": (
        between(lambda x: jnp.cumsum(x, 1)),
        between(lambda x: jnp.cumsum(x, 2)),
    ),
    "chosen places": (
        between(lambda x: x[:, jnp.array([3, 0, 2])]),
        between(lambda x: x[:, jnp.array([3, 0, 1])]),
    ),
    "axes of the output": (
        lambda module, x: nn.Dense(4)(x[:, 0]),
        lambda module, x: nn.Dense(4)(x[:, 0]).swapaxes(1, 2),
    ),
    "axes of maps": (
        lambda module, x: nn.Conv(4, (2, 2))(x),
        lambda module, x: jnp.moveaxis(nn.Conv(4, (2, 2))(x), 3, 1),
    ),
    "receivers of messages": (segments([0, 1, 1, 3]), segments([0, 1, 2, 3])),
    "difference of tokens": (
        pairs(lambda a, b: nn.relu(a - b).sum(1)),
        pairs(lambda a, b: nn.relu(a - b).sum(2)),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_different_operations_have_different_graphs(name):
    assert_told_apart(PAIRS[name])


def flattened(swaps):
    """Logits of pairs of places, read by a dense layer with a row per pair."""

    def body(module, x):
        logits = jnp.einsum("bqc,bkc->bqk", nn.Dense(3)(x[:, 0]), nn.Dense(3)(x[:, 0]))
        logits = jnp.swapaxes(logits, 1, 2) if swaps else logits
        return nn.Dense(2)(nn.tanh(logits).reshape(2, 16))

    return body


WITH_WEIGHTS = {
    "queries and keys": (attending("bqc,bkc->bqk"), attending("bkc,bqc->bqk")),
    "pairs of places": (flattened(False), flattened(True)),
}


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_lie_on_other_edges(name):
    outputs, signatures = [], []
    for body in WITH_WEIGHTS[name]:
        model, variables, x = make(Case(body, IMAGE))
        outputs.append(np.asarray(model.apply(variables, x)))
        topology = trace(model, variables, x)
        signatures.append(signature(topology, topology.edge_values(variables)))
    assert not np.allclose(*outputs, rtol=1e-6)
    assert signatures[0] != signatures[1]


@pytest.mark.parametrize("place", [0.003, 0.02, 0.1, 1.7, 6.5, 40.0, 900.0])
@pytest.mark.parametrize("kind", ["step", "clip", "kink"])
def test_functions_that_change_at_another_place_are_told_apart(kind, place):
    """Places a twentieth apart, from 0.003 to 900, on both sides of zero."""
    functions = {
        "step": lambda x, at, sign: 1.0 * (sign * x > at),
        "clip": lambda x, at, sign: np.minimum(sign * x, at),
        "kink": lambda x, at, sign: sign * x + 0.01 * np.maximum(sign * x - at, 0),
    }
    for sign in (-1, 1):
        first, second = (
            fingerprint_of(functools.partial(functions[kind], at=at, sign=sign))
            for at in (place, 1.05 * place)
        )
        assert np.abs(first - second).max() > 1e-7


def test_normalisation_over_examples_is_refused():
    def body(module, x):
        x = jnp.swapaxes(x.reshape(2, 16, 3), 0, 1)
        return nn.Dense(2)(nn.InstanceNorm()(x))

    with pytest.raises(UnsupportedLayerError, match="mixes the examples"):
        trace(*make(Case(body, IMAGE)))


def grouped(num_groups):
    """Neighbours are normalised together; a convolution that could hide nothing."""

    def body(module, x):
        x = nn.GroupNorm(num_groups, use_bias=False, use_scale=False)(nn.Dense(4)(x))
        return nn.Dense(2)(x.mean(axis=(1, 2)) ** 2)

    return body


def test_members_of_groups_are_seen():
    """Two networks that differ in who is normalised with whom have different graphs."""
    model, variables, x = make(Case(grouped(2), IMAGE))
    topology = trace(model, variables, x)

    def reordered(order):
        first, second = (dict(variables["params"][f"Dense_{i}"]) for i in range(2))
        first = {name: leaf[..., order] for name, leaf in first.items()}
        second["kernel"] = second["kernel"][order]
        return {"params": {"Dense_0": first, "Dense_1": second}}

    def seen(tree):
        return signature(topology, topology.edge_values(tree))

    expected = model.apply(variables, x)
    across = reordered(np.array([2, 1, 0, 3]))
    assert np.abs(model.apply(across, x) - expected).max() > 1e-2
    assert seen(across) != seen(variables)
    within = reordered(np.array([3, 2, 0, 1]))
    np.testing.assert_allclose(model.apply(within, x), expected, atol=1e-5)
    assert seen(within) == seen(variables)


def test_a_clipped_function_is_not_homogeneous():
    for high, expected in ((20.0, False), (np.inf, True)):
        model, variables, x = make(
            Case(hidden(lambda v, high=high: jnp.clip(v, 0, high)), IMAGE)
        )
        topology = trace(model, variables, x)
        units = np.nonzero(topology.node_types == NODE_TYPES.id("linear"))[0][:4]
        assert np.all(topology.node_homogeneous[units] == expected)
