"""Relations that change in time: stretches of a recording with a graph each.

Graphs are found in short windows; of those of a recording, one is chosen for every
frame, so that the errors of the model are small and changes are few (the shortest
path through frames and graphs, as in Viterbi's algorithm). Labels never get here.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.segments import cut
from modmeta.relational.data.validation import MINIMUM_FRAMES, pair_mask
from modmeta.relational.evaluation.changes import ChangeModel
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.verdict.conclusions import Verdict

# A window is a quarter of a recording, not shorter than this: most windows then lie
# between two changes.
_PART, _SHORTEST, _LONGEST = 4, 10, 50
# Most that one frame may say for or against a graph, in nats: a close encounter must
# not make a stretch of its own.
_MOST_PER_FRAME = 5.0
# Degrees of freedom of the errors of single numbers.
_FREEDOM = 4.0
# The graph of a window fits the chance in it, so that a change must gain more than it
# takes to write the graph down.
_CAUTION = 2.0
_TINY = 1e-12


class Stretches(NamedTuple):
    """Stretches of all recordings, one after another in time.

    Attributes:
      tasks: `[stretches]` the recording of every stretch.
      starts: `[stretches]` its first frame.
      stops: `[stretches]` the frame after its last.
    """

    tasks: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def of(self, dataset: TrajectoryDataset) -> TrajectoryDataset:
        """The stretches as tasks: frames outside of them count as not observed."""
        part = dataset.without_labels().take(self.tasks)
        frames = np.arange(dataset.num_frames)
        inside = (frames >= self.starts[:, None]) & (frames < self.stops[:, None])
        if inside.all():
            return part
        return part.seen(inside)

    def names(self, dataset: TrajectoryDataset) -> list[Any]:
        """The recording of every stretch of `of`, by name or number."""
        return list(dataset.system_names or self.tasks.tolist())

    def columns(self, num_nodes: int) -> dict[str, np.ndarray]:
        """`start` and `stop` of every edge, `[tasks, nodes, nodes]` each."""
        shape = (len(self.tasks), num_nodes, num_nodes)
        return {
            name: np.broadcast_to(frames[:, None, None], shape)
            for name, frames in (("start", self.starts), ("stop", self.stops))
        }

    def add_to(self, verdict: Verdict) -> Verdict:
        """Says in a verdict how often relations change."""
        counts = np.bincount(self.tasks)
        changing = int(np.sum(counts > 1))
        text = f"relations change within {changing} of {len(counts)} recordings"
        return verdict._replace(
            num_segments=int(np.ceil(np.median(counts))),
            sentence=f"{verdict.sentence[:-1]}; {text}.",
        )


def check_changing(num_frames: int, shared_graph: bool) -> None:
    """Refuses recordings of so many frames in which no change could be found.

    Raises:
      ValueError: If they share one graph, or are too short for two windows.
    """
    if shared_graph:
        raise ValueError(
            "changing: found True with shared_graph=True, expected one of the two: a "
            "graph that all recordings share does not change"
        )
    if num_frames < 2 * _SHORTEST:
        raise ValueError(
            f"changing: found True with {num_frames} frames, expected at least "
            f"{2 * _SHORTEST} for relations that change"
        )


def window_length(num_frames: int, span: int = 1) -> int:
    """Frames of the windows that graphs are first looked for in."""
    longest = min(_LONGEST, num_frames)
    return int(min(max(num_frames // _PART, _shortest(span)), longest))


def _shortest(span: int) -> int:
    """Frames that a window needs at least."""
    return max(_SHORTEST, 2 * span + MINIMUM_FRAMES)


def find_stretches(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    config: InferenceConfig,
) -> Stretches:
    """Finds when relations change.

    Args:
      rng_key: Consumed by the searches.
      model: The model, trained on windows.
      params: Its arrays.
      dataset: The recordings, raw units; labels are not looked at.
      config: How relations are searched.

    Returns:
      At least one stretch per recording.
    """
    dataset = dataset.without_labels()
    key_windows, key_short, key_stretches = jax.random.split(rng_key, 3)
    span = model.bank.config.span
    length = window_length(dataset.num_frames, span)
    whole = ChangeModel(model, params, dataset)

    def search(key, parts, tasks):
        found = infer_dataset(key, model, params, parts, config)
        graphs = jax.tree.map(np.asarray, found.structures)
        graphs = graphs._replace(edge_modules=np.maximum(graphs.edge_modules, 0))
        own = ChangeModel(model, params, parts)(graphs).effects
        lengths = parts.counted(span).sum(axis=1)
        return graphs, _of_recordings(own, tasks, lengths, dataset.num_tasks)

    windows, tasks = cut(dataset, length)
    graphs, effects = search(key_windows, windows, tasks)
    if length // 2 >= _shortest(span):
        # Some of these lie within stretches that no longer window lies within.
        with contextlib.suppress(DataError):  # a node that one sees too rarely
            windows, others = cut(dataset, length // 2)
            graphs = _joined(graphs, search(key_short, windows, others)[0])
            tasks = np.concatenate([tasks, others])
    stretches = _choose(whole, dataset, graphs, effects, tasks, span)
    if len(stretches.tasks) == dataset.num_tasks:
        return stretches
    # Again with the graphs of whole stretches, which windows across a change blurred.
    try:
        longer, effects = search(key_stretches, stretches.of(dataset), stretches.tasks)
    except DataError:  # a node that a stretch sees too rarely
        return stretches
    # A stretch may hide a change, too, which windows see.
    tasks = np.concatenate([tasks, stretches.tasks])
    return _choose(whole, dataset, _joined(graphs, longer), effects, tasks, span)


def _joined(graphs: TaskStructures, others: TaskStructures) -> TaskStructures:
    """Graphs of some parts, then those of others."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), graphs, others)


