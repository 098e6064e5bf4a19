"""Futures with observed errors, against closed forms of free motion that is kicked."""

import dataclasses

import jax
import numpy as np
import pytest

from modmeta.relational import Domain, ModuleConfig, as_dataset
from modmeta.relational.data import DataError
from modmeta.relational.futures import backtests, ensembles, predictions
from modmeta.relational.futures.rollouts import Rollouts
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.preprocessing import changes
from tests.relational.test_results import result_of

NUM_TASKS, NUM_FRAMES, NUM_NODES, STEP = 10, 12, 3, 0.1
NAMES = ("x", "y", "vx", "vy")
LAWS = ModuleConfig(
    law="central", span=1, edge_sizes=(4,), node_sizes=(4,), entities="alike"
)
SEEN = {"num_substeps": 2}


def kicked(kicks):
    """Bodies `[tasks, time, nodes, 4]` whose velocities change at the frames alone."""
    start = np.random.default_rng(1).normal(size=(2, NUM_TASKS, 1, NUM_NODES, 2))
    velocity = start[0] + np.cumsum(kicks, axis=1)
    moved = np.cumsum(STEP * velocity[:, :-1], axis=1)
    position = start[1] + np.concatenate([np.zeros_like(start[1]), moved], axis=1)
    return np.concatenate([position, velocity], axis=-1)


class Kicked:
    """Free motion with kicks, and a model that knows of no force at all."""

    def __init__(self, modules=LAWS):
        shape = (NUM_TASKS, NUM_FRAMES, NUM_NODES, 2)
        self.kicks = 0.3 * np.random.default_rng(0).standard_t(4, size=shape)
        self.dataset = as_dataset(
            kicked(self.kicks), feature_names=NAMES, frame_interval=STEP
        )
        edges = np.zeros((NUM_TASKS, NUM_NODES, NUM_NODES), int)
        edges[:, range(NUM_NODES), range(NUM_NODES)] = -1
        found = result_of(self.dataset, edges, modules)
        params = found.params._replace(
            modules=jax.tree.map(np.zeros_like, found.params.modules)
        )
        discovery = dataclasses.replace(found.discovery, params=params)
        self.result = dataclasses.replace(found, discovery=discovery)


@pytest.fixture(scope="module")
def free():
    return Kicked()


@pytest.fixture(scope="module")
def twice():
    return Kicked(dataclasses.replace(LAWS, span=2))


@pytest.fixture
def plain(monkeypatch):
    """Errors as they were seen."""
    monkeypatch.setattr(predictions, "widening", lambda *_: np.ones(_[-1]))


@pytest.mark.usefixtures("plain")
def test_futures_spread_as_runs_of_kicks_that_were_seen(free):
    """Squares over all runs of four kicks; a tenth is five standard errors and more."""
    num_steps, num_samples = 4, 400
    path = free.result.predict(num_steps, **SEEN)
    samples = free.result.predict(num_steps, num_samples=num_samples, **SEEN)
    assert samples.shape == (num_samples, *path.shape)
    last = free.dataset.states[:, -1:]
    times = STEP * np.arange(1, num_steps + 1)[:, None, None]
    np.testing.assert_allclose(
        path[..., :2], last[..., :2] + times * last[..., 2:], atol=1e-4
    )
    off = np.mean(np.square(samples - path), axis=0)
    # A body is at rest at first; a kick moves it for as many frames as follow.
    speeds, places = [], []
    for first in range(1, NUM_FRAMES - num_steps + 1):
        speed = place = 0.0
        for step in range(num_steps):
            place = place + STEP * speed
            speed = speed + free.kicks[:, first + step]
            speeds.append(speed)
            places.append(place + np.zeros_like(speed))
    both = np.concatenate([places, speeds], axis=-1)
    both = np.square(both).reshape(-1, num_steps, *both.shape[1:]).mean(axis=0)
    np.testing.assert_allclose(
        off.mean(axis=(0, 2)), both.mean(axis=(1, 2)), rtol=0.1, atol=1e-6
    )


def test_bands_hold_what_comes_where_kicks_last(free):
    """Kicks of 0.9 the one before: as if independent, half of what came is in bands."""
    num_frames, num_steps = 40, 8
    noise = np.random.default_rng(5).normal(size=(NUM_TASKS, num_frames + 8, 3, 2))
    kicks = 0.1 * noise
    for frame in range(1, num_frames + num_steps):
        kicks[:, frame] += 0.9 * kicks[:, frame - 1]
    states = kicked(kicks)
    dataset = dataclasses.replace(free.dataset, states=states[:, :num_frames])
    result = dataclasses.replace(free.result, dataset=dataset)
    futures = result.predict(num_steps, num_samples=40, **SEEN)
    low, high = np.quantile(futures, [0.05, 0.95], axis=0)
    came = states[:, num_frames:]
    inside = ((low <= came) & (came <= high))[..., 2:].mean(axis=(0, 2, 3))
    assert (inside > 0.75).all()
    # Bands are not as wide as everything, either.
    spread = 0.1 / np.sqrt(1.0 - 0.9**2) * np.arange(1, num_steps + 1)
    assert np.mean((high - low)[:, -1, :, 2:]) < 3.0 * 2.0 * spread[-1]


