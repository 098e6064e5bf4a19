"""Proposition 2 on traced networks: their symmetries do not change a prediction."""

import jax
import numpy as np
import pytest

from modmeta import metanet
from modmeta.metanet.input_networks import architectures
from modmeta.metanet.models import features, gmn, readouts, weight_updates
from modmeta.metanet.parameter_graphs import symmetries
from tests.metanet.small_networks import normal, random_variables
from tests.metanet.test_models import assert_close, random_params

NETWORKS = {
    "residual": (
        architectures.ResNet(3, stem_channels=2, block_channels=(4,)),
        (1, 4, 4, 3),
    ),
    "attention": (
        architectures.VisionTransformer(2, 4, 2, 1, expansion=1),
        (1, 4, 4, 2),
    ),
    "sets": (architectures.DeepSets(2, 4, 1, positions="none"), (1, 5, 2)),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_symmetries_of_traced_networks(name):
    network, shape = NETWORKS[name]
    inputs = normal(*shape)
    variables = random_variables(network, inputs)
    topology = metanet.trace(network, variables, inputs)
    config = gmn.MetanetConfig(width=8, num_blocks=2, outputs_nodes=True)
    table = weight_updates.parameter_edges(topology)
    reader = readouts.InvariantMetanet(config, 3)
    writer = weight_updates.WeightUpdateMetanet(config, initial_step=1.0)
    vector = np.asarray(topology.flatten(variables))
    graph = features.to_graph(topology, topology.edge_values(variables))
    reader_params = random_params(reader, graph, seed=2)
    writer_params = random_params(writer, graph, table, vector)

    @jax.jit
    def apply(vector):
        values = topology.edge_values(topology.unflatten(vector))
        graph = features.to_graph(topology, values)
        new = writer.apply(writer_params, graph, table, vector)[0]
        return reader.apply(reader_params, graph)[0], new

    prediction, new = apply(vector)
    rng = np.random.default_rng(0)
    for _ in range(2):
        nodes = symmetries.sample_symmetry(rng, topology)
        moves = symmetries.parameter_permutation(topology, nodes)
        assert (moves != np.arange(len(moves))).any()
        permuted, expected = np.empty_like(vector), np.empty_like(vector)
        permuted[moves], expected[moves] = vector, new
        found, found_new = apply(permuted)
        assert_close(found, prediction)
        np.testing.assert_allclose(found_new, expected, rtol=1e-3, atol=1e-3)
    # A permutation within one array that belongs to no symmetry.
    leaf = max(topology.leaves, key=lambda leaf: leaf.size)
    broken = vector.copy()
    rows = slice(leaf.offset, leaf.offset + leaf.size)
    broken[rows] = rng.permutation(broken[rows])
    assert np.abs(apply(broken)[0] - prediction).max() > 1e-3
