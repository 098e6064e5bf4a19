"""What the graph of a network must hold, and what is known of its symmetries.

Networks are evaluated by NumPy, number by number (`scalar_programs`), so nothing is
compiled; expected numbers of symmetries come from colours of those numbers.
"""

import math
import re
from typing import NamedTuple

import jax
import numpy as np

from modmeta.metanet import UnsupportedLayerError, sample_symmetry, trace
from modmeta.metanet.parameter_graphs.symmetries import (
    group_order_logarithm,
    more_symmetries,
    parameter_permutation,
)
from tests.metanet import group_orders
from tests.metanet.scalar_programs import ScalarProgram
from tests.metanet.soundness import vary


class Finding(NamedTuple):
    """What is found of one network.

    Attributes:
      reason: Why it has no graph; empty if it has one.
      change: Largest relative change of its outputs under symmetries.
      is_exact: Whether parameters come back from their edges to the bit.
      found: Logarithm of the number of symmetries of parameters that were found.
      expected: Logarithm of the number that colours allow, at most.
      num_parameters: M.
      num_edges: E.
    """

    reason: str = ""
    change: float = 0.0
    is_exact: bool = True
    found: float = 0.0
    expected: float = 0.0
    num_parameters: int = 0
    num_edges: int = 0

    def row(self, name: str) -> str:
        """A line of the page of what is covered."""
        if self.reason:
            return f"| {name} | no: {self.reason} | | |"
        return (
            f"| {name} | {self.num_parameters:,} | {_count(self.found)} | "
            f"{_count(self.expected)} |"
        )


def _count(logarithm: float) -> str:
    order = math.exp(logarithm)
    return f"{order:,.0f}" if order < 1e6 else f"{order:.1e}".replace("e+", "e")


def examine(model, inputs, *, num_symmetries: int = 16) -> Finding:
    """Traces a network with random variables, and tries what its graph says.

    Args:
      model: A module.
      inputs: Its inputs.
      num_symmetries: How many symmetries are tried.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    variables = vary(shapes)
    try:
        topology = trace(model, variables, *inputs, allow_unused=True)
    except UnsupportedLayerError as error:
        # Lines of these files change often.
        return Finding(reason=re.sub(r" \(\w+\.py:\d+\)", "", str(error)))
    returned = topology.to_parameters(topology.edge_values(variables))
    is_exact = all(
        np.asarray(found).tobytes() == np.asarray(wanted).tobytes()
        for found, wanted in zip(
            jax.tree.leaves(returned), jax.tree.leaves(variables), strict=True
        )
    )
    rng = np.random.default_rng(0)

    def draw():
        return parameter_permutation(topology, sample_symmetry(rng, topology))

    vector = np.asarray(topology.flatten(variables), np.float64)
    vectors = np.tile(vector, (1 + num_symmetries, 1))
    for row in vectors[1:]:
        row[draw()] = vector
    program = ScalarProgram(model.apply, variables, *inputs)
    outputs = program.evaluate(vectors)
    assert np.all(np.isfinite(outputs[0]))
    scale = np.abs(outputs[0]).max() or 1.0
    expected = program.group_order_bound()
    found = group_order_logarithm(topology)
    if more_symmetries(topology):
        found = group_orders.group_order_logarithm(
            draw, len(vector), at_most=max(expected, found)
        )
    return Finding(
        change=float(np.abs(outputs[1:] - outputs[0]).max() / scale),
        is_exact=is_exact,
        found=found,
        expected=expected,
        num_parameters=len(vector),
        num_edges=topology.num_edges,
    )
