"""Checks on trajectory data; every problem is one `DataError` that says where."""

from __future__ import annotations

import dataclasses

import numpy as np

MINIMUM_FRAMES = 3
ROLES = ("positions", "velocities", "sines", "cosines")
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

    Raises:
      DataError: If names repeat, or a column is out of range or has two roles, or
        roles that belong together disagree in length.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...] = ()
    velocities: tuple[int, ...] = ()
    sines: tuple[int, ...] = ()
    cosines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Freezes the fields as tuples and checks them."""
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        for role in ROLES:
            columns = tuple(int(column) for column in getattr(self, role))
            object.__setattr__(self, role, columns)
        if not self.names:
            raise DataError("feature names: found none, expected at least one")
        if len(set(self.names)) != len(self.names):
            raise DataError(f"feature names: {self.names} repeat, expected distinct")
        columns = sum((getattr(self, role) for role in ROLES), ())
        for column in columns:
            if not 0 <= column < len(self.names):
                raise DataError(
                    f"feature columns: found {column}, expected 0 to "
                    f"{len(self.names) - 1} for the features {self.names}"
                )
        if len(set(columns)) != len(columns):
            found = ", ".join(f"{role} {getattr(self, role)}" for role in ROLES)
            raise DataError(
                f"feature columns: {found} overlap, expected one role per column"
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
        _refuse_labels(edges, pairs & (edges != np.rint(edges)), wanted)
    _refuse_labels(edges, pairs & (edges < 0), wanted)
    if num_relations is not None:
        _refuse_labels(edges, pairs & (edges >= num_relations), wanted)


def check_varying(
    states: np.ndarray, node_mask: np.ndarray, names: tuple[str, ...]
) -> None:
    """Raises a DataError if a feature has one value over the whole data set."""
    if not states.shape[0]:
        return
    # The first node of the first task is always real.
    present = node_mask[:, None, :, None]
    constant = ~np.any((states != states[0, 0, 0]) & present, axis=(0, 1, 2))
    if constant.any():
        (column,) = first_index(constant)
        raise DataError(
            f"states: found the one value {states[0, 0, 0, column]} in all of feature "
            f"{column} ({names[column]!r}), expected a feature that varies"
        )


def check_angles(
    states: np.ndarray, node_mask: np.ndarray, features: FeatureSpec
) -> None:
    """Raises a DataError if columns named as sine and cosine are not of an angle.

    Noise is allowed: the mean of the squared radii must be 1 to a factor of two.
    """
    if not states.shape[0]:
        return
    for sine, cosine in features.angles:
        squared = states[..., sine] ** 2 + states[..., cosine] ** 2
        mean = np.mean(squared, where=node_mask[:, None], dtype=np.float64)
        if not 0.5 <= mean <= 2.0:
            raise DataError(
                f"states: found {mean:.3g} as the mean of sine^2 + cosine^2 in the "
                f"features {features.names[sine]!r} and {features.names[cosine]!r}, "
                "expected 1, as for the sine and the cosine of an angle"
            )


def _refuse_labels(edges: np.ndarray, wrong: np.ndarray, wanted: str) -> None:
    if wrong.any():
        index = first_index(wrong)
        raise DataError(
            f"edges: found label {edges[index]} at index {list(index)}, expected "
            f"{wanted}"
        )
