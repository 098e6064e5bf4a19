"""Classical scores against closed forms, slow references and simulated truth."""

import numpy as np
import pytest

from modmeta.relational import DataError, as_dataset, classical
from modmeta.relational.classical import linear, methods
from modmeta.relational.classical.recordings import (
    recordings,
    standardised,
    with_past,
)
from modmeta.relational.evaluation.ranking import auroc

NUM_NODES = 6
OTHERS = ~np.eye(NUM_NODES, dtype=bool)


def chain_of_senders(seed, within, num_tasks=4, num_frames=300, weight=0.6):
    """A chain 0 -> 1 -> ... that acts within a frame or one frame later.

    Returns:
      States `[tasks, time, nodes, 1]` and labels `[nodes, nodes]`.
    """
    rng = np.random.default_rng(seed)
    labels = np.eye(NUM_NODES, k=-1, dtype=int)
    states = rng.normal(size=(num_tasks, num_frames, NUM_NODES))
    mix = np.linalg.inv(np.eye(NUM_NODES) - weight * labels)
    for frame in range(1, num_frames):
        before = states[:, frame - 1]
        if within:
            states[:, frame] = (states[:, frame] + 0.3 * before) @ mix.T
        else:
            states[:, frame] += 0.3 * before + weight * before @ labels.T
    return states[..., None], labels


@pytest.fixture(scope="module", params=[1, 2])
def series(request):
    """Two recordings of one column and of two, which mix two chains."""
    states, _ = chain_of_senders(0, within=False, num_tasks=2, num_frames=60)
    if request.param == 2:
        other, _ = chain_of_senders(1, within=True, num_tasks=2, num_frames=60)
        states = np.concatenate([states, other - 0.4 * states], axis=-1)
    return standardised(list(states))


def root_mean_square(values, size):
    """Over blocks, one after the other."""
    found = np.zeros((NUM_NODES, NUM_NODES))
    for one, other in np.ndindex(found.shape):
        rows, columns = (slice(node * size, (node + 1) * size) for node in (one, other))
        found[one, other] = np.sqrt(np.mean(values[rows, columns] ** 2))
    return found


def flat(series):
    """All frames, columns of a node side by side."""
    return np.concatenate(series).reshape(sum(map(len, series)), -1)


def test_correlations_are_those_of_numpy(series):
    expected = root_mean_square(np.corrcoef(flat(series).T), series[0].shape[2])
    np.testing.assert_allclose(methods.correlation(series), expected, rtol=1e-10)


