"""What must hold for the graphs of random programs, and a command that tries many.

    python -m tests.metanet.fuzz SEED NUMBER

prints what is wrong with any of NUMBER programs and their changed ones.
"""

import collections
import sys

import jax
import numpy as np

from modmeta.metanet import UnsupportedLayerError, sample_symmetry, trace
from modmeta.metanet.parameter_graphs.symmetries import (
    edge_permutation,
    parameter_permutation,
)
from tests.metanet.random_shapes import SHAPES, draw, mutate, pick, reorder
from tests.metanet.scalar_programs import ScalarProgram
from tests.metanet.test_tracing import signature


def _vector(tables):
    leaves = jax.tree.leaves(tables)
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


def _differ(first, second):
    is_alike = np.allclose(first, second, rtol=1e-6, atol=1e-6, equal_nan=True)
    return first.shape != second.shape or not is_alike


def failures(rng, length):
    """What is wrong with the graph of a random program, in words; None: no graph.

    Equal graphs, of a changed program or of parameters in another order, must be equal
    functions; symmetries must leave the function alone; parameters must come back.
    Outputs are computed number by number, so that nothing is compiled.
    """
    program = draw(rng, length)
    shape = (2, *pick(rng.random(), SHAPES))
    x = rng.normal(size=shape).astype(np.float32)
    try:
        tables = program.tables(x)
        topology = trace(program, tables, x, allow_unused=True)
    except UnsupportedLayerError as error:
        is_crash = "does not cover" in str(error)
        return [f"{error}: {program} {shape}"] if is_crash else None

    def seen(topology, tables):
        return signature(topology, topology.edge_values(tables), num_rounds=8)

    own, found = seen(topology, tables), []
    returned = topology.to_parameters(topology.edge_values(tables))
    if any(np.any(np.asarray(returned[name]) != tables[name]) for name in tables):
        found.append(f"round trip: {program} {shape}")
    # Parameters with which the function should be the same, and who says so.
    vectors, reasons = [_vector(tables)], [""]
    for _ in range(3):
        reordered = reorder(rng, tables)
        if seen(topology, reordered) == own:
            vectors.append(_vector(reordered))
            reasons.append("an equal graph")
    for _ in range(3):
        nodes = sample_symmetry(rng, topology)
        try:
            edge_permutation(topology, nodes)
        except ValueError as error:
            found.append(f"{error}: {program} {shape}")
            break
        moved = np.empty_like(vectors[0])
        moved[parameter_permutation(topology, nodes)] = vectors[0]
        vectors.append(moved)
        reasons.append("a symmetry")
    evaluated = ScalarProgram(program, tables, x).evaluate(np.stack(vectors))
    for reason, outputs in zip(reasons, evaluated, strict=True):
        if _differ(outputs, evaluated[0]):
            found.append(f"{reason}: {program} {shape}")
    changed = mutate(rng, program)
    tables = changed.tables(x)
    try:
        topology = trace(changed, tables, x, allow_unused=True)
    except UnsupportedLayerError:
        return found
    if changed != program and seen(topology, tables) == own:
        values = ScalarProgram(changed, tables, x).evaluate(_vector(tables)[None])
        if _differ(values[0], evaluated[0]):
            found.append(f"equal graphs: {program} {changed} {shape}")
    return found


def main(seed=0, num_programs=1000):
    """Prints what fails, and how many programs had a graph."""
    counts = collections.Counter()
    for index in range(num_programs):
        rng = np.random.default_rng([seed, index])
        found = failures(rng, int(rng.integers(3, 9)))
        counts["refused" if found is None else "failed" if found else "right"] += 1
        for line in found or ():
            print(seed, index, line, flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
