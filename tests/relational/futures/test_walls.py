"""Suggested walls against those that a reflected free flight was given."""

import numpy as np
import pytest

from modmeta.relational import FeatureSpec, TrajectoryDataset, suggest_domain

PLANE = FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3))


def dataset_of(states, interval=0.1, features=PLANE, **options):
    return TrajectoryDataset(
        states=states, features=features, frame_interval=interval, **options
    )


def folded(unfolded, low, high):
    """Positions and signs of velocities between two walls, in closed form."""
    phase = np.mod((unfolded - low) / (high - low), 2.0)
    return low + (high - low) * np.minimum(phase, 2.0 - phase), np.where(
        phase < 1.0, 1.0, -1.0
    )


def flights(seed=0, *, corners, num_tasks=30, noise=0.0, interval=0.1):
    """Bodies that fly freely in a box; a corner of None is an open axis."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-1.0, 1.0, (num_tasks, 1, 4, 2))
    speed = rng.normal(size=(num_tasks, 1, 4, 2))
    time = interval * np.arange(40)[None, :, None, None]
    place = start + time * speed
    velocity = np.broadcast_to(speed, place.shape).copy()
    for axis, corner in enumerate(corners):
        if corner is not None:
            place[..., axis], sign = folded(place[..., axis], *corner)
            velocity[..., axis] *= sign
    states = np.concatenate([place, velocity], axis=-1)
    states = states + noise * rng.normal(size=states.shape)
    return dataset_of(states.astype(np.float32), interval)


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_walls_of_a_box(noise):
    found = suggest_domain(flights(corners=((-1.5, 2.0), (-1.2, 1.3)), noise=noise))
    assert found.kind == "reflecting"
    np.testing.assert_allclose(found.lower, (-1.5, -1.2), atol=0.03)
    np.testing.assert_allclose(found.upper, (2.0, 1.3), atol=0.03)


def test_an_open_axis_stays_open():
    found = suggest_domain(flights(corners=((-1.5, 2.0), None)))
    assert found.upper[1] == np.inf and found.lower[1] == -np.inf
    assert np.isfinite([found.upper[0], found.lower[0]]).all()


def test_nothing_is_suggested_without_turns_or_for_turns_that_are_no_walls():
    assert suggest_domain(flights(corners=(None, None))).kind == "open"
    rng = np.random.default_rng(1)
    phase = 2.0 * np.pi * rng.uniform(size=(30, 1, 4, 2))
    size = rng.uniform(0.5, 2.0, (30, 1, 4, 2))
    time = 0.1 * np.arange(60)[None, :, None, None]
    place, speed = size * np.sin(time + phase), size * np.cos(time + phase)
    states = np.concatenate([place, speed], axis=-1).astype(np.float32)
    assert suggest_domain(dataset_of(states)).kind == "open"


def test_gaps_and_breaks_are_no_turns():
    dataset = flights(corners=((-1.5, 2.0), (-1.2, 1.3)))
    mask = np.random.default_rng(2).random(dataset.states.shape[:3]) > 0.3
    states = np.where(mask[..., None], dataset.states, 0.0).astype(np.float32)
    found = suggest_domain(dataset_of(states, frame_mask=mask))
    np.testing.assert_allclose(found.upper, (2.0, 1.3), atol=0.03)


def test_positions_alone_are_refused():
    states = np.zeros((2, 5, 3, 2), np.float32)
    with pytest.raises(ValueError, match="features: found positions"):
        suggest_domain(dataset_of(states, features=FeatureSpec(("u", "v"))))
