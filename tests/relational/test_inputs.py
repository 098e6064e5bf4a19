"""Columns that are given: heard by what acts on an entity alone, never predicted."""

import dataclasses

import numpy as np
import pytest

from modmeta.relational import ModuleConfig, as_dataset, data
from modmeta.relational.data import DataError
from modmeta.relational.futures import predictions
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.inputs import edge_inputs
from tests.relational.test_results import half_symmetric, result_of

NAMES = ("x", "y", "vx", "vy", "wind")


def blown(num_frames=10):
    """Springs with a column of wind, which nothing need depend on."""
    springs = data.simulate_springs(0, 6, num_nodes=3, num_frames=num_frames)
    wind = np.random.default_rng(0).normal(size=(6, num_frames, 3, 1))
    return np.concatenate([springs.states, 3.0 + 2.0 * wind], axis=-1)


def test_inputs_are_read_kept_and_not_predicted(tmp_path):
    dataset = as_dataset(blown(), feature_names=NAMES, inputs=["wind"])
    spec = dataset.features
    assert (spec.positions, spec.velocities, spec.inputs) == ((0, 1), (2, 3), (4,))
    constants, layout = fit_preprocessing(dataset)
    assert layout.predicted == (0, 1, 2, 3)
    # Edges hear the same whatever the wind.
    pair = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    other = pair + np.float32([0, 0, 0, 0, 1])
    for geometry in ("raw", "relative"):
        found, again = (
            np.asarray(edge_inputs(geometry, constants, layout, *values))
            for values in (pair, other)
        )
        np.testing.assert_array_equal(found, again)
    data.save_npz(tmp_path / "wind.npz", dataset)
    assert as_dataset(tmp_path / "wind.npz").features == spec
    with pytest.raises(DataError, match="which overlap"):
        dataclasses.replace(spec, inputs=(3,))


def test_predictions_take_inputs():
    dataset = as_dataset(
        blown(), feature_names=NAMES, inputs=["wind"], frame_interval=0.1
    )
    modules = ModuleConfig(
        law="central", span=1, edge_sizes=(4,), node_sizes=(4,), entities="alike"
    )
    result = result_of(dataset, half_symmetric(), modules)
    with pytest.raises(DataError, match="inputs: found none, .* of .'wind'. at the 2"):
        result.predict(2)
    with pytest.raises(DataError, match=r"inputs: found shape \(5, 1\), expected one"):
        result.predict(2, inputs=np.zeros((5, 1)))
    wind = np.random.default_rng(2).normal(size=(6, 2, 3, 1))
    options = {"num_substeps": 4}
    found = result.predict(2, inputs=wind, **options)
    np.testing.assert_allclose(found[..., 4:], wind, atol=1e-5)
    calm = result.predict(2, inputs=0.0, **options)
    assert np.abs(found - calm)[..., :4].max() > 1e-6
    # Frames that are there tell what their inputs are.
    follows = predictions.predict_following(
        result.model, result.params, dataset, 8, result.found.structures, **options
    )
    normalization = result.params.preprocessing.normalization
    raw = follows * np.asarray(normalization.scale) + np.asarray(normalization.offset)
    np.testing.assert_allclose(raw[..., 4], dataset.states[:, 8:, :, 4], atol=1e-5)
    assert set(result.plot(num_systems=1)) == {"adjacency", "laws"}
