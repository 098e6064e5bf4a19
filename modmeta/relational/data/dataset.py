"""The container for trajectories of interacting bodies that every task comes from.

Layout, the same everywhere in this package: states are `[tasks, time, nodes,
features]`; an edge matrix is `[tasks, receivers, senders]`, so `edges[t, i, j]` says
how node `j` acts on node `i` in task `t`. Systems of different size share arrays by
padding: real nodes come first, padded nodes are zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modmeta.relational.data import validation
from modmeta.relational.data.validation import DataError as DataError
from modmeta.relational.data.validation import FeatureSpec as FeatureSpec

NO_EDGE = -1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrajectoryDataset:
    """Trajectories, one system of interacting nodes per task, on the host.

    The constructor takes anything `np.asarray` takes, checks it, stores the dtypes
    below, and writes the padding values (zero states, -1 edges).

    Attributes:
      states: `[tasks, time, nodes, features]`, float32.
      features: What the feature columns are.
      frame_interval: Time between two frames, in the time units of the velocities.
      node_mask: `[tasks, nodes]`, bool, true at real nodes, which come first in
        every task. None in the constructor means that all nodes are real.
      edges: `[tasks, nodes, nodes]`, int32, or None without labels. Row = receiver,
        column = sender, -1 on the diagonal and at padded nodes (whatever the
        constructor is given there).
      num_relations: Number of relation types K; labels are 0 to K - 1. None in the
        constructor means one more than the largest label; it stays None without
        labels.

    Raises:
      DataError: If the arrays have a wrong rank, dtype or disagree in size, hold NaN
        or infinity at a real node, have fewer than 3 frames, hold labels out of range,
        or sines and cosines that are not of angles. The message names the array, the
        index of the first offence, what was found and what was expected.
    """

    states: np.ndarray
    features: FeatureSpec
    frame_interval: float
    node_mask: np.ndarray | None = None
    edges: np.ndarray | None = None
    num_relations: int | None = None

    def __post_init__(self) -> None:
        """Checks the arrays and brings them into the documented form."""
        states = np.asarray(self.states)
        validation.check_states(states)
        num_tasks, _, num_nodes, num_features = states.shape
        if num_features != self.features.num_features:
            raise DataError(
                f"states: found {num_features} features (axis 3 of shape "
                f"{states.shape}), expected {self.features.num_features} for the "
                f"names {self.features.names}"
            )
        interval = float(self.frame_interval)
        if not (np.isfinite(interval) and interval > 0.0):
            raise DataError(
                f"frame_interval: found {interval}, expected a positive number"
            )
        node_mask = self.node_mask
        if node_mask is None:
            node_mask = np.ones((num_tasks, num_nodes), dtype=bool)
        node_mask = np.asarray(node_mask)
        validation.check_node_mask(node_mask, num_tasks, num_nodes)
        if not node_mask.all():
            states = np.where(node_mask[:, None, :, None], states, 0)
        validation.check_finite(states)
        with np.errstate(over="ignore"):
            single = states.astype(np.float32, copy=False)
        validation.check_finite(single, "states as float32")
        validation.check_angles(single, node_mask, self.features)

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
            edges = np.where(pairs, edges, NO_EDGE).astype(np.int32)
            if num_relations is None:
                num_relations = max(int(edges.max(initial=0)), 0) + 1
        normal_form = {
            "states": single,
            "frame_interval": interval,
            "node_mask": node_mask,
            "edges": edges,
            "num_relations": num_relations,
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

    def __len__(self) -> int:
        """Returns the number of tasks."""
        return self.num_tasks

    def take(self, indices: npt.ArrayLike | slice) -> TrajectoryDataset:
        """Selects tasks by integer indices, a boolean mask `[tasks]` or a slice."""
        if not isinstance(indices, slice):
            indices = np.asarray(indices)
            if indices.size == 0:
                indices = indices.astype(np.int64)
        return dataclasses.replace(
            self,
            states=self.states[indices],
            node_mask=self.node_mask[indices],
            edges=None if self.edges is None else self.edges[indices],
        )

    def frames(self, start: int, stop: int) -> TrajectoryDataset:
        """Selects the frames `start` to `stop` - 1.

        Raises:
          DataError: If the range leaves the trajectory or holds fewer than 3 frames.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise DataError(
                f"frames: found the range {start} to {stop}, expected 0 <= start < "
                f"stop <= {self.num_frames}"
            )
        return dataclasses.replace(self, states=self.states[:, start:stop])

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
        """
        if min(sizes, default=0) < 0 or sum(sizes) > self.num_tasks:
            raise DataError(
                f"split: found sizes {tuple(sizes)} with sum {sum(sizes)}, expected "
                f"non-negative sizes with a sum of at most {self.num_tasks} tasks"
            )
        order = np.arange(self.num_tasks)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        bounds = np.cumsum(sizes, dtype=np.int64)
        parts = np.split(order, bounds)[: len(sizes)]
        return tuple(self.take(part) for part in parts)


def validate(dataset: TrajectoryDataset) -> TrajectoryDataset:
    """Checks a whole data set, including that every feature varies.

    The constructor makes all other checks. This one is apart because a few tasks of
    a sound data set may well hold a feature that does not vary among them.

    Returns:
      The data set itself.

    Raises:
      DataError: See `TrajectoryDataset`; also if a feature has the same value at
        every real node, frame and task.
    """
    dataset = dataclasses.replace(dataset)
    validation.check_varying(dataset.states, dataset.node_mask, dataset.features.names)
    return dataset
