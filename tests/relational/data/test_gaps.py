"""Missing entries, times, breaks: what the container makes of them.

Truths: polynomials, which the interpolation must reproduce, and loops over entries.
"""

import dataclasses

import numpy as np
import pytest

from modmeta.relational import as_dataset, data
from modmeta.relational.data import gaps
from modmeta.relational.data.validation import PARTICLE_FEATURES

MOTION = data.FeatureSpec(("x", "v", "charge"), (0,), (1,))


def cubic(times):
    """Position, velocity and a straight line along a cubic, `[..., 3]`."""
    x = 0.3 * times**3 - times**2 + 0.5 * times + 2.0
    v = 0.9 * times**2 - 2.0 * times + 0.5
    return np.stack([x, v, 3.0 - times], axis=-1)


def cubic_set(num_frames=9, nodes=3, **options):
    times = np.sort(np.random.default_rng(0).uniform(0.0, 3.0, num_frames))
    states = np.stack([cubic(times + node) for node in range(nodes)], axis=1)[None]
    return states, {"features": MOTION, "times": times, **options}


def test_gaps_are_filled_along_cubics_and_lines():
    states, options = cubic_set()
    frame_mask = np.ones(states.shape[:3], bool)
    frame_mask[0, 3:6, 0] = frame_mask[0, 7, 2] = False
    garbage = np.where(frame_mask[..., None], states, 1e6)
    dataset = data.TrajectoryDataset(states=garbage, frame_mask=frame_mask, **options)
    np.testing.assert_allclose(dataset.states, states, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(dataset.frame_mask, frame_mask)
    assert dataset.is_present.all()


@pytest.mark.parametrize("kind", ["nan", "masked", "masked integers"])
def test_nan_and_masked_entries_are_missing(kind):
    states = np.random.default_rng(0).integers(-9, 9, (2, 6, 3, 4)).astype(float)
    expected = np.ones((2, 6, 3), bool)
    expected[1, 2, 0] = expected[0, 5, 1] = False
    given = states.copy()
    given[1, 2, 0, 3] = given[0, 5, 1] = np.nan
    if kind != "nan":
        mask = np.isnan(given)
        values = states.astype(int) if kind.endswith("integers") else states
        given = np.ma.MaskedArray(values, mask)
    dataset = as_dataset(given)
    np.testing.assert_array_equal(dataset.frame_mask, expected)
    np.testing.assert_array_equal(dataset.states[expected], states[expected])
    np.testing.assert_allclose(
        dataset.states[1, 2, 0], states[1, [1, 3], 0].mean(axis=0)
    )
    np.testing.assert_array_equal(dataset.states[0, 5, 1], states[0, 4, 1])
    assert dataset.notes == (
        "2 of 36 entries (a node at a frame) are missing: they do not count.",
    )


def test_absent_long_before_the_first_and_long_after_the_last_sight():
    """One that is missed for a frame in between is there for a frame more at the ends.

    There it moves on with its velocity; where it is not there, the last sight is held.
    """
    states = np.random.default_rng(0).normal(size=(1, 8, 2, 4)).astype(np.float32)
    states[0, [0, 3, 6, 7], 1] = np.nan
    dataset = data.TrajectoryDataset(states=states, features=PARTICLE_FEATURES)
    there = [True, True, True, True, True, True, True, False]
    np.testing.assert_array_equal(dataset.is_present[0, :, 1], there)
    filled, first, last = dataset.states[0, :, 1], states[0, 1, 1], states[0, 5, 1]
    np.testing.assert_allclose(filled[0], [*(first[:2] - first[2:]), *first[2:]])
    np.testing.assert_allclose(filled[6], [*(last[:2] + last[2:]), *last[2:]])
    np.testing.assert_array_equal(filled[7], last)
    # Of each recording, where there are several; none of these has a gap.
    broken = dataclasses.replace(dataset, breaks=np.arange(8) == 3)
    there = [False, True, True, False, True, True, False, False]
    np.testing.assert_array_equal(broken.is_present[0, :, 1], there)
    # Without a gap it has come, and left.
    states[0, 3, 1] = 0.0
    whole = data.TrajectoryDataset(states=states, features=PARTICLE_FEATURES)
    there = [False, True, True, True, True, True, False, False]
    np.testing.assert_array_equal(whole.is_present[0, :, 1], there)
    np.testing.assert_array_equal(whole.states[0, 6, 1], states[0, 5, 1])


def test_angles_turn_the_shorter_way_in_a_gap():
    angle = np.array([2.9, 3.0, 3.1, 3.2, 3.3, 3.4])[None, :, None]
    states = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    given = states.copy()
    given[0, 2:4] = np.nan
    spec = data.FeatureSpec(("s", "c"), sines=(0,), cosines=(1,))
    dataset = data.TrajectoryDataset(states=given, features=spec)
    np.testing.assert_allclose(dataset.states, states, rtol=1e-5, atol=1e-6)


def test_counted_changes_equal_a_loop():
    rng = np.random.default_rng(3)
    states = rng.normal(size=(3, 9, 4, 4))
    states[rng.random((3, 9, 4)) < 0.2] = np.nan
    breaks = rng.random((3, 9)) < 0.2
    mask = np.arange(4) < np.array([[4], [2], [3]])
    dataset = data.TrajectoryDataset(
        states=states, features=PARTICLE_FEATURES, node_mask=mask, breaks=breaks
    )
    seen = ~np.isnan(states[..., 0]) & mask[:, None]
    for span in (1, 3):
        found = dataset.counted(span)
        for task, frame, node in np.ndindex(found.shape):
            whole = not breaks[task, frame + 1 : frame + span + 1].any()
            both = seen[task, frame, node] and seen[task, frame + span, node]
            assert found[task, frame, node] == (whole and both)


def test_segment_bounds_equal_a_loop():
    breaks = np.random.default_rng(0).random((4, 12)) < 0.3
    breaks[:, 0] = False
    first, last = gaps.segment_bounds(breaks.shape, breaks)
    for task, frame in np.ndindex(breaks.shape):
        begin = max([0, *[t for t in range(frame + 1) if breaks[task, t]]])
        end = min([t for t in range(frame + 1, 12) if breaks[task, t]] + [12]) - 1
        assert (first[task, frame], last[task, frame]) == (begin, end)


def test_frame_interval_is_the_median_step():
    states, options = cubic_set()
    dataset = data.TrajectoryDataset(states=states, **options)
    assert dataset.frame_interval == pytest.approx(np.median(np.diff(options["times"])))
    assert not dataset.is_regular
    np.testing.assert_allclose(
        dataset.clock[0] * dataset.frame_interval,
        options["times"] - options["times"][0],
    )
    regular = data.TrajectoryDataset(
        states=states, features=MOTION, times=5.0 + 0.1 * np.arange(9)
    )
    assert regular.is_regular and regular.frame_interval == pytest.approx(0.1)
    assert data.TrajectoryDataset(states=states, features=MOTION).frame_interval == 1.0


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"times": [0.0, 1.0, 1.0, 2.0]},
            r"times: found 1.0 after 1.0 at index \[0, 2",
        ),
        ({"times": [0.0, 1.0, np.nan, 2.0]}, r"times: found nan at index \[0, 2\]"),
        ({"times": [0.0, 1.0]}, r"times: found shape \(2,\), expected \(2, 4\)"),
        ({"breaks": [0, 1, 0, 0]}, "breaks: found dtype int64, expected bool"),
        ({"breaks": [True]}, r"breaks: found shape \(1,\), expected \(2, 4\)"),
        ({"frame_mask": np.ones((2, 4, 3))}, "frame_mask: found dtype float64"),
        ({"frame_mask": np.ones((2, 4, 2), bool)}, "frame_mask: found shape"),
        (
            {"frame_mask": np.arange(4)[None, :, None] + np.zeros((2, 1, 3)) > 1},
            "frame_mask: found node 0 of task 0 observed at 2 frames, expected at lea",
        ),
    ],
)
def test_problems_are_named(options, message):
    states = np.random.default_rng(0).normal(size=(2, 4, 3, 4))
    with pytest.raises(data.DataError, match=message):
        as_dataset(states, **options)


