"""Errors that are no relation, and errors that are, made up."""

import numpy as np
import pytest

from modmeta.relational.data.forms.arrays import as_dataset
from modmeta.relational.evaluation import parts
from modmeta.relational.verdict.granted import Granted

NUM_TASKS, NUM_NODES, NUM_FRAMES = 6, 5, 60


@pytest.fixture(scope="module")
def recordings():
    """Smooth motion, of which one entry was missed, and what it is granted."""
    rng = np.random.default_rng(0)
    shape = (NUM_TASKS, 1, NUM_NODES, 2)
    phase, pace = rng.uniform(0, 6, shape), rng.uniform(0.2, 0.6, shape)
    states = np.sin(phase + pace * np.arange(NUM_FRAMES)[:, None, None])
    states[1, 20, 2] = np.nan
    dataset = as_dataset(states, lags=1)
    split = parts.split(dataset, 1)
    return split, Granted(split, 1)


def share_left(recordings, values):
    """Share of the squares of values `[tasks, time, nodes, Y]` of late windows."""
    split, granted = recordings
    errors = np.swapaxes(values[:, :-1], 1, 2)
    late = split.windows(1)[1][..., None]
    left = np.sum(np.square(granted(errors)) * late)
    return left / np.sum(np.square(errors) * late)


def noise(*shape):
    return np.random.default_rng(1).normal(size=(NUM_TASKS, NUM_FRAMES, *shape))


def test_a_trap_of_every_entity_is_no_relation(recordings):
    """Stiffness and centre differ from entity to entity, and are in no column."""
    split, _ = recordings
    rng = np.random.default_rng(2)
    stiffness, centre = rng.uniform(0.5, 2.0, (2, NUM_TASKS, 1, NUM_NODES, 1))
    forces = stiffness * (centre - split.dataset.states)
    assert share_left(recordings, forces) < 1e-4


def test_a_driven_body_in_a_trap_is_none_either(recordings):
    """What is driven moves with what drives it: both laws are told at once."""
    split, _ = recordings
    states = split.dataset.states
    stiffness = np.random.default_rng(2).uniform(0.5, 2.0, (NUM_TASKS, 1, NUM_NODES, 1))
    forces = states[:, :, :1] + noise(1, 2) - stiffness * states
    assert share_left(recordings, forces) < 0.1


def test_what_moves_all_of_a_system_is_no_relation(recordings):
    shared = noise(1, 2) + 0.2 * noise(NUM_NODES, 2)
    # The mean of four witnesses is uncertain by a twentieth of their own variance.
    assert share_left(recordings, shared) < 2 * 0.04 * 1.25


def test_what_relations_do_is_left(recordings):
    """Noise has no law, and forces between entities add up to nothing."""
    alone = noise(NUM_NODES, 2)
    assert 0.97 < share_left(recordings, alone) < 1.1
    between = alone - alone.mean(axis=2, keepdims=True)
    assert 0.97 < share_left(recordings, between) < 1.1


def test_what_was_not_observed_does_not_count(recordings):
    split, granted = recordings
    errors = np.swapaxes(noise(NUM_NODES, 2)[:, :-1], 1, 2)
    mask = np.logical_or(*split.windows(1))[..., None]
    assert not mask[1, 2, 19:21].any() and not mask[:, :, 44].any()
    np.testing.assert_allclose(granted(errors + 1e6 * ~mask), granted(errors))
