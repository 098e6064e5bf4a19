"""Symmetries of many architectures, drawn at random, and of networks that break them.

Float32: relative errors up to 1e-5 are rounding of sums in another order. Only sines
of thirty times a sum amplify the rounding of a network's own function to 3e-5.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import register_rule, trace, unregister_rule, verification
from modmeta.metanet.input_networks.architectures import SIREN
from tests.metanet import network_cases, random_networks, small_networks

NUM_SYMMETRIES = 16
TOLERANCE = 1e-5
FIXED = ("constant_table",)  # it has no symmetry
NAMES = [
    *(f"case/{name}" for name in network_cases.CASES if name not in FIXED),
    *(f"network/{name}" for name in small_networks.NETWORKS),
    *(f"random/{seed}" for seed in range(19)),
]


def test_sweep_is_large_enough():
    assert len(NAMES) * NUM_SYMMETRIES >= 1000


# Kinds of edges by network, of the graphs that a test has traced already.
traced_kinds = {}


def kinds_of(topology):
    return set(topology.edge_types.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_random_symmetries(name, monkeypatch):
    def noted(*arguments, **options):
        topology = trace(*arguments, **options)
        traced_kinds[name] = kinds_of(topology)
        return topology

    monkeypatch.setattr(verification, "trace", noted)
    model, variables, inputs = random_networks.get(name)
    seed = NAMES.index(name)
    errors = verification.check_symmetries(
        np.random.default_rng(seed),
        model,
        variables,
        *inputs,
        num_symmetries=NUM_SYMMETRIES,
    )
    assert errors.function.shape == (NUM_SYMMETRIES,)
    is_siren = isinstance(model, SIREN)
    assert errors.function.max() <= (10 if is_siren else 1) * TOLERANCE
    assert errors.invariant.max() <= TOLERANCE
    assert errors.equivariant.max() <= TOLERANCE
    assert errors.is_round_trip_exact.all()
    assert errors.num_moved.max() > 0


class Ramp(nn.Module):
    """Multiplies unit i by 1 + i, so that units are not interchangeable."""

    @nn.compact
    def __call__(self, inputs):
        return inputs * (1.0 + jnp.arange(inputs.shape[-1]))[None]


class Ramped(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(2)(Ramp()(nn.Dense(5)(inputs)))


@pytest.fixture
def ramp_without_effect():
    """A rule that takes the ramp for the identity."""

    @register_rule(Ramp)
    def ignore(builder, call):
        return call.signal

    yield
    unregister_rule(Ramp)


def test_rule_that_allows_too_much_is_found_out(ramp_without_effect):
    inputs = small_networks.normal(2, 3)
    model = Ramped()
    variables = small_networks.random_variables(model, inputs)
    errors = verification.check_symmetries(
        np.random.default_rng(0), model, variables, inputs
    )
    assert errors.num_moved.min() >= 0 and errors.function.max() > 0.05
    assert errors.is_round_trip_exact.all()


def test_metanetwork_that_sees_the_numbering_is_found_out(monkeypatch):
    to_graph = verification.to_graph

    def numbered(topology, values, **options):
        graph = to_graph(topology, values, **options)
        numbers = np.arange(topology.num_nodes)
        return graph._replace(nodes=graph.nodes._replace(orders=numbers))

    monkeypatch.setattr(verification, "to_graph", numbered)
    network = small_networks.NETWORKS["MLP"]
    variables = small_networks.random_variables(network.model, *network.inputs)
    errors = verification.check_symmetries(
        np.random.default_rng(0), network.model, variables, *network.inputs
    )
    assert errors.function.max() <= TOLERANCE
    assert errors.invariant.max() > 1e-3 and errors.equivariant.max() > 1e-3


def test_no_symmetries_are_refused():
    network = small_networks.NETWORKS["MLP"]
    variables = small_networks.random_variables(network.model, *network.inputs)
    with pytest.raises(ValueError, match="num_symmetries: found 0"):
        verification.check_symmetries(
            np.random.default_rng(0),
            network.model,
            variables,
            *network.inputs,
            num_symmetries=0,
        )


def test_all_named_layers_are_in_the_sweep():
    """Every kind of edge that rules of layers make appears in some network."""
    from modmeta.metanet.parameter_graphs.vocabulary import EDGE_TYPES

    seen = set()
    for name in NAMES:
        if name not in traced_kinds:
            model, variables, inputs = random_networks.get(name)
            traced_kinds[name] = kinds_of(trace(model, variables, *inputs))
        seen |= traced_kinds[name]
    missing = {name for name in EDGE_TYPES.names if EDGE_TYPES.id(name) not in seen}
    assert missing <= {"first", "second", "third", "fourth", "unused"}
