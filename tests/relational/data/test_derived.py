"""Derived columns against the functions of time that they derive from."""

import dataclasses

import numpy as np
import pytest

from modmeta.relational import as_dataset, data
from modmeta.relational.data import derived
from modmeta.relational.data.validation import FeatureSpec


def parabolas(times, seed=0):
    """Positions `[..., 3, 2]` of three nodes, and their velocities."""
    a, b, c = np.random.default_rng(seed).normal(size=(3, 3, 2))
    t = np.asarray(times)[..., None, None]
    return a + b * t + c * t**2, b + 2.0 * c * t


def test_velocities_of_parabolas_are_exact_at_ends_gaps_and_breaks():
    times = np.cumsum(np.random.default_rng(1).uniform(0.05, 0.2, (2, 12)), axis=1)
    x, v = parabolas(times)
    x[:, 8:] += 50.0
    given = x.copy()
    given[0, 4, 1] = given[1, 2, 2, 0] = np.nan
    breaks = np.zeros((2, 12), bool)
    breaks[:, 8] = True
    dataset = as_dataset(given, positions=(0, 1), times=times, breaks=breaks)
    assert dataset.features.velocities == dataset.features.derived == (2, 3)
    assert dataset.features.names[2] == "velocity of feature_0"
    seen = dataset.is_observed
    np.testing.assert_allclose(dataset.states[seen][:, 2:], v[seen], atol=1e-4)
    # The path in the gap is that of the parabola again.
    np.testing.assert_allclose(dataset.states[0, 4, 1, :2], x[0, 4, 1], atol=1e-4)
    assert "Velocities were derived from positions." in dataset.notes
    np.testing.assert_array_equal(
        derived.recorded(dataset.features, dataset.states), dataset.states[..., :2]
    )


def test_velocity_between_two_gaps():
    x, v = parabolas(np.arange(9.0))
    given = x[None].copy()
    given[0, [3, 5], 0] = np.nan
    dataset = as_dataset(given, positions=(0, 1))
    np.testing.assert_allclose(dataset.states[0, 4, 0, 2:], v[4, 0], rtol=1e-4)


def test_velocities_are_derived_once_and_only_if_wanted(tmp_path):
    x, _ = parabolas(0.1 * np.arange(8.0))
    dataset = as_dataset(x[None], positions=(0, 1))
    assert derived.prepare(dataset) is dataset
    alone = as_dataset(x[None], positions=(0, 1), derive_velocities=False)
    assert alone.features.velocities == () and not alone.notes
    data.save_npz(tmp_path / "set.npz", alone)
    found = data.load(tmp_path / "set.npz", derive_velocities=False)
    assert found.features == alone.features
    assert data.load(tmp_path / "set.npz").features == dataset.features
    # What stands still has none.
    still = np.broadcast_to(x[:1], x.shape)
    extra = np.random.default_rng(0).normal(size=(*x.shape[:2], 1))
    fixed = as_dataset(np.concatenate([still, extra], -1)[None], positions=(0, 1))
    assert fixed.features.velocities == ()


def beads(num_frames=60, noise=0.0):
    """Positions of beads in traps in a fluid: no inertia, kicks from all sides."""
    rng = np.random.default_rng(0)
    kicks = rng.normal(size=(6, num_frames, 3, 2))
    states = np.zeros_like(kicks)
    for frame in range(1, num_frames):
        states[:, frame] = 0.9 * states[:, frame - 1] + kicks[:, frame]
    return states + noise * rng.normal(size=states.shape)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_what_has_no_inertia_gets_no_velocities(noise):
    states = beads(noise=noise)
    dataset = as_dataset(states, positions=(0, 1))
    assert dataset.features.velocities == ()
    assert "where a body went does not tell where it goes" in dataset.notes[0]
    forced = as_dataset(states, positions=(0, 1), derive_velocities="always")
    assert forced.features.velocities == (2, 3) and len(forced.notes) == 1


