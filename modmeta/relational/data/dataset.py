"""The container for trajectories of interacting bodies that every task comes from.

Layout, the same everywhere in this package: states are `[tasks, time, nodes,
features]`; an edge matrix is `[tasks, receivers, senders]`, so `edges[t, i, j]` says
how node `j` acts on node `i` in task `t`. Systems of different size share arrays by
padding: real nodes come first, padded nodes are zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modmeta.relational.data import (
    circles,
    gaps,
    intervals,
    names,
    selections,
    validation,
)
from modmeta.relational.data.validation import DataError as DataError
from modmeta.relational.data.validation import FeatureSpec as FeatureSpec

NO_EDGE = -1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrajectoryDataset:
    """Trajectories, one system of interacting nodes per task, on the host.

    The constructor takes anything `np.asarray` takes, checks it, stores the dtypes
    below, and writes the padding values (zero states, -1 edges).

    Attributes:
      states: `[tasks, time, nodes, features]`, float32, finite: `gaps.fill` says what
        stands where nothing was observed.
      features: What the feature columns are.
      frame_interval: Time between two frames, in the time units of the velocities.
        None in the constructor means the median step of `times`, or 1 without times.
      node_mask: `[tasks, nodes]`, bool, true at real nodes, which come first in
        every task. None in the constructor means that all nodes are real.
      edges: `[tasks, nodes, nodes]`, int32, or None without labels. Row = receiver,
        column = sender, -1 on the diagonal and at padded nodes (whatever the
        constructor is given there).
      num_relations: Number of relation types K; labels are 0 to K - 1. None in the
        constructor means one more than the largest label; it stays None without
        labels.
      frame_mask: `[tasks, time, nodes]`, bool, true where a node was observed, false at
        padded nodes; None if every real node was observed at every frame. In the
        constructor, NaN and entries of a masked array count as not observed besides.
      times: `[tasks, time]`, float64, strictly increasing, in the time units of the
        velocities; None if frames are `frame_interval` apart. The constructor takes
        `[time]` for all tasks alike.
      breaks: `[tasks, time]`, bool, true at a frame that does not follow from the one
        before it: recordings of one system laid end to end. None without any.
      system_names: One name per task; None for their numbers.
      node_names: The names of the real nodes of every task; None for their numbers.
      key_columns: What columns of a table the systems, times and entities were read
        from, by key; None where there were none.
      notes: What was done to the data, one sentence each.

    Raises:
      DataError: If the arrays have a wrong rank, dtype or disagree in size, hold
        infinity at an observed node, have fewer than 3 frames, times that do not
        increase, labels out of range, or sines and cosines that are not of angles. The
        message names the array, the index of the first offence, what was found and
        what was expected.
    """

    states: np.ndarray
    features: FeatureSpec
    frame_interval: float | None = None
    node_mask: np.ndarray | None = None
    edges: np.ndarray | None = None
    num_relations: int | None = None
    frame_mask: np.ndarray | None = None
    times: np.ndarray | None = None
    breaks: np.ndarray | None = None
    system_names: tuple[str, ...] | None = None
    node_names: tuple[tuple[str, ...], ...] | None = None
    key_columns: dict[str, str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the arrays and brings them into the documented form."""
        states, missing = gaps.read_entries(self.states)
        validation.check_states(states)
        num_tasks, _, num_nodes, num_features = states.shape
        if num_features != self.features.num_features:
            raise DataError(
                f"states: found {num_features} features (axis 3 of shape "
                f"{states.shape}), expected {self.features.num_features} for the "
                f"names {self.features.names}"
            )
        times = validation.read_times(self.times, states.shape[:2])
        interval = self.frame_interval
        if interval is None:
            has_steps = times is not None and times.size
            interval = np.median(np.diff(times, axis=1)) if has_steps else 1.0
        interval = intervals.read_interval(interval)
        breaks = validation.read_breaks(self.breaks, states.shape[:2])
        node_mask = self.node_mask
        if node_mask is None:
            node_mask = np.ones((num_tasks, num_nodes), dtype=bool)
        node_mask = np.asarray(node_mask)
        validation.check_node_mask(node_mask, num_tasks, num_nodes)
        frame_mask = validation.read_frame_mask(
            self.frame_mask, missing, node_mask, states.shape[:3]
        )
        if not node_mask.all():
            states = np.where(node_mask[:, None, :, None], states, 0)
        if frame_mask is not None:
            is_seen = frame_mask | ~node_mask[:, None]
            # Refused where it was observed, of no interest elsewhere.
            validation.check_finite(np.where(is_seen[..., None], states, 0))
            clock = times
            if clock is None:
                clock = interval * np.arange(states.shape[1], dtype=np.float64)
                clock = np.broadcast_to(clock, states.shape[:2])
            states = gaps.fill(states, is_seen, self.features, clock, breaks)
        validation.check_finite(states)
        with np.errstate(over="ignore"):
            single = states.astype(np.float32, copy=False)
        validation.check_finite(single, "states as float32")
        circles.check_angles(single, node_mask, self.features)

        num_relations = self.num_relations
        if num_relations is not None and num_relations < 1:
            raise DataError(
                f"num_relations: found {num_relations}, expected at least 1"
            )
        edges = self.edges
        if edges is not None:
            edges = np.asarray(edges)
            validation.check_edges(edges, node_mask, num_relations)
            pairs = validation.pair_mask(node_mask)
            # Unsigned labels have no -1.
            edges = np.where(pairs, edges, 0).astype(np.int32)
            edges[~pairs] = NO_EDGE
            if num_relations is None:
                num_relations = max(int(edges.max(initial=0)), 0) + 1
        normal_form = {
            "states": single,
            "frame_interval": interval,
            "node_mask": node_mask,
            "edges": edges,
            "num_relations": num_relations,
            "frame_mask": frame_mask,
            "times": times,
            "breaks": breaks,
            "system_names": names.read_system_names(self.system_names, num_tasks),
            "node_names": names.read_node_names(self.node_names, node_mask),
            "notes": tuple(self.notes),
        }
        for name, value in normal_form.items():
            object.__setattr__(self, name, value)

    @property
    def num_tasks(self) -> int:
        """Number of tasks (trajectories)."""
        return self.states.shape[0]

    @property
    def num_frames(self) -> int:
        """Number of frames of every trajectory."""
        return self.states.shape[1]

    @property
    def max_nodes(self) -> int:
        """Size of the node axis, padding included."""
        return self.states.shape[2]

    @property
    def num_nodes(self) -> np.ndarray:
        """Number of real nodes of each task, `[tasks]`, int32."""
        return self.node_mask.sum(axis=1, dtype=np.int32)

    @property
    def is_padded(self) -> bool:
        """Whether some task has fewer nodes than the node axis."""
        return not bool(self.node_mask.all())

    @property
    def is_observed(self) -> np.ndarray:
        """Whether a real node was observed, `[tasks, time, nodes]`, bool."""
        if self.frame_mask is not None:
            return self.frame_mask
        shape = self.states.shape[:3]
        return np.broadcast_to(self.node_mask[:, None], shape)

    @property
    def is_present(self) -> np.ndarray:
        """Whether a node is there, `[tasks, time, nodes]`, see `gaps.presence`."""
        if self.frame_mask is None:
            return self.is_observed
        return gaps.presence(self.frame_mask, self.breaks)

    @property
    def is_regular(self) -> bool:
        """Whether all frames are `frame_interval` apart, up to rounding."""
        if self.times is None:
            return True
        steps = np.diff(self.times, axis=1) / self.frame_interval
        if self.breaks is not None:
            steps = steps[~self.breaks[:, 1:]]
        return bool(np.all(np.abs(steps - 1.0) < 1e-4))

    @property
    def clock(self) -> np.ndarray:
        """Times of the frames in frame intervals since the first, `[tasks, time]`."""
        if self.times is None or self.is_regular:
            count = np.arange(self.num_frames, dtype=np.float64)
            return np.broadcast_to(count, self.states.shape[:2])
        return (self.times - self.times[:, :1]) / self.frame_interval

    def counted(self, span: int = 1) -> np.ndarray:
        """Which changes over `span` intervals were observed.

        Both ends of such a window were, and no break lies in between.

        Returns:
          `[tasks, time - span, nodes]`, bool.
        """
        seen = self.is_observed
        counted = seen[:, :-span] & seen[:, span:]
        if self.breaks is not None:
            number = np.cumsum(self.breaks, axis=1)
            counted &= (number[:, :-span] == number[:, span:])[..., None]
        return counted

    def durations(self, span: int = 1) -> np.ndarray:
        """How long changes over `span` intervals took, `[tasks, time - span]`.

        In frame intervals.
        """
        clock = self.clock
        return clock[:, span:] - clock[:, :-span]

    def check_pairs(self) -> None:
        """Raises a DataError if there is nothing that a relation could explain."""
        if not self.num_tasks:
            return
        if self.num_nodes.max() < 2:
            raise DataError(
                "states: found one node in every task, expected at least two in one: "
                "a relation takes a pair"
            )
        if not self.counted().any():
            raise DataError(
                "states: found no two frames in a row that saw the same node, without "
                "a break between them, expected some: relations explain changes"
            )

    def __repr__(self) -> str:
        """Sizes and features, not the arrays."""
        sizes = np.unique(self.num_nodes).tolist() or [0]
        nodes = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        return (
            f"TrajectoryDataset({self.num_tasks} tasks, {self.num_frames} frames, "
            f"{nodes} nodes, features {', '.join(self.features.names)})"
        )

    def __len__(self) -> int:
        """Returns the number of tasks."""
        return self.num_tasks

    def take(self, indices: npt.ArrayLike | slice) -> TrajectoryDataset:
        """Selects tasks by integer indices, a boolean mask `[tasks]` or a slice.

        Raises:
          DataError: If there is no such task, or they are no indices.
        """
        indices = selections.read_tasks(indices, self.num_tasks)
        arrays = ("states", "node_mask", "edges", "frame_mask", "times", "breaks")
        rows = np.arange(self.num_tasks)[indices]
        return self._part(arrays, indices, **self.names_of(rows))

    def names_of(self, tasks: npt.ArrayLike) -> dict[str, Any]:
        """`system_names` and `node_names` of some tasks."""
        found = {"system_names": self.system_names, "node_names": self.node_names}
        return {
            name: None if values is None else tuple(values[task] for task in tasks)
            for name, values in found.items()
        }

    def frames(self, start: int, stop: int) -> TrajectoryDataset:
        """Selects the frames `start` to `stop` - 1.

        Raises:
          DataError: If the range leaves the trajectory or holds fewer than 3 frames.
        """
        start = selections.read_count("frames", start)
        stop = selections.read_count("frames", stop)
        if not 0 <= start < stop <= self.num_frames:
            raise DataError(
                f"frames: found the range {start} to {stop}, expected 0 <= start < "
                f"stop <= {self.num_frames}"
            )
        arrays = ("states", "frame_mask", "times", "breaks")
        return self._part(arrays, (slice(None), slice(start, stop)))

    def seen(self, frames: np.ndarray) -> TrajectoryDataset:
        """The same where only some frames `[tasks, time]` count as observed."""
        mask = self.is_observed & frames[..., None]
        return dataclasses.replace(self, frame_mask=mask)

    def _part(
        self, names: Sequence[str], where: Any, **others: Any
    ) -> TrajectoryDataset:
        """The same with a part of the named arrays, of those that there are."""
        arrays = {name: getattr(self, name) for name in names}
        parts = {
            name: None if array is None else array[where]
            for name, array in arrays.items()
        }
        return dataclasses.replace(self, **parts, **others)

    def with_notes(self, notes: Sequence[str]) -> TrajectoryDataset:
        """The same with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def without_labels(self) -> TrajectoryDataset:
        """Drops the edges; `num_relations` stays, as an assumption of the model."""
        return dataclasses.replace(self, edges=None)

    def split(
        self, sizes: Sequence[int], *, seed: int | None = None
    ) -> tuple[TrajectoryDataset, ...]:
        """Cuts the tasks into disjoint parts.

        Args:
          sizes: Number of tasks of each part; tasks beyond their sum are left out.
          seed: Shuffles the tasks first (NumPy `default_rng`); None keeps the order.

        Returns:
          One data set per entry of `sizes`; the same seed gives the same parts.

        Raises:
          DataError: If a size is negative or the sum exceeds the number of tasks.
          ValueError: If the seed is no whole number from 0 on.
        """
        sizes = selections.read_sizes(sizes, self.num_tasks)
        order = selections.order_of(self.num_tasks, seed)
        bounds = np.cumsum(sizes, dtype=np.int64)
        parts = np.split(order, bounds)[: len(sizes)]
        return tuple(self.take(part) for part in parts)


def check_dataset(dataset: Any) -> TrajectoryDataset:
    """The data set; a DataError says how to make one of anything else."""
    if not isinstance(dataset, TrajectoryDataset):
        raise DataError(
            f"dataset: found a {type(dataset).__name__}, expected a TrajectoryDataset, "
            "which as_dataset makes of it"
        )
    return dataset


def validate(dataset: TrajectoryDataset) -> TrajectoryDataset:
    """Checks a whole data set, and notes what is particular about it.

    The constructor makes all other checks. These are apart because a few tasks or
    frames of a sound data set may well hold a feature that does not vary among them, or
    miss a node.

    Returns:
      The data set, with notes on what is missing and what is constant.

    Raises:
      DataError: See `TrajectoryDataset`; also if a node was observed at fewer than 3
        frames, or if nothing varies at all.
    """
    dataset = dataclasses.replace(dataset)
    validation.check_observed(dataset.is_observed, dataset.node_mask)
    notes = list(dataset.notes)
    if dataset.frame_mask is not None:
        seen = dataset.frame_mask.any(axis=2)
        lengths = dataset.num_frames - np.argmax(seen[:, ::-1], axis=1)
        if len(lengths) and lengths.min() < lengths.max():
            notes.append(f"Tasks have {lengths.min()} to {lengths.max()} frames.")
        total = int(np.sum(dataset.num_nodes * lengths))
        missing = total - int(dataset.frame_mask.sum())
        if missing:
            verb, end = ("is", "it does") if missing == 1 else ("are", "they do")
            notes.append(
                f"{missing:,} of {total:,} entries (a node at a frame) {verb} missing: "
                f"{end} not count."
            )
    notes += validation.constant_columns(
        dataset.states, dataset.is_observed, dataset.features
    )
    # Validated twice, a sentence stands once.
    return dataclasses.replace(dataset, notes=tuple(dict.fromkeys(notes)))
