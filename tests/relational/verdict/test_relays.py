"""Chains, and drivers that look like chains, of known laws; no model is trained."""

import dataclasses

import numpy as np

from modmeta.relational import as_dataset
from modmeta.relational.verdict.relays import has_relays, shares_by_relays

NUM_NODES = 5
CHAIN = np.eye(NUM_NODES, k=-1)


def chain(seed, num_tasks=16, num_frames=140, noise=0.0):
    """Each hears the one before it; what the true law leaves, beside the states."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(num_tasks, num_frames, NUM_NODES))
    for frame in range(1, num_frames):
        before = states[:, frame - 1]
        states[:, frame] += 0.4 * before + 0.7 * before @ CHAIN.T
    return states + noise * rng.normal(size=states.shape)


def driven(seed, num_tasks=16, num_frames=140):
    """All hear one driver of white noise, each a frame later than the one before."""
    rng = np.random.default_rng(seed)
    driver = rng.normal(size=(num_tasks, num_frames))
    states = 0.5 * rng.normal(size=(num_tasks, num_frames, NUM_NODES))
    for frame in range(NUM_NODES, num_frames):
        heard = driver[:, frame - NUM_NODES : frame][:, ::-1]
        states[:, frame] += 0.4 * states[:, frame - 1] + heard
    return states[:, NUM_NODES:]


def shares(states, joined=CHAIN):
    """Of what the best law with one strength for all pairs that are joined leaves."""
    before = states[:, :-1]
    inputs = np.stack([before, before @ joined.T], axis=-1)
    law = np.linalg.lstsq(inputs.reshape(-1, 2), states[:, 1:].ravel(), rcond=None)[0]
    left = np.swapaxes(states[:, 1:] - inputs @ law, 1, 2)
    dataset = as_dataset(states[..., None], lags=1)
    is_joined = np.broadcast_to(joined > 0, (len(states), NUM_NODES, NUM_NODES))
    return shares_by_relays(dataset, left, is_joined)


def test_a_driver_is_told_from_a_chain():
    for seed in range(5):
        assert has_relays(shares(driven(seed)))
        assert not has_relays(shares(chain(seed)))
        # One recording, cut into parts.
        assert has_relays(shares(driven(seed, num_tasks=1, num_frames=1000)))
        assert not has_relays(shares(chain(seed, num_tasks=1, num_frames=1000)))
    assert not has_relays(None)
    # Nobody is reached by others alone.
    assert not shares(driven(0), np.ones_like(CHAIN) - np.eye(NUM_NODES)).any()


def test_chance_has_no_share():
    found = np.concatenate([shares(chain(seed)) for seed in range(12)])
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean()) < 4.0 * error < 0.01


def test_shares_are_sums_of_squared_correlations():
    """By loops, of two recordings in a task, a gap, and a node that is not there."""
    rng = np.random.default_rng(0)
    num_tasks, num_frames = 6, 60
    states = rng.normal(size=(num_tasks, num_frames, NUM_NODES, 1))
    breaks = np.zeros((num_tasks, num_frames), bool)
    breaks[:, 25] = True
    seen = np.ones((num_tasks, num_frames, NUM_NODES), bool)
    seen[1, 40, 2] = False
    real = np.ones((num_tasks, NUM_NODES), bool)
    real[2, 4] = False
    seen[2, :, 4] = False
    dataset = as_dataset(states, lags=1)
    dataset = dataclasses.replace(
        dataset, breaks=breaks, frame_mask=seen, node_mask=real
    )
    left = rng.normal(size=(num_tasks, NUM_NODES, num_frames - 1))
    joined = np.broadcast_to(CHAIN > 0, (num_tasks, NUM_NODES, NUM_NODES))
    found = shares_by_relays(dataset, left, joined)
    for task in range(num_tasks):
        size = 4 if task == 2 else NUM_NODES
        windows = [w for w in range(num_frames - 1) if w != 24]
        if task == 1:
            windows = [w for w in windows if w not in (39, 40)]
        side = {w: w > 24 for w in windows}

        def before(window, lag, side=side):
            return window - lag if side.get(window - lag) == side[window] else None

        values = np.zeros((size, num_frames - 1))
        for node in range(size):
            rows = [
                [
                    0.0 if before(w, k) is None else left[task, node, w - k]
                    for k in (1, 2)
                ]
                for w in windows
            ]
            own = left[task, node, windows]
            own = own - rows @ np.linalg.lstsq(rows, own, rcond=None)[0]
            values[node, windows] = (own - own.mean()) / own.std()
        expected = 0.0
        for lag in (2, 3, 4):
            now = [w for w in windows if before(w, lag) is not None]
            for receiver in range(2, size):
                product = np.mean(
                    [values[receiver, w] * values[receiver - 2, w - lag] for w in now]
                )
                expected += product**2 - 1.0 / len(now)
        np.testing.assert_allclose(found[task], expected / size, rtol=1e-6)


def test_few_windows_tell_nothing():
    assert shares(chain(0, num_tasks=3, num_frames=14)) is None