def test_factors_follow_a_line_in_the_frames_ahead():
    """Nine tenths of ratios lie below 1 + h / 2 up to h = 2: known up to twice that."""
    ratios = np.linspace(0.0, 1.0 / 0.9, 101) * (1.0 + np.arange(1, 7)[:, None] / 2)
    ratios[2:] = np.nan
    found = backtests._factors([ratios], [3], 6)
    np.testing.assert_allclose(found, [1.5, 2.0, 2.5, 3.0, 3.0, 3.0])
    np.testing.assert_array_equal(backtests._factors([0.1 * ratios], [3], 6), 1.0)
    nothing = np.full((3, 5), np.nan)
    np.testing.assert_array_equal(backtests._factors([nothing], [3], 3), 1.0)
    np.testing.assert_array_equal(backtests._factors([], [], 3), 1.0)


def test_factors_are_those_of_the_end_where_later_starts_ask_for_more():
    def asked(trend):
        unit = np.linspace(0.0, 1.0 / 0.9, 101)
        return [
            unit * (2.0 + np.arange(1, 5)[:, None] / 2 - trend * ago) for ago in (4, 2)
        ]

    expected = 2.0 + np.arange(1, 5) / 2
    np.testing.assert_allclose(
        backtests._factors(asked(0.25), (4, 2), 4), expected, rtol=1e-6
    )
    # What later starts ask for less is the mean of all.
    np.testing.assert_allclose(
        backtests._factors(asked(-0.25), (4, 2), 4), expected + 0.75, rtol=1e-6
    )


def test_futures_are_stretched_about_their_mean(free, monkeypatch):
    """And no further than the walls, which the mean is within."""
    found = {}
    box = Domain("reflecting", (-100.0, -100.0), (100.0, 100.0))
    for factor in (1.0, 3.0):
        factors = np.array([1.0, factor])
        monkeypatch.setattr(predictions, "widening", lambda *_, given=factors: given)
        found[factor] = free.result.predict(2, num_samples=6, domain=box, **SEEN)
    plain, wide = found.values()
    middle = plain.mean(axis=0)
    np.testing.assert_allclose(wide[:, :, 0], plain[:, :, 0], atol=1e-5)
    expected = middle + 3.0 * (plain - middle)
    np.testing.assert_allclose(wide[:, :, 1], expected[:, :, 1], atol=1e-4)
    places = free.dataset.states[..., :2].reshape(-1, 2)
    corners = (tuple(map(float, c)) for c in (places.min(axis=0), places.max(axis=0)))
    box = Domain("reflecting", *corners)
    monkeypatch.setattr(predictions, "widening", lambda *_: np.full(2, 1e6))
    held = free.result.predict(2, num_samples=6, domain=box, **SEEN)[..., :2]
    assert (held >= np.array(box.lower) - 1e-4).all()
    assert (held <= np.array(box.upper) + 1e-4).all()


def test_errors_that_last_add_up():
    """A push that a law lacks: every future is off as one that was pushed as long."""
    values = np.ones((1, 2, 9, 1, 1)) * np.array([[0.5], [2.0]])[None, ..., None, None]
    values = (
        values
        * np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0])[:, None, None]
    )
    is_known = np.ones((1, 2, 9), bool)
    runs = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    observed = ensembles.ObservedErrors(values, np.ones((1, 2, 9, 1)), is_known, runs)
    for drawn in ensembles.draw_errors(0, observed, 3, 20):
        total = drawn.sum(axis=(2, 3))[0]
        np.testing.assert_allclose(np.abs(total), [1.5, 6.0])
        assert total[0] * total[1] > 0  # all of a system at once


@pytest.mark.usefixtures("plain")
def test_futures_come_in_opposite_pairs(free):
    path = free.result.predict(3, **SEEN)
    samples = free.result.predict(3, num_samples=3, seed=5, **SEEN)
    np.testing.assert_allclose(samples[:2].mean(axis=0), path, atol=1e-4)
    assert np.abs(samples[0] - path).max() > 0.1
    assert np.abs(samples[2] - samples[0]).max() > 0.1
    again = free.result.predict(3, num_samples=2, seed=5, **SEEN)
    np.testing.assert_array_equal(again, samples[:2])
    other = free.result.predict(3, num_samples=2, seed=6, **SEEN)
    assert np.abs(other - again).max() > 0.1


