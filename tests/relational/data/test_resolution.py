"""Columns that are too far from zero for what they change by."""

import numpy as np
import pytest

from modmeta.relational.data import DataError
from modmeta.relational.data.forms.arrays import as_dataset

WALKS = np.cumsum(np.random.default_rng(0).normal(size=(2, 30, 3, 2)), axis=1)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_any_unit_will_do(scale):
    dataset = as_dataset(scale * WALKS, lags=1)
    np.testing.assert_allclose(dataset.states, scale * WALKS, rtol=1e-6)
    as_dataset(scale * (WALKS + 1000.0), lags=1)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_places_on_the_globe_are_refused_where_bodies_move_too_little(kind):
    """Metres from the equator, and steps of a decimetre."""
    states = (0.1 * WALKS + np.array([0.0, 4e6])).astype(kind)
    with pytest.raises(DataError, match=r"feature 1 \('feature_1'\) near 4e\+06 that"):
        as_dataset(states, positions=(0, 1))
    nearby = 0.1 * WALKS + np.array([0.0, 40.0])
    assert as_dataset(nearby, positions=(0, 1)).features.positions == (0, 1)


def test_what_never_changes_may_be_anywhere():
    constant = np.full((*WALKS.shape[:3], 1), 4e6)
    as_dataset(np.concatenate([WALKS, constant], axis=-1), lags=1)


def test_what_comes_to_rest_is_no_matter():
    slowing = WALKS[:, :1] + np.exp(-np.arange(30.0))[:, None, None]
    as_dataset(slowing, lags=1)
