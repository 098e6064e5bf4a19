"""Systems seen from the mean of their entities."""

import dataclasses

import numpy as np
import pytest

from modmeta.relational.data import DataError, FeatureSpec, TrajectoryDataset
from modmeta.relational.data.common_motion import relative_to_mean

BODIES = FeatureSpec(("x", "y", "vx", "vy", "mass"), (0, 1), (2, 3))


def bodies(drift=0.0):
    """Systems of three and two bodies; drift moves all of them along a curve."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 6, 3, 5))
    time = np.arange(6)[None, :, None]
    states[..., 0] += drift * np.sin(time)
    states[..., 2] += drift * np.cos(time)
    mask = np.array([[True, True, True], [True, True, False]])
    return TrajectoryDataset(states=states, features=BODIES, node_mask=mask)


def test_what_moves_all_alike_is_gone():
    still, moved = relative_to_mean(bodies()), relative_to_mean(bodies(5.0))
    np.testing.assert_allclose(moved.states, still.states, atol=1e-5)
    for task, size in enumerate((3, 2)):
        mean = still.states[task, :, :size, :4].mean(axis=1)
        np.testing.assert_allclose(mean, 0.0, atol=1e-6)
    # Displacements of pairs and other columns are what they were.
    for of in (lambda s: s[:, :, 0, :4] - s[:, :, 1, :4], lambda s: s[..., 4]):
        np.testing.assert_allclose(of(still.states), of(bodies().states), atol=1e-6)
    assert "relative to the mean" in still.notes[-1]


def test_frames_without_some_entity_do_not_count():
    seen = np.ones((2, 6, 3), bool)
    seen[0, 2, 1] = False
    seen[1, :, 2] = False  # is not there
    found = relative_to_mean(dataclasses.replace(bodies(), frame_mask=seen))
    expected = np.broadcast_to(bodies().node_mask[:, None], seen.shape).copy()
    expected[0, 2] = False
    np.testing.assert_array_equal(found.frame_mask, expected)
    whole = relative_to_mean(bodies()).states
    np.testing.assert_allclose(found.states[expected], whole[expected], atol=1e-6)


def test_without_positions_there_is_no_mean():
    plain = dataclasses.replace(bodies(), features=FeatureSpec(tuple("abcde")))
    with pytest.raises(DataError, match="positions: found columns"):
        relative_to_mean(plain)
