"""Editors: the way from weights to weights, symmetries, heads, and the identity map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import MetanetConfig, trace
from modmeta.metanet.input_networks.fields import SIREN
from modmeta.metanet.learning import contrastive, editing, prediction, sources
from modmeta.metanet.models import editors

FIELD = SIREN(hidden_sizes=(3, 4), first_omega=3.0, hidden_omega=3.0)
INPUTS = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 2)), jnp.float32)
TOPOLOGY = trace(FIELD, jax.eval_shape(FIELD.init, jax.random.key(0), INPUTS), INPUTS)
ROWS = np.random.default_rng(1).normal(0.0, 0.4, (24, TOPOLOGY.num_parameters))
ROWS = ROWS.astype(np.float32)
STATISTICS = contrastive.weight_statistics(
    ROWS, [leaf.size for leaf in TOPOLOGY.leaves]
)
METANET = MetanetConfig(width=4, num_blocks=1, reverse_messages=True)
EDITORS = {
    "graph": editors.GraphEditor(TOPOLOGY, METANET, num_heads=2),
    "permutation": editors.NeuronPermutationEditor(
        TOPOLOGY, 3, num_layers=1, num_heads=2
    ),
}


@jax.jit
def respond(rows):
    return jax.vmap(lambda row: FIELD.apply(TOPOLOGY.unflatten(row), INPUTS))(rows)


def in_numpy(row):
    """What one network computes, `[inputs, 1]`."""
    layers = TOPOLOGY.unflatten(row)["params"]
    hidden = np.asarray(INPUTS)
    for index in range(3):
        layer = jax.tree.map(np.asarray, layers[f"layer_{index}"])
        hidden = hidden @ layer["kernel"] + layer["bias"]
        hidden = np.sin(3.0 * hidden) if index < 2 else hidden
    return hidden


def moved(rows):
    """The same networks with their hidden units in another order."""
    first, second = np.array([2, 0, 1]), np.array([3, 1, 0, 2])
    found = []
    for row in rows:
        layers = jax.tree.map(np.array, TOPOLOGY.unflatten(row)["params"])
        for kernel_in, kernel_out, order in (
            ("layer_0", "layer_1", first),
            ("layer_1", "layer_2", second),
        ):
            into, out = layers[kernel_in], layers[kernel_out]
            into["kernel"], into["bias"] = into["kernel"][:, order], into["bias"][order]
            out["kernel"] = out["kernel"][order]
        found.append(TOPOLOGY.flatten({"params": layers}))
    return np.stack(found)


@pytest.fixture(scope="module", params=EDITORS)
def edited(request):
    """New rows of five networks and of the same ones moved, from one set of weights."""
    predictor = editing.EditingPredictor(EDITORS[request.param], STATISTICS)

    params = jax.jit(predictor.init)(jax.random.key(0), ROWS[:5])
    still = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(leaf) * ("steps" not in str(path)), params
    )
    apply = jax.jit(predictor.apply)
    given = ((params, ROWS[:5]), (params, moved(ROWS[:5])), (still, ROWS[:5]))
    return [np.asarray(apply(*inputs)) for inputs in given]


def test_moved_networks_get_moved_weights(edited):
    new, of_moved, _ = edited
    assert new.shape == (5, 2, TOPOLOGY.num_parameters)
    expected = np.stack([moved(new[:, head]) for head in range(2)], axis=1)
    np.testing.assert_allclose(of_moved, expected, atol=2e-6)
    # The heads and the networks differ, and all weights change.
    assert np.abs(new[:, 0] - new[:, 1]).max() > 1e-4
    assert (np.abs(new - ROWS[:5, None]).max(axis=(0, 1)) > 0).all()


def test_without_a_step_nothing_changes(edited):
    np.testing.assert_array_equal(edited[2], np.repeat(ROWS[:5, None], 2, axis=1))


def test_rows_and_weights():
    weights = editors.rows_to_weights(TOPOLOGY, jnp.asarray(ROWS[:3]))
    assert [kernel.shape for kernel in weights.kernels] == [
        (3, 2, 3, 1),
        (3, 3, 4, 1),
        (3, 4, 1, 1),
    ]
    layers = TOPOLOGY.unflatten(ROWS[1])["params"]
    np.testing.assert_array_equal(
        weights.kernels[1][1, ..., 0], layers["layer_1"]["kernel"]
    )
    back = editors.weights_to_rows(TOPOLOGY, weights)
    np.testing.assert_array_equal(back[:, 0], ROWS[:3])


def test_heads_are_averaged_as_functions():
    rows = ROWS[:6].reshape(3, 2, -1)
    targets = np.random.default_rng(2).normal(size=(3, 6, 1)).astype(np.float32)
    outputs = np.stack([[in_numpy(row) for row in two] for two in rows])
    found = editing.OutputError(respond)(rows, targets)
    expected = np.mean((outputs.mean(axis=1) - targets) ** 2, axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_identity_map_is_learned():
    """From changes that spoil the networks to next to none."""
    metanet = MetanetConfig(width=4, num_blocks=0)
    editor = editors.GraphEditor(TOPOLOGY, metanet, initial_step=0.3)
    predictor = editing.EditingPredictor(editor, STATISTICS)
    objective = editing.OutputError(respond)
    source, targets = sources.VectorSource(ROWS), np.asarray(respond(ROWS))
    result = prediction.fit(
        predictor,
        objective,
        source,
        targets,
        {"train": np.arange(16), "valid": np.arange(16, 24)},
        prediction.PredictionConfig(
            num_steps=400, batch_size=8, learning_rate=1e-2, num_evaluations=8
        ),
        seed=0,
    )
    start = jax.jit(predictor.init)(jax.random.key(0), ROWS)
    spoiled = np.mean(objective(jax.jit(predictor.apply)(start, ROWS), targets))
    assert spoiled > 1e-2
    assert result.valid_loss < 1e-2 * spoiled
