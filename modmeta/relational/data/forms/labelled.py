"""Arrays whose axes have names, and sets of them: those of xarray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modmeta.relational.data.forms.cells import member_names
from modmeta.relational.data.forms.clocks import read_times, settle_clocks
from modmeta.relational.data.forms.columns import (
    KEYS,
    KeyNames,
    find_keys,
    plain,
    usual_names,
)
from modmeta.relational.data.forms.given import Given
from modmeta.relational.data.validation import DataError

_LABELS = ("edges", "label", "labels", "relation", "relations")


def is_labelled(value: Any) -> bool:
    """Whether something is an array of xarray, or a set of such."""
    return hasattr(value, "dims") and hasattr(value, "coords")


def read_labelled(
    array: Any,
    keys: KeyNames,
    feature_names: Sequence[str] | None = None,
    frame_interval: float | None = None,
) -> Given:
    """Reads an `xarray.DataArray` or `xarray.Dataset`.

    Axes are told by their names, in any order; one without systems is one system. The
    variables of a set are features, if they have axes of time and entities. Names of
    entities and systems, and times, are those of the coordinates. Entities without any
    value in a system are not in it.

    Args:
      array: The array, with an axis of features or without for one, or the set.
      keys: Names of the axes of "system", "time", "entity" and "feature", where they
        have no usual name.
      feature_names: Features to take; None for all.
      frame_interval: Time between frames, where the time axis counts frames.

    Raises:
      DataError: If an axis is missing or unknown.
    """
    labels, notes = None, []
    if hasattr(array, "data_vars"):
        array, labels, notes = _joined(array, keys)
    dims = [str(dim) for dim in array.dims]
    found = find_keys(dims, keys, (*KEYS, "feature"), "axes")
    for key in ("time", "entity"):
        if key not in found:
            raise DataError(
                f"axes: found {dims} and none that names the {key}, expected one such "
                f"as {usual_names(key)}; say which with columns={{{key!r}: NAME}}"
            )
    left = [dim for dim in dims if dim not in found.values()]
    if left:
        raise DataError(
            f"axes: found {left} beside {found}, expected system, time, entity and "
            "feature; say which is which with columns={'system': NAME}"
        )
    for key, axis in (("system", 0), ("feature", -1)):
        if key not in found:
            array, found[key] = array.expand_dims(f"one {key}", axis), f"one {key}"
    array = array.transpose(*(found[key] for key in (*KEYS, "feature")))
    values = np.asarray(array.values)
    names = _names(array, found["feature"])
    if "one feature" in array.dims and array.name:
        names = [str(array.name)]
    if names is None and feature_names is not None:
        if len(feature_names) != values.shape[3]:
            raise DataError(
                f"feature_names: found {len(feature_names)} names "
                f"{tuple(feature_names)}, expected {values.shape[3]}, one per feature"
            )
        names = [str(name) for name in feature_names]
    elif names is None:
        names = [f"feature_{i}" for i in range(values.shape[3])]
    elif feature_names is not None:
        missing = [name for name in feature_names if name not in names]
        if missing:
            raise DataError(
                f"feature_names: found {missing[0]!r}, expected features among {names}"
            )
        values = values[..., [names.index(name) for name in feature_names]]
        names = list(feature_names)
    clock = _values(array, found["time"])
    nodes = _names(array, found["entity"])
    given = Given(
        states=values,
        feature_names=tuple(names),
        system_names=_names(array, found["system"]),
        notes=tuple(notes),
        labels=labels,
    )
    if clock is not None:
        times = read_times(found["time"], clock)
        clocks, interval = settle_clocks(times, [times.values], frame_interval)
        given = given._replace(
            times=None if clocks is None else clocks[0], frame_interval=interval
        )
    return _without_absent(given, nodes)


def _joined(dataset: Any, keys: KeyNames) -> tuple[Any, Any, list[str]]:
    """The variables of a set along an axis of features, labels, and notes."""
    features, labels, notes = [], None, []
    for name, variable in dataset.data_vars.items():
        dims = [str(dim) for dim in variable.dims]
        if plain(name) in _LABELS and {"receiver", "sender"} <= set(dims):
            rest = [dim for dim in dims if dim not in ("receiver", "sender")]
            labels = variable.transpose(*rest, "receiver", "sender").values
            continue
        own = keys._replace(explicit=_of(keys.explicit, dims))
        found = find_keys(dims, own, KEYS, "axes")
        is_feature = {"time", "entity"} <= found.keys() and len(found) == len(dims)
        if is_feature and variable.dtype.kind in "biuf":
            features.append(str(name))
        else:
            notes.append(
                f"Variable {name!r} is left out: it has no number for every time and "
                "entity."
            )
    if not features:
        variables = {str(n): tuple(v.dims) for n, v in dataset.data_vars.items()}
        raise DataError(
            f"variables: found {variables} and none with axes of time and entities "
            f"alone, expected features over axes such as {usual_names('time')} and "
            f"{usual_names('entity')}; say which with columns={{'entity': NAME}}"
        )
    return dataset[features].to_array("feature"), labels, notes


def _of(names: Mapping[str, str], dims: Sequence[str]) -> dict[str, str]:
    """Names by key of those axes that a variable has."""
    return {key: name for key, name in names.items() if name in dims}


def _values(array: Any, dim: str) -> np.ndarray | None:
    return np.asarray(array.coords[dim].values) if dim in array.coords else None


def _names(array: Any, dim: str) -> list[str] | None:
    values = _values(array, dim)
    return None if values is None else member_names(values)


def _without_absent(given: Given, nodes: list[str] | None) -> Given:
    """The same without entities of which a system has no value."""
    states = given.states
    num_tasks, _, num_nodes = states.shape[:3]
    names = nodes or [str(i) for i in range(num_nodes)]
    is_there = np.ones((num_tasks, num_nodes), bool)
    if states.dtype.kind == "f":
        is_there = ~np.isnan(states).any(axis=3).all(axis=1)
    if is_there.all():
        plain_names = names == [str(i) for i in range(num_nodes)]
        node_names = None if plain_names else [names] * num_tasks
        return given._replace(node_names=node_names)
    if given.labels is not None and np.ndim(given.labels) == 3:
        labels = [
            matrix[np.ix_(there, there)]
            for matrix, there in zip(given.labels, is_there, strict=True)
        ]
        given = given._replace(labels=labels)
    return given._replace(
        states=[array[:, there] for array, there in zip(states, is_there, strict=True)],
        node_names=[
            [name for name, here in zip(names, there, strict=True) if here]
            for there in is_there
        ],
        notes=(
            *given.notes,
            f"{int((~is_there).sum())} entities of which a system has no value are not "
            "in it.",
        ),
    )
