"""What must hold for every network that has a graph, whatever it is made of."""

import jax
import numpy as np

from modmeta.metanet import sample_symmetry, trace
from modmeta.metanet.parameter_graphs.symmetries import (
    edge_permutation,
    parameter_permutation,
)


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

    The network itself is evaluated. Asserts that parameters come back from their edges
    to the bit.

    Returns:
      The change, the topology, and whether a parameter moved.
    """
    settings = {k: options.pop(k) for k in ("allow_unused",) if k in options}
    topology = trace(model, variables, *inputs, **settings, **options)
    apply = getattr(model, "apply", model)

    @jax.jit
    def run(vector):
        tree = topology.unflatten(vector, variables)
        found = apply(tree, *inputs, **options)
        return [leaf.astype(float) for leaf in jax.tree.leaves(found)]

    returned = topology.to_parameters(topology.edge_values(variables))
    for found, expected in zip(
        jax.tree.leaves(returned), jax.tree.leaves(variables), strict=True
    ):
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()
    vector = np.asarray(topology.flatten(variables))
    expected = run(vector)
    scale = max(float(np.abs(leaf).max()) for leaf in expected) or 1.0
    rng = np.random.default_rng(0)
    worst, moved = 0.0, False
    for _ in range(num_symmetries):
        nodes = sample_symmetry(rng, topology)
        edge_permutation(topology, nodes)
        moves = parameter_permutation(topology, nodes)
        permuted = np.empty_like(vector)
        permuted[moves] = vector
        moved |= bool(np.any(moves != np.arange(len(moves))))
        for found, wanted in zip(run(permuted), expected, strict=True):
            worst = max(worst, float(np.abs(found - wanted).max()) / scale)
    return worst, topology, moved
