"""What linear regression finds in the same data."""

from __future__ import annotations

import numpy as np

from modmeta.relational.data import TrajectoryDataset


def _terms(dataset: TrajectoryDataset, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Changes `[T, N, Y]` and what senders may add to them `[T, N, N, Y]`."""
    features = dataset.features
    states = dataset.states[task].astype(np.float64)
    if features.has_motion:
        where = states[..., list(features.positions)]
        speed = states[..., list(features.velocities)]
        return np.diff(speed, axis=0), _middle(where[:, None] - where[:, :, None])
    if features.angles:
        sine, cosine = features.sines[0], features.cosines[0]
        angle = np.unwrap(np.arctan2(states[..., sine], states[..., cosine]), axis=0)
        pull = np.sin(angle[:, None] - angle[:, :, None])
        return np.diff(angle, axis=0)[..., None], _middle(pull)[..., None]
    columns = [*features.recorded, *(column for column, _ in features.lagged)]
    # Every column of a sender may act on every column of its receiver.
    senders = states[:-1][..., columns]
    shape = (len(senders), senders.shape[1], *senders.shape[1:])
    target = np.diff(states[..., list(features.recorded)], axis=0)
    return target, np.broadcast_to(senders[:, None], shape)


def _middle(values: np.ndarray) -> np.ndarray:
    """Means of consecutive frames: terms of a change in between."""
    return 0.5 * (values[1:] + values[:-1])


def edge_strengths(dataset: TrajectoryDataset, *, is_alone: bool = True) -> np.ndarray:
    """How strongly every sender adds to its receiver, by least squares.

    Own velocities, or else states, and a constant are regressed out, unless nothing is
    said to act on a receiver alone (`is_alone`), which few frames may not tell. One
    regression per receiver of every system: of rates of velocities on displacements, of
    turns on sines of differences of angles, of changes of plain features on those of
    all senders (a vector autoregression).

    Returns:
      `[tasks, nodes, nodes]`, NaN where there is no edge.
    """
    features = dataset.features
    # Friction and drift; places of short recordings are nearly those of the others.
    alone = list(features.velocities or range(features.num_features))
    num_tasks, num_nodes = dataset.node_mask.shape
    found = np.full((num_tasks, num_nodes, num_nodes), np.nan)
    for task in range(num_tasks):
        target, terms = _terms(dataset, task)
        target = target / np.diff(dataset.clock[task])[:, None, None]
        is_linked = dataset.counted()[task]
        size = dataset.num_nodes[task]
        for receiver in range(size):
            rows = is_linked[:, receiver]
            senders = [s for s in range(size) if s != receiver]
            parts = terms[rows][:, receiver][:, senders]
            own = dataset.states[task, :-1, receiver][rows][:, alone]
            own = np.concatenate([own, np.ones((len(own), 1))], axis=1)
            own = own if is_alone else own[:, :0]
            goal = target[rows, receiver]
            weights = _regress(goal, parts, own, features.has_motion)
            found[task, receiver, senders] = weights
    return found


def _regress(
    goal: np.ndarray, parts: np.ndarray, own: np.ndarray, is_spatial: bool
) -> np.ndarray:
    """Strengths `[D]` from changes `[T, Y]`, terms `[T, D, C]`, own ones `[T, E]`."""
    frames, count, width = parts.shape
    if is_spatial:  # one weight for all axes
        design = np.moveaxis(parts, 2, 1).reshape(-1, count)
        blocks = np.zeros((frames, width, width, own.shape[1]))
        blocks[:, range(width), range(width)] = own[:, None]
        design = np.concatenate([design, blocks.reshape(frames * width, -1)], axis=1)
        weights, *_ = np.linalg.lstsq(design, goal.ravel(), rcond=None)
        return np.abs(weights[:count])
    design = np.concatenate([parts.reshape(frames, -1), own], axis=1)
    weights, *_ = np.linalg.lstsq(design, goal, rcond=None)
    weights = weights[: count * width].reshape(count, -1)
    return np.sqrt(np.sum(np.square(weights), axis=1))