def _of_recordings(
    own: Effects | None, tasks: np.ndarray, lengths: np.ndarray, num_tasks: int
) -> Effects | None:
    """What nodes have of their own in a recording, from what parts of it say.

    It stays when relations change. Fitted to all frames under a graph that holds in
    some, it would be wrong in all; fitted to each part, it would speak for changes that
    are none. So it is the median of the parts, by their lengths: parts across a change
    are the fewer.

    Args:
      own: Leaves `[parts, nodes, ...]`; None where all nodes are alike.
      tasks: `[parts]` the recording of each.
      lengths: `[parts, nodes]` changes that were observed.
      num_tasks: Recordings.

    Returns:
      Leaves `[num_tasks, nodes, ...]`.
    """
    if own is None:
        return None

    def median(leaf):
        found = []
        for task in range(num_tasks):
            mine = tasks == task
            values, weights = np.asarray(leaf)[mine], lengths[mine]
            weights = weights.reshape(*weights.shape, *(1,) * (values.ndim - 2))
            order = np.argsort(values, axis=0)
            values = np.take_along_axis(values, order, axis=0)
            weights = np.take_along_axis(
                np.broadcast_to(weights, values.shape), order, axis=0
            )
            reached = np.cumsum(weights, axis=0) >= 0.5 * weights.sum(axis=0)
            middle = reached.argmax(axis=0)[None]
            found.append(np.take_along_axis(values, middle, axis=0)[0])
        return np.stack(found)

    return jax.tree.map(median, own)


def _choose(
    changes: ChangeModel,
    dataset: TrajectoryDataset,
    graphs: TaskStructures,
    effects: Effects | None,
    tasks: np.ndarray,
    span: int,
) -> Stretches:
    """Stretches of least cost under the graphs `[graphs, ...]` of some tasks."""
    order = [np.flatnonzero(tasks == task) for task in range(dataset.num_tasks)]
    count = max(map(len, order))
    # Fewer graphs than others have: the last one again.
    rows = np.stack([np.resize(row[:count], count) for row in order])
    errors, scales = [], []
    for column in rows.T:
        structures = TaskStructures(*(leaf[column] for leaf in graphs))
        found = changes(structures, effects=effects)
        errors.append(np.square(found.expected - found.observed, dtype=np.float64))
        scales.append(np.square(found.scale, dtype=np.float64))
    counted = np.swapaxes(dataset.counted(span), 1, 2)
    costs = _costs(np.stack(errors, axis=1), np.stack(scales, axis=1), counted, span)
    pairs = pair_mask(dataset.node_mask).sum(axis=(1, 2))
    num_relations = int(graphs.edge_modules.max(initial=1)) + 1
    # What it takes to write down another graph, and when.
    penalties = pairs * np.log(max(num_relations, 2)) + np.log(dataset.num_frames)
    penalties = _CAUTION * penalties
    paths = shortest_paths(costs, penalties)
    tasks, starts, stops = [], [], []
    for task, path in enumerate(paths):
        # Changes over long windows turn when their middle passes.
        bounds = np.flatnonzero(np.diff(rows[task][path])) + 1 + span // 2
        bounds = [0, *bounds.tolist(), dataset.num_frames]
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            tasks.append(task)
            starts.append(start)
            stops.append(stop)
    return Stretches(np.array(tasks), np.array(starts), np.array(stops))


def _costs(
    errors: np.ndarray, scales: np.ndarray, counted: np.ndarray, span: int
) -> np.ndarray:
    """Costs of graphs at frames, `[tasks, graphs, W]` nats above the best graph.

    Args:
      errors: Squares `[tasks, graphs, nodes, W, Y]`, and
      scales: squares that the model expects, up to a factor of every recording.
      counted: `[tasks, nodes, W]` what was observed.
      span: Frame intervals of a window: those that overlap share what they tell.
    """
    is_counted = np.broadcast_to(counted[..., None], errors[:, 0].shape)
    best = np.where(is_counted, np.min(errors / scales, axis=1), np.nan)
    factor = np.nan_to_num(np.nanmedian(best, axis=(1, 2, 3)))
    scales = scales * np.maximum(factor, _TINY)[:, None, None, None, None]
    nats = 0.5 * (_FREEDOM + 1.0) * np.log1p(errors / (_FREEDOM * scales))
    nats += 0.5 * np.log(scales)
    nats = np.sum(nats, axis=(2, 4), where=is_counted[:, None]) / span
    return np.minimum(nats - nats.min(axis=1, keepdims=True), _MOST_PER_FRAME)


def shortest_paths(costs: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Graphs of every frame for which costs and penalties of changes are least.

    Args:
      costs: `[tasks, graphs, frames]`.
      penalties: `[tasks]` of a change.

    Returns:
      `[tasks, frames]` indices of graphs.
    """
    num_tasks, num_graphs, num_frames = costs.shape
    rows = np.arange(num_tasks)
    total = costs[:, :, 0]
    came_from = np.zeros((num_frames, num_tasks, num_graphs), int)
    stay = np.broadcast_to(np.arange(num_graphs), (num_tasks, num_graphs))
    for frame in range(1, num_frames):
        best = total.argmin(axis=1)
        change = (total[rows, best] + penalties)[:, None]
        is_change = change < total
        came_from[frame] = np.where(is_change, best[:, None], stay)
        total = np.where(is_change, change, total) + costs[:, :, frame]
    path = np.empty((num_tasks, num_frames), int)
    path[:, -1] = total.argmin(axis=1)
    for frame in range(num_frames - 1, 0, -1):
        path[:, frame - 1] = came_from[frame, rows, path[:, frame]]
    return path
