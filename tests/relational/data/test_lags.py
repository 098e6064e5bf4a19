"""Columns of the past, and autoregressions whose order is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.relational.data import DataError, FeatureSpec, load_npz, save_npz
from modmeta.relational.data.derived import recorded
from modmeta.relational.data.forms.arrays import as_dataset
from modmeta.relational.data.lags import choose_lags, with_lags
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.preprocessing import (
    decode_targets,
    encode_targets,
)


def autoregressions(order, num_tasks=10, num_frames=120, num_nodes=3, seed=0):
    """Linear series whose nodes act on themselves now, on another one later."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(num_tasks, num_frames, num_nodes, 1))
    for frame in range(order, num_frames):
        own = 0.4 * states[:, frame - 1]
        others = 0.5 * np.roll(states[:, frame - order], 1, axis=1)
        states[:, frame] += own + others
    return states


def dataset_of(states, **options):
    return as_dataset(states, lags=1, **options)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_an_autoregression(order):
    """Ten systems: the criterion fails less than once in a thousand."""
    assert choose_lags(dataset_of(autoregressions(order))) == order


def test_noise_and_walks_need_no_past():
    noise = np.random.default_rng(0).normal(size=(20, 100, 3, 1))
    assert choose_lags(dataset_of(noise)) == 1
    assert choose_lags(dataset_of(noise.cumsum(axis=1))) == 1


def test_short_series_of_many_nodes_are_left_alone():
    assert choose_lags(dataset_of(autoregressions(2, num_frames=20))) == 1


def test_columns_are_what_was_before():
    states = np.random.default_rng(1).normal(size=(2, 9, 3, 2)).astype(np.float32)
    found = with_lags(dataset_of(states), 3)
    assert found.states.shape == (2, 7, 3, 6)
    np.testing.assert_array_equal(found.states[..., :2], states[:, 2:])
    np.testing.assert_array_equal(found.states[..., 2:4], states[:, 1:-1])
    np.testing.assert_array_equal(found.states[..., 4:], states[:, :-2])
    assert found.features.lagged == ((2, 0), (3, 1), (4, 2), (5, 3))
    np.testing.assert_array_equal(recorded(found.features, found.states), states[:, 2:])
    assert "3 frames" in found.notes[-1]


def test_the_past_moves_on_and_is_not_predicted():
    dataset = with_lags(dataset_of(autoregressions(2)), 3)
    constants, layout = fit_preprocessing(dataset, compress=False)
    assert layout.predicted == (0,)
    constants = jax.tree.map(jnp.asarray, constants)
    scale, offset = constants.normalization.scale, constants.normalization.offset
    states = (dataset.states - np.asarray(offset)) / np.asarray(scale)
    targets = encode_targets(constants, layout, states[:, :-1], states[:, 1:])
    following = decode_targets(constants, layout, jnp.asarray(states[:, :-1]), targets)
    np.testing.assert_allclose(following, states[:, 1:], atol=1e-5)


def test_lags_survive_a_file(tmp_path):
    dataset = as_dataset(autoregressions(2))
    assert dataset.features.lagged == ((1, 0),)
    save_npz(tmp_path / "series.npz", dataset)
    again = load_npz(tmp_path / "series.npz")
    assert again.features == dataset.features
    np.testing.assert_array_equal(again.states, dataset.states)


def test_misuse_is_refused():
    states = autoregressions(1, num_tasks=2, num_frames=8)
    with pytest.raises(DataError, match="expected at most 6"):
        with_lags(dataset_of(states), 7)
    moving = dataclasses.replace(
        dataset_of(states), features=FeatureSpec(("x",), positions=(0,))
    )
    with pytest.raises(DataError, match="lags: found 2 with .'positions'."):
        with_lags(moving, 2)