def test_errors_of_longer_windows_are_those_of_a_frame(twice):
    """A window of two frames: two kicks by its end, the first of them on the way."""
    result = twice.result
    rollouts = Rollouts(
        result.model,
        result.params,
        np.asarray(result.dataset.num_nodes),
        NUM_NODES,
        result.found.structures,
        Domain(),
        NUM_TASKS,
    )
    found = ensembles.observed_errors(rollouts, twice.dataset, None, 2, 4)
    assert found.is_known.all()
    # Two windows that follow each other, from every frame.
    np.testing.assert_array_equal(found.runs, np.arange(8)[:, None] + [0, 2])
    np.testing.assert_array_equal(
        found.elapsed, np.broadcast_to([1.0, 2.0], found.elapsed.shape)
    )
    preprocessing = result.params.preprocessing
    scale = np.asarray(preprocessing.normalization.scale)
    errors = found.values * np.asarray(preprocessing.target_scale) * scale
    kicks = twice.kicks.swapaxes(1, 2)
    first, second = kicks[:, :, 1:-1], kicks[:, :, 2:]
    expected = [
        np.concatenate([np.zeros_like(first), first], axis=-1),
        np.concatenate([STEP * first, first + second], axis=-1),
    ]
    np.testing.assert_allclose(errors, np.stack(expected, axis=3), atol=1e-4)


@pytest.mark.usefixtures("plain")
def test_noise_of_observation_does_not_add_up(twice):
    """Velocities that are noise alone: off by that of two frames, at every frame."""
    noise = np.random.default_rng(3).normal(size=twice.dataset.states.shape)
    dataset = dataclasses.replace(twice.dataset, states=noise)
    result = dataclasses.replace(twice.result, dataset=dataset)
    path = result.predict(2, **SEEN)
    samples = result.predict(2, num_samples=200, **SEEN)
    off = np.mean(np.square(samples - path), axis=(0, 1, 3))
    speed = noise[..., 2:]
    for step in (1, 2):
        squares = np.square(speed[:, step : step + 10] - speed[:, :10])
        expected = squares.mean(axis=(0, 1, 2))
        np.testing.assert_allclose(off[step - 1, 2:], expected, rtol=0.1)


def test_draws_are_of_windows_that_were_seen():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 5, 2, 1))
    is_known = rng.random((2, 3, 5)) < 0.5
    is_known[1, 2] = False
    is_known[0, 0] = [False, True, False, True, False]
    values[~is_known] = np.nan
    elapsed = np.broadcast_to([1.0, 2.0], (2, 3, 5, 2))
    runs = np.arange(4)[:, None] + [0, 1]
    observed = ensembles.ObservedErrors(values, elapsed, is_known, runs)
    # A step of three intervals, then one: three and twice as long as seen.
    durations = np.broadcast_to([3.0, 1.0, 3.0], (2, 3, 3))
    drawn = np.stack(
        [
            next(ensembles.draw_errors(seed, observed, 3, 1, durations))
            for seed in range(40)
        ]
    )
    assert drawn.shape == (40, 2, 3, 3, 1)
    assert np.isfinite(drawn).all()
    known = values[0, 0, [1, 3], :, 0] * [3.0, 2.0]
    for step, at in enumerate((0, 1, 0)):
        found = np.unique(drawn[:, 0, 0, step])
        np.testing.assert_allclose(found, np.sort(known[:, at]), rtol=1e-6)
    others = np.float32(values[is_known] * [[3.0], [2.0]])
    assert np.isin(np.unique(drawn[:, 1, 2]), others).all()
    # The two frames of a window go together.
    pairs = {tuple(pair) for pair in np.round(drawn[:, 0, 0, :2, 0], 5).tolist()}
    assert len(pairs) == 2


def test_angles_differ_by_the_shorter_turn():
    angles = np.array([[3.1, 0.2], [-3.1, 0.5]])
    turned = [np.stack([np.sin(a), np.cos(a), 2 * a], axis=-1) for a in angles]
    dataset = as_dataset(
        np.stack([*turned, turned[0]])[None],
        feature_names=("sine", "cosine", "speed"),
        sines=(0,),
        cosines=(1,),
    )
    _, layout = fit_preprocessing(dataset)
    found = changes(layout, *turned[::-1], np)
    expected = np.stack([2 * (angles[0] - angles[1]), [6.2 - 2 * np.pi, -0.3]], -1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_futures_need_errors_that_were_seen(twice):
    seen = np.ones((NUM_TASKS, NUM_FRAMES, NUM_NODES), bool)
    seen[:, 2:] = False
    dataset = dataclasses.replace(twice.dataset, frame_mask=seen)
    result = dataclasses.replace(twice.result, dataset=dataset)
    with pytest.raises(DataError, match="found no entity that was observed 2 frames"):
        result.predict(2, num_samples=2, **SEEN)
