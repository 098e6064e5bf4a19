"""Checks on trajectory data; every problem is one `DataError` that says where."""

from __future__ import annotations

import dataclasses

import numpy as np

MINIMUM_FRAMES = 3
ROLES = ("positions", "velocities", "sines", "cosines", "inputs")
_STATE_AXES = "[tasks, time, nodes, features]"


class DataError(ValueError):
    """Data that cannot be used: names the array, the place, the finding, the need."""


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """Names and roles of the feature columns of a data set.

    Attributes:
      names: One distinct name per feature column.
      positions: Columns that hold position coordinates; they share one scale when
        the data are normalised.
      velocities: Columns that hold the velocities of `positions`, in the same
        order. Either both tuples have the same length or one of them is empty.
      sines: Columns that hold the sines of angles (phases, headings, torsions).
      cosines: Columns that hold the cosines of the same angles, in the same order.
      derived: Columns that were not recorded but follow from recorded ones. They come
        after these, are no part of errors, and predictions leave them out.
      wrapped: Angles that were recorded as such: column of the sine, which was that of
        the angle, lowest value, and period, in the unit of the angle.
      periodic: Positions that wrap, here unwrapped: column, lowest value, and period.
      inputs: Columns that are given, not predicted, such as a stimulus.
      lagged: Derived columns, and the column that they hold of the frame before.

    Raises:
      DataError: If names repeat, or a column is out of range or has two roles, or
        roles that belong together disagree in length.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...] = ()
    velocities: tuple[int, ...] = ()
    sines: tuple[int, ...] = ()
    cosines: tuple[int, ...] = ()
    derived: tuple[int, ...] = ()
    wrapped: tuple[tuple[int, float, float], ...] = ()
    lagged: tuple[tuple[int, int], ...] = ()
    periodic: tuple[tuple[int, float, float], ...] = ()
    inputs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Freezes the fields as tuples and checks them."""
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        for role in (*ROLES, "derived"):
            columns = tuple(int(column) for column in getattr(self, role))
            object.__setattr__(self, role, columns)
        for name in ("wrapped", "periodic"):
            given = getattr(self, name)
            rows = tuple((int(c), float(a), float(b)) for c, a, b in given)
            object.__setattr__(self, name, rows)
        if not {c for c, _, _ in self.periodic} <= {*self.positions}:
            raise DataError(f"periodic: found {self.periodic}, expected positions")
        lagged = tuple((int(column), int(source)) for column, source in self.lagged)
        object.__setattr__(self, "lagged", lagged)
        if not self.names:
            raise DataError("feature names: found none, expected at least one")
        if len(set(self.names)) != len(self.names):
            raise DataError(
                f"feature names: found {self.names} that repeat, expected distinct ones"
            )
        columns = sum((getattr(self, role) for role in ROLES), ())
        for column in (*columns, *self.derived):
            if not 0 <= column < len(self.names):
                raise DataError(
                    f"feature columns: found {column}, expected 0 to "
                    f"{len(self.names) - 1} for the features {self.names}"
                )
        if len(set(columns)) != len(columns):
            found = ", ".join(f"{role} {getattr(self, role)}" for role in ROLES)
            raise DataError(
                f"feature columns: found {found}, which overlap, expected one role per "
                "column"
            )
        if self.positions and self.velocities:
            if len(self.positions) != len(self.velocities):
                raise DataError(
                    f"feature columns: found {len(self.positions)} positions and "
                    f"{len(self.velocities)} velocities, expected as many of each, "
                    "or none of one"
                )
        if len(self.sines) != len(self.cosines):
            raise DataError(
                f"feature columns: found {len(self.sines)} sines and "
                f"{len(self.cosines)} cosines, expected both of every angle"
            )

    @property
    def num_features(self) -> int:
        """Number of feature columns."""
        return len(self.names)

    @property
    def recorded(self) -> tuple[int, ...]:
        """Columns that stand for those that were recorded."""
        cosine_of = dict(zip(self.sines, self.cosines, strict=True))
        hidden = {*self.derived, *(cosine_of[c] for c, _, _ in self.wrapped)}
        return tuple(c for c in range(self.num_features) if c not in hidden)

    @property
    def periods(self) -> tuple[float, ...]:
        """Period of every position; 0 for those that do not wrap."""
        found = {column: period for column, _, period in self.periodic}
        return tuple(found.get(column, 0.0) for column in self.positions)

    @property
    def has_motion(self) -> bool:
        """Whether positions and velocities are known."""
        return bool(self.positions) and bool(self.velocities)

    @property
    def angles(self) -> tuple[tuple[int, int], ...]:
        """Columns of the sine and the cosine of every angle."""
        return tuple(zip(self.sines, self.cosines, strict=True))


