"""What frames tell of the interval between them, against what simulators were told."""

import dataclasses

import numpy as np
import pytest

from modmeta.relational import as_dataset
from modmeta.relational.data import DataError, hints
from modmeta.relational.results import transfer

RATES = np.random.default_rng(0).uniform(1.0, 10.0, (6, 1, 4))


def oscillators(*, interval=0.1, rates=RATES, said=0.1, unit=1.0):
    """Phases that turn by their rate and a little besides; `[6, 30, 4, 3]`."""
    frames = np.arange(30)[:, None]
    phases = interval * (rates * frames + np.sin(0.7 * frames + rates))
    column = np.broadcast_to(unit * rates, phases.shape)
    states = np.stack([np.sin(phases), np.cos(phases), column], axis=-1)
    return as_dataset(
        states,
        feature_names=("sine", "cosine", "omega"),
        sines=(0,),
        cosines=(1,),
        frame_interval=said,
    )


def test_oscillators_at_another_interval_than_is_said_are_refused():
    trained = oscillators()
    found = hints.apparent_motion(trained)
    assert found is not None
    assert found.interval == pytest.approx(0.1, rel=0.05)
    transfer.read_new(oscillators().states, trained)
    transfer.read_new(oscillators(interval=0.2, said=0.2), trained)
    message = "found 0.1 with angles that turn by .* times 'omega' .* about 0.2: give"
    with pytest.raises(DataError, match=message):
        transfer.read_new(oscillators(interval=0.2).states, trained)


def test_turns_near_half_a_whole_one_are_named():
    """Beyond half a turn, turns cannot be told from those the other way."""
    for speed, is_noted in ((2.0, False), (2.6, True), (5.0, False), (3.5, True)):
        turning = speed * np.arange(20)[:, None, None] + np.arange(3)[:, None]
        for states, roles in (
            (turning % (2.0 * np.pi), {"angles": (0,)}),
            (np.concatenate([np.sin(turning), np.cos(turning)], -1), None),
        ):
            found = as_dataset(states, **(roles or {"sines": (0,), "cosines": (1,)}))
            assert any("near half a turn" in n for n in found.notes) == is_noted


def test_the_unit_of_a_rate_is_that_of_training():
    degrees = oscillators(unit=57.3)
    transfer.read_new(oscillators(unit=57.3).states, degrees)
    transfer.read_new(oscillators(interval=0.2, unit=57.3, said=0.2), degrees)


def test_a_mass_is_no_rate_though_all_turn_alike():
    """With a mass of about one, any steady turning is mass times a constant."""
    masses = np.random.default_rng(1).uniform(0.9, 1.1, RATES.shape)
    steady = oscillators(rates=np.full(RATES.shape, 5.0))
    states = np.array(steady.states)
    states[..., 2] = masses
    assert hints.apparent_motion(dataclasses.replace(steady, states=states)) is None
    still = np.array(steady.states)
    still[..., :2] = (0.0, 1.0)
    assert hints.apparent_motion(dataclasses.replace(steady, states=still)) is None


def test_a_few_encounters_do_not_hide_the_interval():
    """Bodies that turn around between two frames say nothing of the time between."""
    rng = np.random.default_rng(0)
    frames = np.arange(30)[:, None, None]
    velocity = rng.normal(size=(6, 1, 4, 2)) + 0.2 * np.sin(0.3 * frames)
    velocity = np.broadcast_to(velocity, (6, 30, 4, 2)).copy()
    steps = 0.1 * 0.5 * (velocity[:, 1:] + velocity[:, :-1])
    position = np.concatenate([np.zeros((6, 1, 4, 2)), steps.cumsum(axis=1)], axis=1)
    fast = rng.random((6, 30, 4)) < 0.03
    velocity[fast] += rng.normal(scale=20.0, size=(fast.sum(), 2))
    options = {"positions": (0, 1), "velocities": (2, 3), "frame_interval": 0.1}
    moving = as_dataset(np.concatenate([position, velocity], axis=-1), **options)
    found = hints.apparent_motion(moving)
    assert found is not None
    assert found.interval == pytest.approx(0.1, rel=0.1)
    other = as_dataset(rng.normal(size=moving.states.shape), **options)
    assert hints.apparent_motion(other) is None
