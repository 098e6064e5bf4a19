"""Positions that wrap: unwrapped, wrapped back, and of no effect on what is near."""

import dataclasses

import numpy as np
import pytest

from modmeta.relational import Domain, as_dataset, data, suggest_domain
from modmeta.relational.data import DataError
from modmeta.relational.data.derived import recorded
from modmeta.relational.data.domains import apparent_box, domain_of, minimum_image
from modmeta.relational.data.neighbors import CandidateConfig, candidate_edges
from modmeta.relational.modules.fitting import fit_preprocessing

BOX = Domain("periodic", (-1.0, 0.0), (2.0, 5.0))
PERIODS = np.array([3.0, 5.0])


def drifting(num_tasks=4, num_frames=60, num_nodes=3, seed=0):
    """Bodies that drift through a box several times; the truth, and as recorded."""
    rng = np.random.default_rng(seed)
    shape = (num_tasks, 1, num_nodes, 2)
    times = 0.1 * np.arange(num_frames)[None, :, None, None]
    drift, phase = rng.uniform(-3.0, 3.0, shape), rng.uniform(0.0, 6.0, shape)
    where = rng.uniform(0.0, 3.0, shape) + drift * times
    where += 0.3 * np.sin(times + phase)
    speed = drift + 0.3 * np.cos(times + phase)
    wrapped = np.array(BOX.lower) + np.mod(where - np.array(BOX.lower), PERIODS)
    return where, speed, wrapped


def read(wrapped, speed=None, **options):
    parts = [wrapped] if speed is None else [wrapped, speed]
    roles = {"positions": (0, 1)} | ({} if speed is None else {"velocities": (2, 3)})
    return as_dataset(
        np.concatenate(parts, axis=-1), frame_interval=0.1, **roles, **options
    )


def test_positions_are_unwrapped_and_wrapped_back():
    """Also across gaps, breaks and with velocities of their own or derived ones."""
    where, speed, wrapped = drifting()
    for given in (None, speed):
        found = read(wrapped, given, domain=BOX)
        start = wrapped[:, :1] - where[:, :1]
        np.testing.assert_allclose(found.states[..., :2], where + start, atol=1e-4)
        np.testing.assert_allclose(
            found.states[:, 1:-1, :, 2:], speed[:, 1:-1], atol=0.01
        )
        back = recorded(found.features, found.states)[..., :2]
        gap = minimum_image(back - wrapped, PERIODS)
        np.testing.assert_allclose(gap, 0.0, atol=1e-5)
        assert (back >= BOX.lower).all() and (back < BOX.upper).all()
        assert domain_of(found.features) == BOX and "wrap" in found.notes[0]
    # Five frames apart a body may pass half the box: velocities say how often.
    holes = wrapped.copy()
    holes[1, 20:24, 0] = np.nan
    found = read(holes, speed, domain=BOX)
    is_seen = found.is_observed[1, :, 0]
    expected = (where + start)[1, is_seen, 0]
    np.testing.assert_allclose(found.states[1, is_seen, 0, :2], expected, atol=1e-4)
    np.testing.assert_allclose(
        found.states[1, :, 0, :2], (where + start)[1, :, 0], atol=0.05
    )
    # A second recording begins in the box again.
    breaks = np.arange(60) == 30
    found = read(wrapped, speed, domain=BOX, breaks=breaks)
    np.testing.assert_allclose(found.states[:, 30, :, :2], wrapped[:, 30], atol=1e-6)
    rest = where[:, 30:] + wrapped[:, 30:31] - where[:, 30:31]
    np.testing.assert_allclose(found.states[:, 30:, :, :2], rest, atol=1e-4)