def test_partial_correlations_are_those_of_residuals(series):
    """Rows that are added shrink the correlations; the rest is least squares."""
    frames, size = flat(series), series[0].shape[2]
    shrinkage = linear.choose_shrinkage_of_others(frames, size)
    extra = np.sqrt(shrinkage * len(frames)) * np.eye(NUM_NODES * size)
    rows = np.concatenate([frames, extra])
    expected = np.zeros((len(extra), len(extra)))
    for one, other in np.ndindex(expected.shape):
        if one == other:
            continue
        rest = np.delete(rows, [one, other], axis=1)
        pair = rows[:, [one, other]]
        left = pair - rest @ np.linalg.lstsq(rest, pair, rcond=None)[0]
        norms = np.linalg.norm(left, axis=0)
        expected[one, other] = left[:, 0] @ left[:, 1] / np.prod(norms)
    found, expected = (
        values[OTHERS]
        for values in (
            methods.partial_correlation(series),
            root_mean_square(expected, size),
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("order", [1, 2])
def test_granger_is_the_ratio_of_two_regressions(series, order):
    found = methods.granger(series, order)
    present, past = with_past(series, order)

    def squares(inputs, target):
        inputs = inputs.reshape(len(inputs), -1)
        left = target - inputs @ np.linalg.lstsq(inputs, target, rcond=None)[0]
        return np.sum(left**2)

    for receiver in range(NUM_NODES):
        for sender in range(NUM_NODES):
            ratios = [
                squares(np.delete(past, sender, axis=1), target) / squares(past, target)
                for target in present[:, receiver].T
            ]
            expected = np.mean(np.log(ratios))
            np.testing.assert_allclose(
                found[receiver, sender], expected, rtol=1e-6, atol=1e-12
            )


def test_lagged_correlation_of_an_echo_is_one():
    signal = np.random.default_rng(0).normal(size=200)
    echo = np.roll(signal, 1)
    series = standardised([np.stack([signal, echo], axis=1)[..., None]])
    found = methods.lagged_correlation(series)
    assert found[1, 0] == pytest.approx(1.0, abs=0.02) and found[0, 1] < 0.2


def test_the_past_does_not_reach_across_recordings():
    series = [np.arange(1.0, 5.0), np.arange(7.0, 10.0)]
    series = [np.stack([part, -part], axis=-1)[:, None] for part in series]
    present, past = with_past(series, 2)
    np.testing.assert_array_equal(present[:, 0, 0], [3, 4, 9])
    np.testing.assert_array_equal(
        past[:, 0], [[2, -2, 1, -1], [3, -3, 2, -2], [8, -8, 7, -7]]
    )
    present, past = with_past(series, 1, 1)
    np.testing.assert_array_equal(present[:, 0, 0], [3, 4, 9])
    np.testing.assert_array_equal(past[:, 0, 0], [2, 3, 8])
    assert [len(part) for part in with_past(series, 4)] == [0, 0]


def test_order_of_an_autoregression():
    """A sender is heard two frames later: the criterion fails in one seed of 1,000."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 3, 1))
    for frame in range(2, 400):
        states[frame, 1] += 0.6 * states[frame - 2, 0]
    assert methods.choose_order([states]) == 2
    assert methods.choose_order([states[:20]]) == 1


@pytest.mark.parametrize(
    "within, best",
    [
        (False, ["Granger causality", "vector autoregression", "lagged correlation"]),
        (True, ["partial correlation", "directed partial correlation"]),
    ],
)
@pytest.mark.parametrize("num_columns", [1, 2])
def test_the_right_methods_find_a_chain(within, best, num_columns):
    """Pairs without order alone, where relations act within a frame."""
    states, labels = chain_of_senders(1, within)
    if num_columns == 2:
        own = np.random.default_rng(0).normal(size=states.shape)
        states = np.concatenate([own, states + 0.2 * own], axis=-1)
    dataset = as_dataset(states, lags=1)
    truth = np.where(OTHERS, labels + labels.T if within else labels, -1)
    for method in classical.METHODS:
        scores = classical.rank_pairs(dataset, method, shared_graph=True)[0]
        assert np.isnan(np.diag(scores)).all()
        if within:
            scores = scores + scores.T
        area = auroc(scores, truth)
        assert area == 1.0 if method in best else area > 0.5, method


def test_directions_are_told_by_the_past():
    """Within a frame both ends look alike; what stays of the sender tells them apart.

    Its noise is fresh in every frame, and its own past reaches the receiver through it.
    """
    rng = np.random.default_rng(0)
    states = np.zeros((2000, 2, 1))
    for frame in range(1, 2000):
        states[frame, 0] = 0.7 * states[frame - 1, 0] + rng.normal()
        states[frame, 1] = 0.8 * states[frame, 0] + rng.normal()
    found = methods.directed_partial_correlation(standardised([states]))
    assert found[1, 0] > 2.0 * found[0, 1]
    both = methods.partial_correlation(standardised([states]))
    np.testing.assert_allclose(found[1, 0] + found[0, 1], both[0, 1])


def test_systems_are_scored_alone_or_together():
    states, _ = chain_of_senders(0, within=False, num_tasks=3, num_frames=50)
    alone = classical.rank_pairs(as_dataset(states, lags=1), "correlation")
    assert alone.shape == (3, NUM_NODES, NUM_NODES)
    one = classical.rank_pairs(as_dataset(states[1:2], lags=1), "correlation")
    np.testing.assert_array_equal(alone[1], one[0])
    uneven = as_dataset([states[0], states[1][:, :4]], lags=1)
    mixed = classical.rank_pairs(uneven, "correlation")
    assert np.isfinite(mixed[1, :4, :4]).sum() == 12 and np.isnan(mixed[1, 4:]).all()
    with pytest.raises(
        DataError, match=r"systems of \[4, 6\] nodes, expected one size"
    ):
        classical.rank_pairs(uneven, "correlation", shared_graph=True)


def test_recordings_end_at_breaks_and_where_a_node_was_missed():
    states, _ = chain_of_senders(0, within=False, num_tasks=1, num_frames=10)
    breaks = np.zeros((1, 10), bool)
    breaks[0, 4] = True
    states[0, 7, 2] = np.nan
    dataset = as_dataset(states, lags=1, breaks=breaks)
    found = recordings(dataset, 0)
    assert [len(part) for part in found] == [4, 3, 2]
    np.testing.assert_allclose(found[1], states[0, 4:7], rtol=1e-6)


def test_a_constant_node_goes_with_nothing():
    states, _ = chain_of_senders(0, within=False, num_tasks=1, num_frames=80)
    states[:, :, 2] = 5.0
    dataset = as_dataset(states, lags=1)
    for method in classical.METHODS:
        scores = classical.rank_pairs(dataset, method)[0]
        assert np.isfinite(scores[OTHERS]).all(), method
        np.testing.assert_allclose(scores[2][OTHERS[2]], 0.0, atol=1e-9)


def test_what_cannot_be_scored_is_refused():
    states, _ = chain_of_senders(0, within=False, num_tasks=1, num_frames=6)
    dataset = as_dataset(states, lags=1)
    with pytest.raises(DataError, match="found 5 frames with a past, expected more"):
        classical.rank_pairs(dataset, "Granger causality")
    with pytest.raises(ValueError, match="method: found 'guess', expected one of"):
        classical.rank_pairs(dataset, "guess")
    places = np.random.default_rng(0).normal(size=(1, 9, 3, 4))
    bodies = as_dataset(places, positions=(0, 1), velocities=(2, 3))
    with pytest.raises(DataError, match="expected columns without roles"):
        classical.rank_pairs(bodies, "correlation")
