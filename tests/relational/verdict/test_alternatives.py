"""Second opinions on series whose law is known; no model is trained."""

import numpy as np
import pytest

from modmeta.relational import as_dataset
from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict import held_out
from modmeta.relational.verdict.alternatives import (
    Alternatives,
    compare,
    goes_together,
    is_worthless,
    recommend,
)
from tests.fixtures import small_model, small_params

NUM_NODES = 5
CHAIN = np.eye(NUM_NODES, k=-1)


def series(kind, num_tasks=8, num_frames=160, seed=0):
    """Recordings `[tasks, time, nodes, 1]`, and what no model of the past explains.

    Returns:
      States, and the noise of every frame `[tasks, time, nodes]`.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num_tasks, num_frames, NUM_NODES))
    mix = np.eye(NUM_NODES)
    if kind in ("within", "both"):
        mix = np.linalg.inv(np.eye(NUM_NODES) - 0.7 * CHAIN)
    noise = noise @ mix.T
    states = noise.copy()
    for frame in range(1, num_frames):
        before = states[:, frame - 1]
        states[:, frame] += 0.3 * before
        if kind in ("later", "both"):
            states[:, frame] += (0.6 if kind == "later" else 0.4) * before @ CHAIN.T
    return states[..., None], noise


def compared(kind, graph, **options):
    """Alternatives to a graph that knows "all" of the past, or the "own" alone."""
    states, noise = series(kind, **options)
    left = noise
    if graph == "own":
        left = states[..., 0] - 0.3 * np.roll(states[..., 0], 1, axis=1)
    return beside(states, left)


def beside(states, left):
    """Alternatives to a graph that leaves so much `[tasks, time, nodes]` of states."""
    dataset = as_dataset(states, lags=1)
    cut = 3 * dataset.num_frames // 4
    first, rest = dataset.frames(0, cut), dataset.frames(cut, dataset.num_frames)
    changes = [np.diff(d.states, axis=1).transpose(0, 2, 1, 3) for d in (first, rest)]
    residuals = -left[:, 1:].transpose(0, 2, 1)[..., None]
    residuals = residuals[:, :, : cut - 1], residuals[:, :, cut:]
    return compare(first, rest, tuple(changes), residuals, 1, 100.0)


@pytest.mark.parametrize(
    "kind, graph, method, words",
    [
        ("later", "all", None, ""),
        ("alone", "own", None, ""),
        ("later", "own", "vector autoregression", "linear regression on the past"),
        ("within", "all", "partial correlation", "nothing tells the direction"),
        ("both", "all", "directed partial correlation", "within a frame"),
    ],
)
def test_a_better_method_is_recommended(kind, graph, method, words):
    """With one recording of 960 frames as with eight of 160."""
    for options in ({}, {"num_tasks": 1, "num_frames": 960}):
        found = recommend(compared(kind, graph, **options))
        assert (found and found.method) == method
        if method:
            assert words in found.sentence
            assert found.is_within_frame == ("partial" in method)


def test_errors_are_those_of_regressions_that_know_the_law():
    """Noise of variance 1; the own past leaves what the sender adds."""
    found = compared("later", "all", num_tasks=6, num_frames=2000)
    count = 6 * 499 * NUM_NODES
    np.testing.assert_allclose(found.past.sum() / count, 1.0, rtol=0.05)
    np.testing.assert_allclose(found.found.sum() / count, 1.0, rtol=0.05)
    assert found.own.sum() > 1.2 * count
    assert found.total.sum() > found.own.sum()


def test_noise_of_every_node_for_itself_does_not_go_together():
    """A mix of noise within a frame does, whatever the past: as under a driver."""
    for seed in range(10):
        for options in ({}, {"num_tasks": 1}, {"num_tasks": 4, "num_frames": 24}):
            for kind in ("alone", "later"):
                assert not goes_together(compared(kind, "all", seed=seed, **options))
        assert goes_together(compared("both", "all", seed=seed))
    assert not goes_together(None)


def test_what_goes_together_a_frame_later_shows():
    """A graph that lacks relations leaves it, and one of a driver heard with lags."""
    for seed in range(3):
        found = compared("later", "own", seed=seed)
        assert goes_together(found)
        np.testing.assert_allclose(found.alone, found.found, rtol=0.2)
    # A graph that explains nine tenths is not doubted for what its laws miss a little.
    assert not goes_together(found._replace(own=20.0 * found.found))


def test_a_season_of_every_node_is_no_relation():
    """A linear law of all nodes reads the season off the others: a graph of nothing."""
    states, _ = series("alone")
    phases = np.random.default_rng(1).uniform(0.0, 6.3, (8, 1, NUM_NODES))
    waves = np.sin(0.52 * np.arange(160)[:, None] + phases)
    states[..., 0] += 2.0 * waves
    left = np.zeros(states.shape[:3])
    for task, system in enumerate(states[..., 0]):
        law = np.linalg.lstsq(system[:-1], system[1:], rcond=None)[0]
        left[task, 1:] = system[1:] - system[:-1] @ law
    found = beside(states, left)
    assert found.found.sum() < 0.9 * found.own.sum() and is_worthless(found)
    # Noise of 1 is what nothing explains.
    np.testing.assert_allclose(found.season.sum() / (8 * 39 * NUM_NODES), 1.0, rtol=0.1)
    assert not is_worthless(compared("later", "all"))


def test_a_recording_alone_is_cut_into_blocks():
    for num_tasks, count in ((1, 6), (2, 12), (6, 6), (7, 7)):
        found = compared("later", "all", num_tasks=num_tasks)
        assert found.found.shape == (count,)


def test_nothing_is_recommended_where_nodes_go_alone():
    """Twenty data sets, short and long; direction is never told without a past."""
    for seed in range(20):
        for options in ({"num_tasks": 4, "num_frames": 24}, {"num_tasks": 1}):
            assert recommend(compared("alone", "own", seed=seed, **options)) is None
    methods = [
        recommend(compared("within", "all", seed=seed)).method for seed in range(20)
    ]
    assert set(methods) == {"partial correlation"}


@pytest.mark.parametrize(
    "kind, method",
    [
        ("alone", None),
        ("later", "vector autoregression"),
        ("within", "partial correlation"),
    ],
)
def test_series_alone_speak_for_a_method(kind, method):
    """Without any graph, whatever the unit of the series."""
    states, _ = series(kind)
    for scale in (1.0, 1e-4):
        found = held_out.recommend_for(as_dataset(scale * states, lags=1))
        assert (found and found.method) == method
        assert found is None or "with the own past alone" in found.sentence
    # Another column, in a unit of its own, hides nothing.
    own = 1e3 * np.random.default_rng(2).normal(size=states.shape)
    two = as_dataset(np.concatenate([own, states], axis=-1), lags=1)
    found = held_out.recommend_for(two)
    assert (found and found.method) == method
    bodies = as_dataset(np.concatenate([states, own], axis=-1), positions=(0, 1))
    assert held_out.recommend_for(bodies) is None


def test_a_gain_by_one_recording_alone_is_none():
    level = np.full(8, 10.0)
    one = level.copy()
    one[0] = 1.0
    assert recommend(Alternatives(level, level, level, one, 2.0 * level)) is None
    all_of_them = Alternatives(level, level, level, 0.5 * level, 2.0 * level)
    assert recommend(all_of_them).method == "partial correlation"
    assert recommend(all_of_them._replace(found=0.4 * level)) is None
    assert recommend(None) is None


def test_what_cannot_be_compared_is_left_alone():
    """Bodies, and frames that are too few."""
    states, _ = series("later", num_tasks=2)
    dataset = as_dataset(states, lags=1)
    changes = np.diff(dataset.states, axis=1).transpose(0, 2, 1, 3)
    arguments = ((changes, changes), changes, 1, 25.0)
    assert compare(dataset, dataset, *arguments) is None
    bodies = as_dataset(np.concatenate([states, states], axis=-1), positions=(0, 1))
    assert compare(bodies, bodies.frames(0, 20), *arguments) is None
    short, rest = dataset.frames(0, 9), dataset.frames(9, 160)
    arguments = ((changes[:, :, :8], changes[:, :, 9:]), changes[:, :, 9:], 1, 25.0)
    assert compare(short, rest, *arguments) is None


def test_missed_frames_and_padded_nodes_do_not_count():
    states, _ = series("later", num_tasks=2)
    gaps = states.copy()
    gaps[0, 130, 2] = np.nan
    dataset = as_dataset([gaps[0], gaps[1][:, :4]], lags=1)
    first, rest = dataset.frames(0, 120), dataset.frames(120, 160)
    changes = [np.diff(d.states, axis=1).transpose(0, 2, 1, 3) for d in (first, rest)]
    found = compare(first, rest, tuple(changes), tuple(changes), 1, 100.0)
    expected = np.diff(gaps[0, 120:, :, 0], axis=0)
    expected = np.sum(np.minimum(np.square(expected), 100.0), axis=1)
    np.testing.assert_allclose(found.total[:6].sum(), np.nansum(expected), rtol=1e-5)
    np.testing.assert_allclose(found.total, found.found)


def test_held_out_frames_of_a_model_are_compared(monkeypatch):
    """A model with random modules, in the units of its own targets."""
    from modmeta.relational.data import FeatureSpec
    from modmeta.relational.inference.config import InferenceConfig
    from modmeta.relational.modules.preprocessing import FeatureLayout
    from modmeta.relational.tasks.batches import all_batches

    states, _ = series("later", num_tasks=2, num_frames=80)
    dataset = as_dataset(states, lags=1)
    layout = FeatureLayout(FeatureSpec(dataset.features.names), (0,))
    model = small_model(layout=layout)
    graph = all_batches(dataset.num_nodes, 2).supergraph
    params = small_params(model, graph, 80)
    edges = np.tile(np.where(np.eye(NUM_NODES, dtype=bool), -1, 1), (2, 1, 1))
    found = Relations(edges, np.zeros((2, NUM_NODES), int), *[np.zeros(2)] * 5)
    monkeypatch.setattr(held_out, "infer_dataset", lambda *_: found)
    evidence = held_out.gather(None, model, params, dataset, InferenceConfig())
    others = evidence.alternatives
    # Modules at random leave to nodes what these do alone.
    assert evidence.found.sum() < others.found.sum()
    np.testing.assert_allclose(others.total.sum(), evidence.total.sum(), rtol=1e-5)
    assert others.past.sum() < others.own.sum() < others.total.sum()
