"""Recordings laid end to end and cut, against loops and each other."""

import numpy as np
import pytest

from modmeta.relational import as_dataset, data


def recordings(seed=0, **options):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(3, 7, 2, 3))
    states[1, 5:] = states[2, 3, 1] = np.nan
    labels = np.broadcast_to(rng.integers(0, 2, (2, 2)), (3, 2, 2))
    return as_dataset(states, labels=labels, **options)


def test_tasks_end_to_end():
    times = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.5, (3, 7)), axis=1)
    dataset = recordings(times=times)
    joined = data.concatenate_tasks(dataset)
    expected = np.concatenate(
        [dataset.states[0], dataset.states[1, :5], dataset.states[2]]
    )
    np.testing.assert_array_equal(joined.states[0], expected)
    np.testing.assert_array_equal(np.flatnonzero(joined.breaks[0]), [7, 12])
    assert not joined.frame_mask[0, 7 + 5 + 3, 1]
    steps = np.diff(joined.times[0])
    np.testing.assert_allclose(steps[:6], np.diff(times[0]))
    np.testing.assert_allclose(steps[[6, 11]], dataset.frame_interval)
    np.testing.assert_allclose(steps[12:], np.diff(times[2]))
    np.testing.assert_array_equal(joined.edges, dataset.edges[:1])
    assert joined.counted().sum() == dataset.counted().sum()


def test_tasks_that_do_not_share_a_graph_are_refused():
    rng = np.random.default_rng(0)
    mixed = data.pad_systems(
        [rng.normal(size=(5, n, 2)) for n in (3, 2)],
        features=data.FeatureSpec(("a", "b")),
        frame_interval=1.0,
    )
    with pytest.raises(data.DataError, match="found 2 nodes in task 1, expected 3"):
        data.concatenate_tasks(mixed)
    labels = np.zeros((2, 3, 3), int)
    labels[1, 0, 2] = 1
    with pytest.raises(data.DataError, match=r"found label 1 at index \[1, 0, 2\]"):
        data.concatenate_tasks(as_dataset(rng.normal(size=(2, 5, 3, 2)), labels=labels))


@pytest.mark.parametrize("keep_rest, starts", [(True, (0, 3, 4)), (False, (0, 3))])
def test_windows(keep_rest, starts):
    dataset = recordings(breaks=np.arange(7) == 4)
    pieces, tasks = data.cut(dataset, 3, keep_rest=keep_rest)
    expected = [(task, start) for task in range(3) for start in starts]
    # The second recording ends after five frames, of which the last follows from none.
    expected = [row for row in expected if row not in ((1, 3), (1, 4))]
    np.testing.assert_array_equal(tasks, [task for task, _ in expected])
    for piece, (task, start) in enumerate(expected):
        seen = dataset.frame_mask[task, start : start + 3]
        np.testing.assert_array_equal(pieces.frame_mask[piece], seen)
        np.testing.assert_array_equal(
            pieces.states[piece][seen], dataset.states[task, start : start + 3][seen]
        )
        later = dataset.breaks[task, start + 1 : start + 3]
        np.testing.assert_array_equal(pieces.breaks[piece, 1:], later)
        np.testing.assert_array_equal(pieces.edges[piece], dataset.edges[task])


def test_windows_laid_end_to_end_are_the_recording():
    states = np.random.default_rng(0).normal(size=(1, 12, 3, 2))
    pieces, _ = data.cut(as_dataset(states), 4)
    joined = data.concatenate_tasks(pieces)
    np.testing.assert_array_equal(joined.states, states.astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(joined.breaks[0]), [4, 8])
    with pytest.raises(data.DataError, match="num_frames: found 13, expected 3 to the"):
        data.cut(as_dataset(states), 13)
