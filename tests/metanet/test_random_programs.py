"""Random programs and changed ones: equal graphs compute the same, symmetries hold.

A failure here prints the programs. `python -m tests.metanet.fuzz` tries thousands of
those whose arrays change shape.
"""

import numpy as np
import pytest

from modmeta.metanet import UnsupportedLayerError, trace
from tests.metanet import fuzz, random_programs
from tests.metanet.soundness import largest_change
from tests.metanet.test_tracing import signature


def graph(program, parameters, x):
    topology = trace(random_programs.model(program), parameters, x, allow_unused=True)
    return signature(topology, topology.edge_values(parameters), num_rounds=8)


@pytest.mark.parametrize("seed", range(2))
def test_equal_graphs_compute_the_same(seed):
    rng = np.random.default_rng(seed)
    num_equal = 0
    for _ in range(15):
        program = random_programs.draw_program(rng, 3)
        pair = program, random_programs.mutate(rng, program)
        parameters = random_programs.parameters(rng, 3)
        inputs = rng.normal(size=(8, *random_programs.SHAPE)).astype(np.float32)
        try:
            first, second = (graph(item, parameters, inputs[0]) for item in pair)
        except UnsupportedLayerError:
            continue
        if first == second:
            num_equal += 1
            outputs = [
                [random_programs.model(item)(parameters, x) for x in inputs]
                for item in pair
            ]
            np.testing.assert_allclose(*outputs, atol=1e-4, err_msg=str(pair))
    assert num_equal < 10


@pytest.mark.parametrize("seed", range(2))
def test_symmetries_of_random_programs(seed):
    rng = np.random.default_rng(seed)
    for _ in range(4):
        program = random_programs.draw_program(rng, 3)
        parameters = random_programs.parameters(rng, 3)
        x = rng.normal(size=random_programs.SHAPE).astype(np.float32)
        change, _, _ = largest_change(
            random_programs.model(program),
            parameters,
            x,
            num_symmetries=4,
            allow_unused=True,
        )
        assert change < 1e-4, program


@pytest.mark.parametrize("seed", range(2))
def test_programs_whose_arrays_change_shape(seed):
    results = [fuzz.failures(np.random.default_rng([seed, i]), 5) for i in range(12)]
    assert [found for found in results if found] == []
    assert sum(found is None for found in results) < 5
