"""Small data sets of many kinds, each with its right answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.situations.changes import Change
from modmeta.relational import data
from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.data.forms.arrays import as_dataset

NUM_SYSTEMS, NUM_NODES, NUM_FRAMES = 40, 5, 50
_INTERVAL = 0.1
_BODIES = FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3))


class Situation(NamedTuple):
    """Data with what should be found in them.

    Attributes:
      dataset: Labelled systems.
      num_relations: Relations that the data hold, as `Verdict.num_relations` counts.
      options: Further arguments of `infer_relations`.
      change: How relations change; None where they do not.
    """

    dataset: TrajectoryDataset
    num_relations: int
    options: dict[str, Any]
    change: Change | None = None


def bodies(
    seed: int,
    *,
    num_systems: int = NUM_SYSTEMS,
    num_frames: int = NUM_FRAMES,
    probability: float = 0.5,
    directed: bool = False,
    masses: tuple[float, ...] = (1.0,),
    friction: float = 0.0,
    kicks: float = 0.0,
    strength: float = 0.5,
    start: np.ndarray | None = None,
) -> TrajectoryDataset:
    """Bodies on springs without walls, by leapfrog steps of a hundredth of a frame.

    Args:
      seed: Seed of everything random.
      num_systems: Systems.
      num_frames: Frames of each.
      probability: Probability of a spring between two bodies.
      directed: Whether the two edges of a pair are drawn apart.
      masses: What the mass of a body is drawn from; no column tells it.
      friction: Rate at which velocities decay.
      kicks: Standard deviation of what is added to a velocity in every frame.
      strength: Of the springs.
      start: `[systems, nodes, 4]` positions and velocities; None draws them.
    """
    rng = np.random.default_rng(seed)
    shape = (num_systems, NUM_NODES)
    edges = rng.random((*shape, NUM_NODES)) < probability
    if not directed:
        edges = np.triu(edges, 1)
        edges = edges | edges.swapaxes(1, 2)
    edges = edges & ~np.eye(NUM_NODES, dtype=bool)
    mass = rng.choice(masses, shape)[..., None]
    where = rng.normal(size=(*shape, 2))
    speed = 0.5 * rng.normal(size=(*shape, 2))
    if start is not None:
        where, speed = start[..., :2], start[..., 2:]
    step = _INTERVAL / 100

    def pull(where):
        towards = where[:, None] - where[:, :, None]
        return strength * np.einsum("trs,trsc->trc", edges, towards) / mass

    frames = []
    # A step ends where the next one begins: one evaluation of the springs each.
    pulled = pull(where)
    for _ in range(num_frames):
        frames.append(np.concatenate([where, speed], axis=-1))
        for _ in range(100):
            speed = speed + 0.5 * step * (pulled - friction * speed)
            where = where + step * speed
            pulled = pull(where)
            speed = speed + 0.5 * step * (pulled - friction * speed)
        speed = speed + kicks * rng.normal(size=speed.shape)
    return TrajectoryDataset(
        states=np.stack(frames, axis=1),
        features=_BODIES,
        frame_interval=_INTERVAL,
        edges=edges.astype(np.int32),
        num_relations=2,
    )


def _series(seed: int, lag: int) -> TrajectoryDataset:
    """Linear series whose couplings act after some frames, one graph for all."""
    rng = np.random.default_rng(seed)
    num_nodes, num_frames = 8, 150
    edges = (rng.random((num_nodes, num_nodes)) < 0.2) & ~np.eye(num_nodes, dtype=bool)
    states = rng.normal(size=(20, num_frames, num_nodes))
    for frame in range(lag, num_frames):
        past = states[:, frame - lag] @ (0.4 * edges.T)
        states[:, frame] += 0.4 * states[:, frame - 1] + past
    labels = np.broadcast_to(edges.astype(np.int32), (20, num_nodes, num_nodes))
    return as_dataset(states[..., None], labels=labels)


def _noisy(dataset: TrajectoryDataset, level: float, seed: int) -> TrajectoryDataset:
    noise = level * np.random.default_rng(seed).normal(size=dataset.states.shape)
    return dataclasses.replace(dataset, states=dataset.states + noise)


def _positions(dataset: TrajectoryDataset) -> TrajectoryDataset:
    return as_dataset(
        dataset.states[..., :2],
        labels=dataset.edges,
        positions=(0, 1),
        frame_interval=dataset.frame_interval,
    )


def _missing(dataset: TrajectoryDataset, share: float, seed: int) -> TrajectoryDataset:
    seen = np.random.default_rng(seed).random(dataset.states.shape[:3]) >= share
    return dataclasses.replace(dataset, frame_mask=seen)


def _irregular(dataset: TrajectoryDataset, seed: int) -> TrajectoryDataset:
    """Half of the frames, at their times."""
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(dataset.num_frames)[: dataset.num_frames // 2])
    return dataclasses.replace(
        dataset, states=dataset.states[:, kept], times=_INTERVAL * kept
    )


def _unlinked(dataset: TrajectoryDataset, states: np.ndarray) -> TrajectoryDataset:
    """Other motion of entities that do not act on each other."""
    edges = np.where(dataset.edges >= 0, 0, -1)
    return dataclasses.replace(dataset, states=states, edges=edges, num_relations=1)


def _free(dataset: TrajectoryDataset) -> TrajectoryDataset:
    return _unlinked(dataset, dataset.states)


def _walks(seed: int, is_noise: bool) -> TrajectoryDataset:
    steps = np.random.default_rng(seed).normal(size=(NUM_SYSTEMS, 50, NUM_NODES, 2))
    states = steps if is_noise else np.cumsum(steps, axis=1)
    labels = np.zeros((NUM_SYSTEMS, NUM_NODES, NUM_NODES), np.int32)
    return as_dataset(states, labels=labels)


def _oscillators(seed: int, with_frequency: bool) -> TrajectoryDataset:
    dataset = data.simulate_kuramoto(seed, 100)
    if with_frequency:
        return dataset
    features = FeatureSpec(dataset.features.names[:2], sines=(0,), cosines=(1,))
    return dataclasses.replace(
        dataset, states=dataset.states[..., :2], features=features
    )


def _changing(seed: int, bounds: tuple[tuple[int, int], ...]) -> Situation:
    """Springs that are drawn anew at some frame between every two bounds."""
    rng = np.random.default_rng(seed)
    num_frames = bounds[-1][1] + bounds[0][0]
    dataset = bodies(seed, num_frames=num_frames)
    systems, row = np.arange(dataset.num_tasks), np.arange(num_frames)
    states, frames, edges = dataset.states, [], []
    for index, (low, high) in enumerate(bounds):
        frame = rng.integers(low, high, dataset.num_tasks)
        later = bodies(
            seed + 10_000 * (index + 1),
            num_frames=num_frames,
            start=states[systems, frame],
        )
        since = row - frame[:, None]
        following = later.states[systems[:, None], np.maximum(since, 0)]
        states = np.where((since >= 0)[..., None, None], following, states)
        frames.append(frame)
        edges.append(later.edges)
    dataset = dataclasses.replace(dataset, states=states)
    change = Change(np.stack(frames, axis=1), np.stack(edges, axis=1))
    return Situation(dataset, 2, {"changing": True}, change)


_Make = Callable[[int], Situation]


def _of(make: Callable[[int], TrajectoryDataset], count: int, **options: Any) -> _Make:
    return lambda seed: Situation(make(seed), count, options)


SITUATIONS: dict[str, _Make] = {
    "springs": _of(bodies, 2),
    "directed springs": _of(lambda s: bodies(s, directed=True), 2),
    "springs with friction": _of(lambda s: bodies(s, friction=0.3), 2),
    "springs with noise .01": _of(lambda s: _noisy(bodies(s), 0.01, s), 2),
    "springs with noise .05": _of(lambda s: _noisy(bodies(s), 0.05, s), 2),
    "springs with noise .1": _of(lambda s: _noisy(bodies(s), 0.1, s), 2),
    "positions alone": _of(lambda s: _positions(bodies(s)), 2),
    "a tenth missing": _of(lambda s: _missing(bodies(s), 0.1, s), 2),
    "a quarter missing": _of(lambda s: _missing(bodies(s), 0.25, s), 2),
    "half missing": _of(lambda s: _missing(bodies(s), 0.5, s), 2),
    "irregular times": _of(lambda s: _irregular(bodies(s), s), 2),
    "unknown masses": _of(lambda s: bodies(s, masses=(0.5, 1, 2, 4)), 2),
    "three systems": _of(lambda s: bodies(s, num_systems=3), 2),
    "one long recording": _of(
        lambda s: bodies(s, num_systems=1, num_frames=1000, probability=0.3), 2
    ),
    "springs of four strengths": _of(
        lambda s: data.simulate_springs(s, 100, strengths=(0.0, 0.5, 1.0, 2.0)),
        4,
        num_relations="auto",
    ),
    "charges": _of(lambda s: data.simulate_charged(s, 100), 2),
    "oscillators": _of(lambda s: _oscillators(s, True), 2),
    "unknown frequencies": _of(lambda s: _oscillators(s, False), 2),
    "series of lag 1": _of(lambda s: _series(s, 1), 2, shared_graph=True),
    "series of lag 2": _of(lambda s: _series(s, 2), 2, shared_graph=True),
    "series of lag 2 one by one": _of(lambda s: _series(s, 2), 2),
    "springs that change": lambda s: _changing(s, ((20, 40),)),
    "springs that change thrice": lambda s: _changing(
        s, ((20, 40), (50, 70), (80, 100))
    ),
    "one spring everywhere": _of(lambda s: bodies(s, probability=1.0), 1),
    "free motion with kicks": _of(
        lambda s: _free(bodies(s, probability=0.0, kicks=0.05)), 0
    ),
    "friction alone": _of(lambda s: _free(bodies(s, probability=0.0, friction=0.5)), 0),
    "random walks": _of(lambda s: _walks(s, False), 0),
    "white noise": _of(lambda s: _walks(s, True), 0),
}
