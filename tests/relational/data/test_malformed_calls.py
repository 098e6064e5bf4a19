"""Calls of functions on data sets that are not what they should be: one sentence."""

import numpy as np
import pytest

from modmeta.relational import as_dataset, relative_to_mean
from modmeta.relational.data import (
    concatenate_tasks,
    cut,
    save_npz,
    simulate_springs,
)

STATES = np.random.default_rng(0).normal(size=(4, 8, 3, 4)).cumsum(axis=1)
DATA = as_dataset(STATES, positions=(0, 1), velocities=(2, 3))
CALLS = {
    "take, beyond": (lambda: DATA.take([9]), "indices: found task 9, expected 0 to 3"),
    "take, before": (lambda: DATA.take([-9]), "indices: found task -9, expected 0"),
    "take, text": (lambda: DATA.take("a"), "indices: found dtype <U1"),
    "take, fraction": (lambda: DATA.take([0.5]), "indices: found dtype float64"),
    "take, number": (lambda: DATA.take(1), r"with shape \(\), expected whole numbers"),
    "take, mask": (lambda: DATA.take([True]), r"found a mask of shape \(1,\), exp"),
    "frames, text": (lambda: DATA.frames("a", 3), "frames: found 'a', expected a wh"),
    "frames, fraction": (lambda: DATA.frames(0, 3.5), "frames: found 3.5"),
    "split, number": (lambda: DATA.split(3), "split: found sizes 3, expected several"),
    "split, shares": (lambda: DATA.split((0.5, 0.5)), "split: found 0.5, expected a"),
    "cut, text": (lambda: cut(DATA, "a"), "num_frames: found 'a', expected a whole"),
    "cut, fraction": (lambda: cut(DATA, 3.5), "num_frames: found 3.5, expected a wh"),
    "cut, an array": (lambda: cut(STATES, 4), "dataset: found a ndarray, expected a T"),
    "join, an array": (lambda: concatenate_tasks(STATES), "dataset: found a ndarray"),
    "join, nothing": (lambda: concatenate_tasks(None), "dataset: found a NoneType"),
    "mean, an array": (lambda: relative_to_mean(STATES), "dataset: found a ndarray"),
    "save, an array": (lambda: save_npz("a.npz", STATES), "dataset: found a ndarray"),
    "save, no path": (lambda: save_npz(None, DATA), "path: found None, expected the"),
    "save, no folder": (lambda: save_npz("no/a.npz", DATA), "found no folder 'no'"),
    "springs, fraction": (
        lambda: simulate_springs(0, 2.5),
        "num_tasks: found 2.5, expected a whole number",
    ),
    "split, seed": (lambda: DATA.split((2,), seed="a"), "seed: found 'a', expected a"),
    "springs, seed": (
        lambda: simulate_springs("a", 2),
        "seed: found 'a', expected a whole number",
    ),
    "springs, negative seed": (lambda: simulate_springs(-1, 2), "seed: found -1, exp"),
    "springs, texts": (
        lambda: simulate_springs(0, 2, strengths=("a", 1.0)),
        r"strengths: found \('a', 1.0\), expected",
    ),
    "springs, a number": (
        lambda: simulate_springs(0, 2, probabilities=0.5),
        "probabilities: found 0.5, expected",
    ),
    "springs, frames": (
        lambda: simulate_springs(0, 2, num_frames="9"),
        "num_frames: found '9', expected a whole number",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_malformed_call_gets_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = CALLS[name]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        call()
    said = str(caught.value)
    assert "found" in said and "expected" in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_tasks_are_taken_as_numpy_takes_them():
    mask = np.array([True, False, True, False])
    for indices in ([0, -2], mask, slice(0, 4, 2), np.array([], int)):
        expected = DATA.states[indices]
        np.testing.assert_array_equal(DATA.take(indices).states, expected)