def test_noisy_bodies_have_inertia_all_the_same():
    """Oscillations under noise of a fifth of their size: single steps say nothing."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (6, 1, 3, 2)) + 0.15 * np.arange(60)[:, None, None]
    states = np.sin(phase) + 0.2 * rng.normal(size=phase.shape)
    steps = np.diff(states, axis=1)
    assert np.sum(steps[:, 1:] * steps[:, :-1]) < 0.0
    states[2, 10:14, 1] = np.nan
    assert as_dataset(states, positions=(0, 1)).features.velocities == (2, 3)
    # Few frames, or irregular ones, do not tell.
    assert as_dataset(beads(19), positions=(0, 1)).features.velocities == (2, 3)


def turning(seed=0, tasks=4, frames=60):
    """Angles in radians that turn on and on, `[tasks, frames, 3]`."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0.2, 0.6, (tasks, 1, 3)) * rng.choice([-1, 1], (tasks, 1, 3))
    start = rng.uniform(0, 2 * np.pi, (tasks, 1, 3))
    return start + speed * np.arange(frames)[None, :, None]


@pytest.mark.parametrize("unit", ["degrees", "radians"])
@pytest.mark.parametrize("is_centred", [False, True])
def test_columns_that_wrap_are_angles(unit, is_centred):
    angle = turning()
    period = derived.PERIODS[unit]
    low = -0.5 * period if is_centred else 0.0
    column = low + np.mod(angle / (2 * np.pi) * period - low, period)
    weight = np.random.default_rng(0).normal(size=angle.shape)
    dataset = as_dataset(
        np.stack([weight, column], -1), feature_names=("weight", "angle")
    )
    spec = dataset.features
    assert spec.names == ("weight", "sine of angle", "cosine of angle")
    assert (spec.sines, spec.cosines, spec.recorded) == ((1,), (2,), (0, 1))
    np.testing.assert_allclose(dataset.states[..., 1], np.sin(angle), atol=1e-5)
    np.testing.assert_allclose(dataset.states[..., 2], np.cos(angle), atol=1e-5)
    back = derived.recorded(spec, dataset.states)
    np.testing.assert_allclose(back[..., 0], weight, rtol=1e-6)
    apart = np.abs(back[..., 1] - column)
    assert np.minimum(apart, period - apart).max() < 1e-4 * period
    (note,) = dataset.notes
    assert note.startswith(f"Feature 1 ('angle') wraps like an angle in {unit}:")


def test_other_columns_are_no_angles():
    rng = np.random.default_rng(0)
    shape = (4, 60, 3)
    columns = {
        "uniform": rng.uniform(0, 2 * np.pi, shape),
        "walk": rng.normal(size=shape).cumsum(axis=1),
        "slow turn": np.mod(0.01 * np.arange(60)[None, :, None] + np.zeros(shape), 6),
        "square wave": 6.28 * (np.arange(60)[None, :, None] // 7 % 2) + np.zeros(shape),
        "sine": 180 * np.sin(turning()),
    }
    dataset = as_dataset(np.stack(list(columns.values()), -1))
    assert dataset.features.sines == () and not dataset.notes


def test_angles_that_are_named():
    angle = 0.3 * turning()
    dataset = as_dataset(
        np.degrees(angle)[..., None], angles=(0,), angle_unit="degrees"
    )
    np.testing.assert_allclose(dataset.states[..., 0], np.sin(angle), atol=1e-4)
    states = np.random.default_rng(0).normal(size=(2, 5, 3, 2))
    with pytest.raises(data.DataError, match="angles: found column 0, expected a col"):
        as_dataset(states, positions=(0,), angles=(0,))
    with pytest.raises(data.DataError, match="angle_unit: found 'turns', expected"):
        as_dataset(states, angles=(0,), angle_unit="turns")


def test_features_go_through_plain_values():
    spec = FeatureSpec(
        ("s", "x", "c", "v"), (1,), (3,), (0,), (2,), (3,), ((0, 0.0, 360.0),)
    )
    lists = {k: np.asarray(v).tolist() for k, v in dataclasses.asdict(spec).items()}
    assert FeatureSpec(**{k: tuple(v) for k, v in lists.items()}) == spec
    assert spec.recorded == (0, 1)
