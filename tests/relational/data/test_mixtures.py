"""Systems that do not belong together, in motion that is known: straight lines."""

import numpy as np
import pytest

from modmeta.relational import as_dataset
from modmeta.relational.data import DataError, mixtures

ROLES = {"positions": (0, 1), "velocities": (2, 3)}


def lines(num_systems=8, interval=0.1, seed=0):
    """Free bodies, `[systems, 12, 3, 4]`."""
    rng = np.random.default_rng(seed)
    where, speed = rng.normal(size=(2, num_systems, 1, 3, 2))
    after = interval * np.arange(12)[:, None, None]
    places = where + after * speed
    return np.concatenate([places, np.broadcast_to(speed, places.shape)], axis=-1)


def read(states, **options):
    return as_dataset(states, **ROLES, **{"frame_interval": 0.1, **options})


def test_velocities_in_another_unit_in_some_systems_are_refused():
    states = lines()
    read(states)
    states[5:, ..., 2:] *= 3.6
    message = "by 0.1 times .* and by 0.0278 times in system 5 and 2 more"
    with pytest.raises(DataError, match=message):
        read(states)
    alone = lines()
    alone[5, ..., 2:] *= 3.6
    read(alone)


def test_other_intervals_are_refused_until_times_say_so():
    states = np.concatenate([lines(4), lines(4, interval=0.2)])
    with pytest.raises(DataError, match="expected one interval"):
        read(states)
    steps = np.array([0.1] * 4 + [0.2] * 4)
    times = steps[:, None] * np.arange(12)
    as_dataset(states, **ROLES, times=times)


@pytest.mark.parametrize("roles", [{"positions": (0, 1)}, {}])
@pytest.mark.parametrize(
    "factor, count, is_noted, is_apart",
    [(100.0, 3, True, True), (0.01, 1, True, False), (3.0, 3, False, False)],
)
def test_systems_of_another_size(roles, factor, count, is_noted, is_apart):
    states = lines(30)[..., :2] + 0.1 * np.sin(np.arange(12))[:, None, None]
    states[7 : 7 + count] *= factor
    dataset = as_dataset(states, **roles)
    noted = [note for note in dataset.notes if "another unit" in note]
    assert bool(noted) == is_noted
    if noted:
        kind = "larger" if factor > 1.0 else "smaller"
        assert noted[0].startswith(f"{count} of 30 systems are") and kind in noted[0]
        assert "first system 7" in noted[0]
    assert mixtures.are_apart(dataset) == is_apart


def test_copies_are_named():
    states = lines()
    assert not mixtures.notes(read(states))
    (note,) = mixtures.notes(read(states[[0, 1, 2, 1, 2, 3]]))
    assert note.startswith("2 of 6 systems are copies") and "3 of system 1" in note
