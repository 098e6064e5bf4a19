"""What is refused before a model is built."""

import jax
import numpy as np
import pytest

from modmeta.relational import ModuleConfig, as_dataset, build_model
from modmeta.relational.data import DataError
from modmeta.relational.data.noise import choose_span
from modmeta.relational.training import setup

INTERVAL = 0.1


def swinging(noise=0.0, unit=1.0):
    """Bodies that swing with accelerations of up to 1."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0.0, 6.0, size=(3, 1, 2, 2))
    time = INTERVAL * np.arange(40)[:, None, None] + phase
    states = np.concatenate([np.sin(time), np.cos(time)], axis=-1)
    states = unit * (states + noise * rng.normal(size=states.shape))
    return as_dataset(
        states, positions=(0, 1), velocities=(2, 3), frame_interval=INTERVAL
    )


@pytest.mark.parametrize("unit", [3.0, 1e3])
def test_bounds_that_accelerations_exceed_are_refused(unit):
    with pytest.raises(DataError, match="max_rate: found 1, .* by up to"):
        build_model(
            swinging(unit=unit), jax.random.key(0), modules=ModuleConfig(max_rate=1.0)
        )


def test_noise_is_no_acceleration():
    dataset = swinging(noise=0.3)
    assert np.abs(np.diff(dataset.states[..., 2], axis=1)).mean() > 2.0 * INTERVAL
    setup._check_bound(dataset, 1.0, choose_span(dataset))
