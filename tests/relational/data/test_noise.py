"""Noise levels that are known, on motion that is slow, fast, or has jumps."""

import dataclasses

import numpy as np
import pytest

from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.data.forms.arrays import as_dataset
from modmeta.relational.data.noise import choose_span, noise_levels

SPEC = FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3))
SHAPE = (40, 50, 4)  # systems, frames, nodes
INTERVAL = 0.1


def circles(rate, noise=0.0, seed=0):
    """Bodies that circle at a rate, in radians per frame."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (SHAPE[0], 1, SHAPE[2]))
    angle = phase + rate * np.arange(SHAPE[1])[None, :, None]
    speed = rate / INTERVAL
    columns = [
        np.cos(angle),
        np.sin(angle),
        -speed * np.sin(angle),
        speed * np.cos(angle),
    ]
    states = np.stack(columns, axis=-1)
    states = states + noise * rng.normal(size=states.shape)
    return TrajectoryDataset(states=states, features=SPEC, frame_interval=INTERVAL)


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_levels_are_those_of_the_noise(noise):
    """8,000 values each: a standard error of 2 %, correlations counted."""
    np.testing.assert_allclose(noise_levels(circles(0.1, noise)), noise, rtol=0.08)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 1.5])
def test_motion_is_not_taken_for_noise(rate):
    dataset = circles(rate)
    assert not noise_levels(dataset).any()
    assert choose_span(dataset) == 1


def test_jumps_are_not_taken_for_noise():
    """Reflections: one velocity in fifty changes its sign."""
    dataset = circles(0.05)
    states = dataset.states.copy()
    states[::2, 25:, :, 2:] *= -1.0
    jumping = dataclasses.replace(dataset, states=states)
    assert not noise_levels(jumping).any()


def test_spans_grow_with_the_noise_until_changes_stand_out():
    spans = [choose_span(circles(0.05, noise)) for noise in (0.0, 0.01, 0.03, 0.1)]
    assert spans == sorted(spans) and spans[0] == 1 and spans[-1] > 4
    for noise, span in zip((0.01, 0.03), spans[1:3], strict=True):
        # Change of a velocity on a circle over so many frames: a chord.
        variance = 0.5 * (2.0 * (0.05 / INTERVAL) * np.sin(0.05 * span / 2)) ** 2
        assert 2.0 * noise**2 < 0.3 * variance


@pytest.mark.parametrize("length, time", [(1e-18, 1.0), (1e-10, 1e10), (1e15, 1e-15)])
def test_units_do_not_matter(length, time):
    plain = circles(0.05, 0.03)
    units = np.array([length, length, length / time, length / time])
    scaled = dataclasses.replace(
        plain, states=plain.states * units, frame_interval=INTERVAL * time
    )
    assert choose_span(scaled) == choose_span(plain) > 1
    levels = noise_levels(scaled) / units
    np.testing.assert_allclose(levels, noise_levels(plain), rtol=1e-3)


def test_derived_velocities_have_the_noise_of_positions():
    clean = circles(0.05, 0.02)
    derived = as_dataset(
        clean.states[..., :2], positions=(0, 1), frame_interval=INTERVAL
    )
    levels = noise_levels(derived)
    np.testing.assert_allclose(levels[:2], 0.02, rtol=0.08)
    np.testing.assert_allclose(levels[2:], levels[:2] / np.sqrt(2) / INTERVAL)


def test_velocities_may_come_without_positions():
    clean = circles(0.05, 0.02)
    alone = as_dataset(clean.states[..., 2:], velocities=(0, 1))
    assert alone.features.velocities == (0, 1) and not alone.features.has_motion
    np.testing.assert_allclose(noise_levels(alone), 0.02, rtol=0.08)


def test_gaps_and_irregular_times():
    dataset = circles(0.1, 0.05)
    mask = np.random.default_rng(1).random(SHAPE) > 0.05
    gaps = dataclasses.replace(dataset, frame_mask=mask)
    np.testing.assert_allclose(noise_levels(gaps), 0.05, rtol=0.1)
    times = np.cumsum(np.random.default_rng(2).uniform(0.05, 0.15, SHAPE[1]))
    assert not noise_levels(dataclasses.replace(dataset, times=times)).any()