def test_infinity_is_refused_where_observed():
    states = np.random.default_rng(0).normal(size=(2, 6, 3, 4))
    states[0, 1, 1, 1], states[1, 2, 2, 3] = np.nan, np.inf
    with pytest.raises(data.DataError, match=r"found inf at index \[1, 2, 2, 3\]"):
        as_dataset(states)
    mask = np.ones((2, 6, 3), bool)
    mask[1, 2, 2] = False
    assert np.isfinite(as_dataset(states, frame_mask=mask).states).all()


def test_parts_take_masks_times_and_breaks_along():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 8, 2, 4))
    states[1, 2, 0] = states[2, 6, 1] = np.nan
    breaks = rng.random((3, 8)) < 0.4
    times = np.cumsum(rng.uniform(0.5, 1.5, (3, 8)), axis=1)
    whole = data.TrajectoryDataset(
        states=states, features=PARTICLE_FEATURES, times=times, breaks=breaks
    )
    part = whole.take([2, 1]).frames(1, 6)
    assert part.frame_mask.sum() == 2 * 5 * 2 - 1
    np.testing.assert_array_equal(part.times, times[[2, 1], 1:6])
    np.testing.assert_array_equal(part.breaks[:, 1:], breaks[[2, 1], 2:6])
    # A gap at the end of what is taken is filled from what came before alone.
    cut = whole.frames(0, 3)
    np.testing.assert_array_equal(cut.states[1, 2, 0], cut.states[1, 1, 0])


