"""Frames that are held out, on data whose frames are their own numbers."""

import numpy as np
import pytest

from modmeta.relational.data.forms.arrays import as_dataset
from modmeta.relational.data.segments import concatenate_tasks
from modmeta.relational.evaluation import parts


def numbered(num_tasks, num_frames, num_nodes=2):
    """States that hold their frame, and their task in hundreds."""
    frames = np.arange(num_frames)[None, :, None, None]
    tasks = 100.0 * np.arange(num_tasks)[:, None, None, None]
    return np.broadcast_to(tasks + frames, (num_tasks, num_frames, num_nodes, 1))


@pytest.mark.parametrize(
    "num_frames, span, expected", [(40, 1, 30), (12, 1, 8), (50, 12, 35), (8, 1, 4)]
)
def test_the_rest_is_a_quarter_or_long_enough_for_windows(num_frames, span, expected):
    dataset = as_dataset(numbered(2, num_frames), lags=1)
    split = parts.split(dataset, span)
    first, rest = split.first, split.rest
    assert first.num_frames == expected
    joined = np.concatenate([first.states, rest.states], axis=1)
    np.testing.assert_array_equal(joined, dataset.states)
    assert min(first.num_frames, rest.num_frames) >= span + 3
    early, late = split.windows(span)
    for part, mask, own in (
        (first, early, split.of_first),
        (rest, late, split.of_rest),
    ):
        starts = np.swapaxes(dataset.states, 1, 2)[:, :, :-span]
        expected = np.swapaxes(part.states, 1, 2)[:, :, :-span]
        np.testing.assert_array_equal(own(starts), expected)
        np.testing.assert_array_equal(starts[mask].ravel(), expected.ravel())


def test_short_recordings_hold_nothing_out():
    assert parts.split(as_dataset(numbered(20, 7), lags=1), 1) is None


def test_recordings_of_one_system_are_cut_one_by_one():
    dataset = concatenate_tasks(as_dataset(numbered(3, 20), lags=1))
    split = parts.split(dataset, 1)
    first, rest = split.first, split.rest
    kept = first.states[0, :, 0, 0]
    np.testing.assert_array_equal(
        kept, np.concatenate([100 * k + np.arange(15) for k in range(3)])
    )
    kept = rest.states[0, :, 0, 0]
    np.testing.assert_array_equal(
        kept, np.concatenate([100 * k + np.arange(15, 20) for k in range(3)])
    )
    # No change leads from one recording to the next.
    np.testing.assert_array_equal(np.nonzero(rest.breaks[0])[0], [5, 10])
    steps = np.diff(kept)[rest.counted()[0, :, 0]]
    np.testing.assert_array_equal(steps, 1.0)
    starts = np.swapaxes(dataset.states, 1, 2)[:, :, :-1]
    counted = rest.counted()[0, :, 0]
    found = split.of_rest(starts)[0, 0, :, 0]
    np.testing.assert_array_equal(found[counted], kept[:-1][counted])
    assert split.windows(1)[1].sum() == 2 * counted.sum()  # of two nodes


def test_recordings_of_different_length_are_cut_at_their_own_ends():
    long, short = numbered(1, 40)[0], numbered(1, 20)[0]
    split = parts.split(as_dataset([long, short], lags=1), 1)
    first, rest = split.first, split.rest
    for part, counts in ((first, [30, 15]), (rest, [10, 5])):
        np.testing.assert_array_equal(part.is_observed.any(axis=2).sum(axis=1), counts)
    assert not (first.is_observed & rest.is_observed).any()


def test_few_systems_make_blocks_of_time():
    few, counted = as_dataset(numbered(2, 20), lags=1), np.zeros((2, 19), bool)
    counted[:, 7:] = True
    blocks = parts.blocks_of(few, counted)
    expected = np.repeat(np.arange(12), 2).reshape(2, 12)
    np.testing.assert_array_equal(blocks[:, 7:], expected)
    values = np.random.default_rng(0).random((2, 19))
    found = parts.sums(values, blocks, counted)
    np.testing.assert_allclose(found, values[:, 7:].reshape(12, 2).sum(axis=1))


def test_many_systems_are_blocks_and_so_are_recordings_of_one():
    many = as_dataset(numbered(7, 13), lags=1)
    blocks = parts.blocks_of(many, np.ones((7, 12), bool))
    np.testing.assert_array_equal(blocks, np.repeat(np.arange(7)[:, None], 12, 1))
    joined = concatenate_tasks(many)
    counted = np.swapaxes(joined.counted(), 1, 2).any(axis=1)
    blocks = parts.blocks_of(joined, counted)
    np.testing.assert_array_equal(np.bincount(blocks[counted]), [12] * 7)