def test_boxes_are_suggested_where_positions_jump():
    _, speed, wrapped = drifting(num_tasks=8)
    for given, tolerance in ((speed, 0.01), (None, 0.15)):
        parts = read(wrapped, given, derive_velocities=False)
        found = suggest_domain(parts) if given is not None else apparent_box(parts)
        assert found.kind == "periodic"
        sizes = np.subtract(found.upper, found.lower)
        np.testing.assert_allclose(sizes, PERIODS, atol=tolerance)
        np.testing.assert_allclose(found.lower, BOX.lower, atol=0.1)
        assert "as if they wrapped between" in " ".join(parts.notes)
    declared = read(wrapped, speed, domain=BOX)
    assert "as if they wrapped" not in " ".join(declared.notes)
    # Walls, noise and free motion are no boxes.
    springs = data.simulate_springs(0, 20, num_nodes=3, num_frames=60)
    noise = np.random.default_rng(0).uniform(size=(5, 60, 3, 2))
    for other in (springs, read(noise), read(drifting()[0])):
        assert apparent_box(other) is None


def test_near_is_near_across_the_sides():
    positions = np.zeros((1, 3, 4, 2))
    positions[..., :, 0], positions[..., :, 1] = [-0.9, 1.9, 0.3, 0.6], 0.5
    positions += 1e-3 * np.arange(3)[:, None, None]
    for domain, expected in ((BOX, 1), (None, 2)):
        dataset = read(positions, domain=domain)
        edges = candidate_edges(dataset, CandidateConfig(num_neighbors=1))
        senders, receivers = edges[0]
        assert senders[receivers == 0].tolist() == [expected]
    reach = candidate_edges(read(positions, domain=BOX), CandidateConfig(radius=0.35))
    pairs = sorted(zip(*(array.tolist() for array in reach[0]), strict=True))
    assert pairs == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_units_are_those_of_the_box(tmp_path):
    """So that no shift of all positions changes them; files keep the box."""
    _, speed, wrapped = drifting()
    moved = np.array(BOX.lower) + np.mod(wrapped + 1.3 - np.array(BOX.lower), PERIODS)
    sets = [read(values, speed, domain=BOX) for values in (wrapped, moved)]
    one, other = (fit_preprocessing(dataset)[0] for dataset in sets)
    np.testing.assert_allclose(one.normalization.scale, other.normalization.scale)
    np.testing.assert_allclose(one.normalization.scale[:2], 3.0)
    np.testing.assert_allclose(one.position_scale, other.position_scale)
    np.testing.assert_allclose(one.target_scale, other.target_scale, rtol=1e-3)
    data.save_npz(tmp_path / "box.npz", sets[0])
    kept = as_dataset(tmp_path / "box.npz")
    assert kept.features == sets[0].features
    np.testing.assert_array_equal(kept.states, sets[0].states)
    assert as_dataset(kept, domain=BOX) is kept


@pytest.mark.parametrize(
    "domain, error, message",
    [
        (Domain("reflecting", (0, 0), (1, 1)), ValueError, "walls are declared where"),
        (Domain("periodic", (0.0,), (1.0,)), DataError, "found 1 coordinates"),
        (
            Domain("periodic", (-1, 0), (1, 5)),
            DataError,
            "sides at -1 and 1 and a body",
        ),
    ],
)
def test_boxes_that_cannot_be(domain, error, message):
    with pytest.raises(error, match=message):
        read(drifting()[2], domain=domain)


def test_a_box_of_another_size_than_positions_wrap_in_gets_a_note():
    """Bodies fit in both, or nearly so, and noise carries some over the sides."""
    _, speed, wrapped = drifting(num_tasks=8)
    right = read(wrapped, speed, domain=BOX)
    assert len(right.notes) == 1
    noisy = wrapped + np.random.default_rng(0).normal(0.0, 0.01, wrapped.shape)
    assert len(read(noisy, speed, domain=BOX).notes) == 1
    for upper in ((2.9, 5.0), (np.inf, 5.3), (2.0, 4.8)):
        other = read(wrapped, speed, domain=dataclasses.replace(BOX, upper=upper))
        assert "as if the sides of the box were" in other.notes[-1]


def test_another_box_than_before_is_refused():
    found = read(drifting()[2], domain=BOX)
    wider = dataclasses.replace(BOX, upper=(3.0, 5.0))
    with pytest.raises(DataError, match="unwrapped already"):
        as_dataset(found, domain=wider)
    with pytest.raises(DataError, match=r"periodic: found \(\(2, 0.0, 3.0"):
        dataclasses.replace(found.features, periodic=((2, 0.0, 3.0),))
