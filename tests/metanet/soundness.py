"""What must hold for every network that has a graph, whatever it is made of."""

import jax
import numpy as np

from modmeta.metanet import sample_symmetry, trace
from modmeta.metanet.parameter_graphs.symmetries import (
    edge_permutation,
    parameter_permutation,
)
from tests.metanet.scalar_programs import ScalarProgram


def vary(variables, seed=0):
    """Variables with random values, given variables or their shapes.

    Zeros and equal scales hide errors.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not np.issubdtype(leaf.dtype, np.floating):
            is_abstract = isinstance(leaf, jax.ShapeDtypeStruct)
            return np.zeros(leaf.shape, leaf.dtype) if is_abstract else leaf
        is_positive = "var" in str(path[-1])
        values = rng.uniform(0.5, 1.5, leaf.shape)
        if not is_positive:
            values = 0.5 * rng.normal(size=leaf.shape)
        return values.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def largest_change(model, variables, *inputs, num_symmetries=16, **options):
    """Largest change of a network's outputs under sampled symmetries, relative.

    The network itself is evaluated, number by number, which compiles nothing. Asserts
    that parameters come back from their edges to the bit.

    Returns:
      The change, the topology, and whether a parameter moved.
    """
    settings = {k: options.pop(k) for k in ("allow_unused",) if k in options}
    topology = trace(model, variables, *inputs, **settings, **options)
    returned = topology.to_parameters(topology.edge_values(variables))
    for found, expected in zip(
        jax.tree.leaves(returned), jax.tree.leaves(variables), strict=True
    ):
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()
    vector = np.asarray(topology.flatten(variables))
    rng = np.random.default_rng(0)
    vectors = np.tile(vector.astype(np.float64), (1 + num_symmetries, 1))
    moved = False
    for row in vectors[1:]:
        nodes = sample_symmetry(rng, topology)
        edge_permutation(topology, nodes)
        moves = parameter_permutation(topology, nodes)
        row[moves] = vector
        moved |= bool(np.any(moves != np.arange(len(moves))))
    apply = getattr(model, "apply", model)
    program = ScalarProgram(
        lambda tree, *given: apply(tree, *given, **options), variables, *inputs
    )
    expected, *found = program.evaluate(vectors)
    scale = float(np.abs(expected).max()) or 1.0
    worst = max((float(np.abs(row - expected).max()) for row in found), default=0.0)
    return worst / scale, topology, moved