PARTICLE_FEATURES = FeatureSpec(
    names=("x", "y", "vx", "vy"), positions=(0, 1), velocities=(2, 3)
)


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """Returns the index of the first true entry of a mask that has one."""
    flat = int(np.argmax(mask))
    return tuple(int(i) for i in np.unravel_index(flat, mask.shape))


def check_numeric(name: str, array: np.ndarray) -> None:
    """Raises a DataError unless an array holds booleans, integers or real floats."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: found dtype {array.dtype}, expected real numbers")


def check_states(states: np.ndarray, name: str = "states") -> None:
    """Checks rank, dtype and sizes of a state array, not its values."""
    check_numeric(name, states)
    if states.ndim != 4:
        raise DataError(
            f"{name}: found {states.ndim} axes with shape {states.shape}, expected 4 "
            f"axes {_STATE_AXES}"
        )
    if states.shape[1] < MINIMUM_FRAMES:
        raise DataError(
            f"{name}: found {states.shape[1]} frames (axis 1 of shape "
            f"{states.shape}), expected at least {MINIMUM_FRAMES}"
        )
    if 0 in states.shape[2:]:
        raise DataError(
            f"{name}: found shape {states.shape}, expected at least one node and one "
            f"feature in {_STATE_AXES}"
        )


def check_finite(states: np.ndarray, name: str = "states") -> None:
    """Raises a DataError at the first NaN or infinity."""
    # A float sum is finite unless an entry is not or the sum overflows, and needs no
    # mask of the size of the data; the exact test runs only when it fails.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(states.sum(dtype=np.float64)):
            return
    finite = np.isfinite(states)
    if not finite.all():
        index = first_index(~finite)
        raise DataError(
            f"{name}: found {states[index]} at index {list(index)}, expected finite "
            "numbers"
        )


def check_node_mask(node_mask: np.ndarray, num_tasks: int, num_nodes: int) -> None:
    """Checks a node mask: boolean, `[tasks, nodes]`, real nodes first, at least one."""
    if node_mask.dtype != np.bool_:
        raise DataError(f"node_mask: found dtype {node_mask.dtype}, expected bool")
    if node_mask.shape != (num_tasks, num_nodes):
        raise DataError(
            f"node_mask: found shape {node_mask.shape}, expected "
            f"{(num_tasks, num_nodes)} to agree with the tasks and nodes of states"
        )
    late = node_mask[:, 1:] & ~node_mask[:, :-1]
    if late.any():
        task, node = first_index(late)
        raise DataError(
            f"node_mask: found a real node after a padded one at index "
            f"{[task, node + 1]}, expected the real nodes first"
        )
    empty = ~node_mask.any(axis=1)
    if empty.any():
        raise DataError(
            f"node_mask: found no real node in task {first_index(empty)[0]}, expected "
            "at least one"
        )


def pair_mask(node_mask: np.ndarray) -> np.ndarray:
    """Marks pairs of two different real nodes, `[tasks, nodes, nodes]`."""
    pairs = node_mask[:, :, None] & node_mask[:, None, :]
    return pairs & ~np.eye(node_mask.shape[1], dtype=bool)


def check_edges(
    edges: np.ndarray, node_mask: np.ndarray, num_relations: int | None
) -> None:
    """Checks edge labels between different real nodes; other entries are ignored.

    Args:
      edges: `[tasks, nodes, nodes]`, row = receiver, column = sender.
      node_mask: `[tasks, nodes]`.
      num_relations: Number of relation types, or None if any label is allowed.

    Raises:
      DataError: On a wrong shape or dtype, or a label that is not an integer from 0
        to `num_relations` - 1.
    """
    check_numeric("edges", edges)
    expected = (node_mask.shape[0], node_mask.shape[1], node_mask.shape[1])
    if edges.shape != expected:
        raise DataError(
            f"edges: found shape {edges.shape}, expected {expected} for [tasks, "
            "receivers, senders], to agree with the tasks and nodes of states"
        )
    pairs = pair_mask(node_mask)
    wanted = "an integer from 0" + (
        "" if num_relations is None else f" to {num_relations - 1}"
    )
    if edges.dtype.kind == "f":
        is_whole = np.isfinite(edges) & (edges == np.rint(edges))
        _refuse_labels(edges, pairs & ~is_whole, wanted)
    _refuse_labels(edges, pairs & (edges < 0), wanted)
    if num_relations is not None:
        _refuse_labels(edges, pairs & (edges >= num_relations), wanted)


def constant_columns(
    states: np.ndarray, is_observed: np.ndarray, features: FeatureSpec
) -> list[str]:
    """One sentence per feature that has one value over the whole data set.

    Args:
      states: `[tasks, time, nodes, features]`.
      is_observed: `[tasks, time, nodes]`.
      features: What the columns are.

    Raises:
      DataError: If that is so of all features.
    """
    if not states.shape[0] or not is_observed.any():
        return []
    first = states[first_index(is_observed)]
    varies = np.any((states != first) & is_observed[..., None], axis=(0, 1, 2))
    names = features.names
    if not varies.any():
        raise DataError(
            f"states: found the one value {first[0]} in all of feature 0 "
            f"({names[0]!r}), and no feature that varies, expected at least one"
        )
    notes = []
    for column in np.flatnonzero(~varies):
        if column in features.derived:
            continue
        role = next((r for r in ROLES if column in getattr(features, r)), "attributes")
        notes.append(
            f"Feature {column} ({names[column]!r}) is {first[column]:g} everywhere: it "
            f"is kept among the {role} and not predicted."
        )
    return notes


def check_observed(is_observed: np.ndarray, node_mask: np.ndarray) -> None:
    """Raises a DataError at the first real node that hardly any frame saw."""
    counts = is_observed.sum(axis=1)
    few = (counts < MINIMUM_FRAMES) & node_mask
    if few.any():
        task, node = first_index(few)
        raise DataError(
            f"frame_mask: found node {node} of task {task} observed at "
            f"{counts[task, node]} frames, expected at least {MINIMUM_FRAMES}: leave "
            "it out there, in a table by its rows, of arrays by a list with one per "
            "task"
        )


def read_frame_mask(
    frame_mask: object,
    missing: np.ndarray | None,
    node_mask: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray | None:
    """Joins what is declared observed and what is found missing.

    Args:
      frame_mask: `[tasks, time, nodes]`, bool, or None.
      missing: The same shape, or None.
      node_mask: `[tasks, nodes]`.
      shape: That of the first three axes of the states.

    Returns:
      `[tasks, time, nodes]`, false at padded nodes; None where all is observed.
    """
    is_real = np.broadcast_to(node_mask[:, None], shape)
    is_observed = is_real
    if frame_mask is not None:
        mask = np.asarray(frame_mask)
        if mask.dtype != np.bool_:
            raise DataError(f"frame_mask: found dtype {mask.dtype}, expected bool")
        if mask.shape != tuple(shape):
            raise DataError(
                f"frame_mask: found shape {mask.shape}, expected {tuple(shape)} for "
                "[tasks, time, nodes], to agree with states"
            )
        is_observed = is_observed & mask
    if missing is not None:
        is_observed = is_observed & ~missing
    return None if np.array_equal(is_observed, is_real) else is_observed


def read_times(times: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """Times of frames as float64 `[tasks, time]`, from that or `[time]`.

    Raises:
      DataError: Unless they are finite and strictly increasing.
    """
    if times is None:
        return None
    array = np.asarray(times)
    check_numeric("times", array)
    if array.shape not in (tuple(shape), tuple(shape[1:])):
        raise DataError(
            f"times: found shape {array.shape}, expected {tuple(shape)} for [tasks, "
            f"time] or {tuple(shape[1:])} for [time], to agree with states"
        )
    array = np.array(np.broadcast_to(array, shape), np.float64)
    check_finite(array, "times")
    late = ~(np.diff(array, axis=1) > 0)
    if late.any():
        task, frame = first_index(late)
        raise DataError(
            f"times: found {array[task, frame + 1]} after {array[task, frame]} at "
            f"index {[task, frame + 1]}, expected times that increase"
        )
    return array


def read_breaks(breaks: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """Breaks as bool `[tasks, time]`, from that or `[time]`; None without any.

    The first frame follows from none: it is never marked.
    """
    if breaks is None:
        return None
    array = np.asarray(breaks)
    if array.dtype != np.bool_:
        raise DataError(f"breaks: found dtype {array.dtype}, expected bool")
    if array.shape not in (tuple(shape), tuple(shape[1:])):
        raise DataError(
            f"breaks: found shape {array.shape}, expected {tuple(shape)} for [tasks, "
            f"time] or {tuple(shape[1:])} for [time], to agree with states"
        )
    array = np.array(np.broadcast_to(array, shape))
    array[:, :1] = False
    return array if array.any() else None


def _refuse_labels(edges: np.ndarray, wrong: np.ndarray, wanted: str) -> None:
    if wrong.any():
        index = first_index(wrong)
        raise DataError(
            f"edges: found label {edges[index]} at index {list(index)}, expected "
            f"{wanted}"
        )
