"""True laws of simulated bodies against sums over directions, and mean masses."""

import numpy as np
import pytest

from experiments.relational_inference import exact
from experiments.relational_inference.config import DataConfig
from modmeta.relational import FeatureSpec, TrajectoryDataset

MASSIVE = FeatureSpec(("x", "y", "vx", "vy", "mass"), (0, 1), (2, 3))


@pytest.mark.parametrize("distance", [0.02, 0.08, 0.095, 0.2, 3.0])
def test_laws_are_means_over_directions_of_clipped_forces(distance):
    angles = np.linspace(0.0, 2.0 * np.pi, 100_001)[:-1]
    direction = np.stack([np.cos(angles), np.sin(angles)])
    force = np.clip(direction / distance**2, -100.0, 100.0)
    expected = np.mean(np.sum(force * direction, axis=0))
    pull, push = exact.true_laws(DataConfig(system="charged"), None)
    found = pull(np.array([distance]))
    np.testing.assert_allclose(push(np.array([distance])), -found)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    if distance > 0.1:
        np.testing.assert_allclose(found, distance**-2.0, rtol=1e-6)


def test_gravity_is_that_of_the_mean_mass_of_real_bodies():
    states = np.zeros((2, 4, 3, 5), np.float32)
    states[0, :, :, 4], states[1, :, :2, 4] = [1.0, 2.0, 3.0], [2.0, 4.0]
    states[..., 0] = np.arange(3)
    mask = np.array([[True, True, True], [True, True, False]])
    dataset = TrajectoryDataset(
        states=states, features=MASSIVE, frame_interval=0.1, node_mask=mask
    )
    nothing, pull = exact.true_laws(DataConfig(system="gravity"), dataset)
    assert nothing(np.ones(3)).max() == 0.0
    np.testing.assert_allclose(pull(np.array([2.0])), 0.5 * 2.4 / 4.0, rtol=1e-5)
    assert exact.true_laws(DataConfig(system="gravity", file="mine.npz"), dataset) == ()


def test_laws_of_declared_bounds_are_those_of_pairs_along_an_axis():
    pull, push = exact.true_laws(DataConfig(system="charged"), None, max_rate=100.0)
    distances = np.array([0.05, 0.1, 0.5])
    np.testing.assert_allclose(pull(distances), [100.0, 100.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(push(distances), [-100.0, -100.0, -4.0], rtol=1e-6)
