"""What an input holds, whichever form it came in, and arrays of other libraries.

Every reader (`tables`, `labelled`, `archives`, `nri_files`) ends in a `Given`;
`arrays.as_dataset` alone makes data sets of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modmeta.relational.data.gaps import read_entries
from modmeta.relational.data.validation import DataError


class Given(NamedTuple):
    """What an input says; None where it says nothing.

    Attributes:
      states: `[tasks, time, nodes, features]`, `[time, nodes, features]` for one task,
        or a list of such, one per task.
      feature_names: One name per feature.
      roles: Columns by role, by number or by name, of those roles that are given.
      angle_unit: "degrees" or "radians".
      labels: True relations, see `labels.read_labels`.
      num_relations: Number of relation types.
      node_mask: `[tasks, nodes]`.
      frame_mask: `[tasks, time, nodes]`.
      times: `[tasks, time]`, `[time]`, or one vector per task.
      breaks: `[tasks, time]` or `[time]`.
      frame_interval: Time between frames.
      system_names: One name per task.
      node_names: One list of names per task.
      key_columns: What the columns or axes of systems, times and entities are called.
      derived: See `FeatureSpec`, as are
      wrapped: and
      periodic: and
      lagged: which data sets that were saved say.
      notes: What was done, one sentence each.
    """

    states: Any
    feature_names: tuple[str, ...] | None = None
    roles: dict[str, Any] = {}
    angle_unit: str | None = None
    labels: Any = None
    num_relations: int | None = None
    node_mask: Any = None
    frame_mask: Any = None
    times: Any = None
    breaks: Any = None
    frame_interval: float | None = None
    system_names: list[str] | None = None
    node_names: list[list[str]] | None = None
    key_columns: dict[str, str] | None = None
    derived: tuple[int, ...] = ()
    wrapped: tuple[tuple[int, float, float], ...] = ()
    lagged: tuple[tuple[int, int], ...] = ()
    periodic: tuple[tuple[int, float, float], ...] = ()
    notes: tuple[str, ...] = ()


def as_numpy(value: Any, name: str) -> Any:
    """Arrays of other libraries as NumPy arrays, also within lists; the rest as it is.

    Args:
      value: Anything; arrays that require a gradient, or lie on a device, too.
      name: What messages call it.

    Raises:
      DataError: If an array cannot be read.
    """
    if isinstance(value, np.ndarray) or np.isscalar(value) or value is None:
        return value
    if isinstance(value, list | tuple):
        if not any(_is_array(item) or isinstance(item, list | tuple) for item in value):
            return value
        return [as_numpy(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if not _is_array(value):
        return value
    try:
        for method in ("detach", "cpu"):
            value = getattr(value, method, lambda value=value: value)()
        if hasattr(value, "__array__"):
            return np.asarray(value)
        return np.from_dlpack(value)
    except Exception as error:  # every library has its own
        raise DataError(
            f"{name}: found a {type(value).__name__} that NumPy cannot read ({error}), "
            "expected an array of numbers; convert it to a NumPy array of float32"
        ) from error


def _is_array(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("detach", "__array__", "__dlpack__"))


def read_states(states: Any) -> np.ndarray | list[np.ndarray]:
    """States `[tasks, time, nodes, features]`; one array per task if sizes differ."""
    if isinstance(states, np.ndarray):
        array, _ = read_entries(states)
        if array.ndim == 3:
            return array[None]
        if array.ndim != 4:
            raise DataError(
                f"states: found {array.ndim} axes with shape {array.shape}, expected 4 "
                "axes [tasks, time, nodes, features], or 3 axes [time, nodes, "
                "features] for one task; one feature is an axis too: states[..., None]"
            )
        if not array.shape[0]:
            raise DataError(
                f"states: found no task (axis 0 of shape {array.shape}), expected at "
                "least one"
            )
        return array
    arrays = [read_entries(system)[0] for system in states]
    for task, array in enumerate(arrays):
        if array.ndim != 3:
            raise DataError(
                f"states[{task}]: found {array.ndim} axes with shape {array.shape}, "
                "expected [time, nodes, features]"
            )
        if array.shape[2] != arrays[0].shape[2]:
            raise DataError(
                f"states[{task}]: found {array.shape[2]} features, expected "
                f"{arrays[0].shape[2]} as in states[0]"
            )
        if 0 in array.shape:
            raise DataError(
                f"states[{task}]: found shape {array.shape}, expected at least one "
                "frame, node and feature"
            )
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return arrays