def test_files_keep_masks_times_breaks_and_notes(tmp_path):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 8, 2, 2))
    states[1, 2, 0] = np.nan
    states[..., 1] = np.where(np.isnan(states[..., 1]), np.nan, 4.0)
    dataset = as_dataset(
        states,
        positions=(0,),
        times=np.cumsum(rng.uniform(0.5, 1.5, (3, 8)), axis=1),
        breaks=np.arange(8) == 4,
    )
    assert len(dataset.notes) == 3 and dataset.features.derived == (2,)
    path = tmp_path / "set.npz"
    data.save_npz(path, dataset)
    found = data.load(path)
    for field in dataclasses.fields(dataset):
        np.testing.assert_equal(
            getattr(found, field.name), getattr(dataset, field.name)
        )


def test_arrays_of_different_length_and_size():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(t, n, 2)) for t, n in ((5, 3), (8, 2), (4, 4))]
    arrays[1][6, 0, 0] = np.nan
    times = [np.cumsum(rng.uniform(0.5, 1.5, len(a))) for a in arrays]
    labels = [rng.integers(0, 2, (n, n)) for n in (3, 2, 4)]
    dataset = as_dataset(arrays, times=times, labels=labels)
    assert dataset.states.shape == (3, 8, 4, 2)
    np.testing.assert_array_equal(dataset.num_nodes, [3, 2, 4])
    for task, array in enumerate(arrays):
        frames, nodes = array.shape[:2]
        seen = ~np.isnan(array).any(axis=-1)
        found = dataset.states[task, :frames, :nodes]
        np.testing.assert_array_equal(found[seen], array[seen].astype(np.float32))
        np.testing.assert_array_equal(dataset.frame_mask[task, :frames, :nodes], seen)
        assert not dataset.frame_mask[task, frames:].any()
        np.testing.assert_array_equal(dataset.times[task, :frames], times[task])
        off = ~np.eye(nodes, dtype=bool)
        np.testing.assert_array_equal(
            dataset.edges[task, :nodes, :nodes][off], labels[task][off]
        )
    assert dataset.notes == (
        "Tasks have 4 to 8 frames.",
        "1 of 47 entries (a node at a frame) is missing: it does not count.",
    )
    with pytest.raises(data.DataError, match=r"times\[1\]: found shape \(5,\)"):
        as_dataset(arrays, times=[times[0]] * 3)


def test_lists_of_masked_arrays_of_one_shape():
    states = np.random.default_rng(0).normal(size=(2, 6, 3, 4))
    mask = np.zeros(states.shape, bool)
    mask[1, 2, 0, 3] = True
    dataset = as_dataset(
        [np.ma.MaskedArray(*pair) for pair in zip(states, mask, strict=True)]
    )
    assert np.argwhere(~dataset.frame_mask).tolist() == [[1, 2, 0]]
    plain = as_dataset(states.tolist())
    np.testing.assert_array_equal(plain.states, states.astype(np.float32))


def test_joined_sets_keep_what_each_has():
    rng = np.random.default_rng(0)
    gappy = rng.normal(size=(2, 6, 3, 4))
    gappy[0, 2, 1] = np.nan
    broken = as_dataset(rng.normal(size=(1, 6, 2, 4)), breaks=np.arange(6) == 3)
    both = data.concatenate([as_dataset(gappy), broken])
    np.testing.assert_array_equal(both.frame_mask[0, 2], [True, False, True])
    np.testing.assert_array_equal(both.frame_mask[2], [[True, True, False]] * 6)
    np.testing.assert_array_equal(both.breaks[2], np.arange(6) == 3)
    assert not both.breaks[:2].any()
    assert both.notes == as_dataset(gappy).notes
