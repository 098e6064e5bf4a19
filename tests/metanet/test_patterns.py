"""Patterns that trace: exact round trips, true symmetries, as many as expected."""

import math

import jax
import pytest

from modmeta.metanet.parameter_graphs.symmetries import group_order_logarithm
from tests.metanet.network_cases import Case, make
from tests.metanet.patterns import PATTERNS
from tests.metanet.public_models import MODELS
from tests.metanet.soundness import largest_change, vary


@pytest.mark.parametrize("name", PATTERNS)
def test_symmetries_leave_the_function_alone(name):
    pattern = PATTERNS[name]
    model, variables, x = make(Case(pattern.body, pattern.shape))
    change, topology, moved = largest_change(model, vary(variables), x)
    assert change < 1e-5
    if pattern.order is not None:
        found = group_order_logarithm(topology)
        assert found == pytest.approx(math.log(pattern.order), abs=1e-6)
        assert moved == (pattern.order > 1)


@pytest.mark.parametrize("name", MODELS)
def test_families_of_public_models(name):
    model, inputs = MODELS[name]
    variables = vary(model().init(jax.random.key(0), *inputs))
    # Rows of tables that the inputs are too short for are not used.
    change, _, moved = largest_change(
        model(), variables, *inputs, num_symmetries=8, allow_unused=True
    )
    assert change < 1e-5 and moved
