"""Trajectories of any accepted form as a data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modmeta.relational.data import glitches, hints, mixtures
from modmeta.relational.data.dataset import TrajectoryDataset, validate
from modmeta.relational.data.derived import prepare
from modmeta.relational.data.domains import Domain, in_box
from modmeta.relational.data.forms.columns import (
    lone_velocities,
    resolve_columns,
    unit_of,
    usual_roles,
)
from modmeta.relational.data.forms.given import Given, as_numpy, read_states
from modmeta.relational.data.forms.inputs import names_columns, read_input
from modmeta.relational.data.forms.labels import read_labels
from modmeta.relational.data.joining import pad_systems
from modmeta.relational.data.resolution import check_resolution
from modmeta.relational.data.validation import DataError, FeatureSpec


class Reading(NamedTuple):
    """Options that come with trajectories, see `as_dataset`.

    Attributes:
      columns: Names of key columns.
      usual_columns: The same, taken where none is given and the table has them.
      feature_names: Names of features.
      roles: Columns by role, of those roles that are given.
      default_names: Names of features, and
      default_roles: their roles, for inputs that say nothing of either.
      angle_unit: Unit of angles.
      derive_velocities: Whether positions get velocities.
      lags: Frames that a change may depend on.
      domain: Box that positions wrap in.
      frame_interval: Time between frames.
      default_interval: The same, for inputs that say nothing of time.
      arrays: `labels`, `node_mask`, `frame_mask`, `times` and `breaks` that are given.
    """

    columns: Mapping[str, str] | None = None
    usual_columns: Mapping[str, str] | None = None
    feature_names: Sequence[str] | None = None
    roles: dict[str, Any] = {}
    default_names: Sequence[str] | None = None
    default_roles: dict[str, Any] = {}
    angle_unit: str | None = None
    derive_velocities: bool | str = True
    lags: int = 0
    domain: Domain | None = None
    frame_interval: float | None = None
    default_interval: float | None = None
    arrays: dict[str, Any] = {}


def as_dataset(
    trajectories: Any,
    *,
    labels: Any = None,
    columns: Mapping[str, str] | None = None,
    feature_names: Sequence[str] | None = None,
    positions: Sequence[int | str] | None = None,
    velocities: Sequence[int | str] | None = None,
    sines: Sequence[int | str] | None = None,
    cosines: Sequence[int | str] | None = None,
    angles: Sequence[int | str] | None = None,
    inputs: Sequence[int | str] | None = None,
    angle_unit: str | None = None,
    derive_velocities: bool | str = True,
    lags: int = 0,
    domain: Domain | None = None,
    frame_interval: float | None = None,
    node_mask: npt.ArrayLike | None = None,
    frame_mask: npt.ArrayLike | None = None,
    times: Any = None,
    breaks: npt.ArrayLike | None = None,
) -> TrajectoryDataset:
    """Makes a data set of trajectories of any accepted form.

    Options win over what an input says of itself.

    Args:
      trajectories: One of

        - an array `[tasks, time, nodes, features]`, or `[time, nodes, features]` for
          one task: of NumPy, JAX, PyTorch or what else NumPy reads;
        - one array `[time, nodes, features]` per task, whose numbers of frames and of
          nodes may differ;
        - a long table: a pandas data frame, a vector of rows with named fields, or a
          mapping from names to columns, with a row per system, time and entity;
        - a list with a data frame, or a path of a table, per system;
        - an `xarray.DataArray` or `xarray.Dataset`;
        - a path: `.npz`, `.npy`, `.csv`, `.tsv` or `.parquet`, a `loc_<suffix>.npy`, or
          a folder with such files, or with those of train, valid and test;
        - the arrays of a `.npz` by their names;
        - a data set, which is returned as it is.

        NaN and masked entries were not observed.
      labels: True relations, for evaluation alone: see `labels.read_labels`.
      columns: Names of the columns of a table, or of the axes of an xarray, that are
        "system", "time" and "entity"; None for the usual names.
      feature_names: Names of the features; of a table, the columns that are features,
        None for all others that hold numbers.
      positions: Feature columns that are positions, by number or by name; None for
        those called x, y, z, where features have names, () for none.
      velocities: Feature columns that are the velocities of these positions; None for
        those called vx, vy, vz, if the positions were found by name.
      sines: Feature columns that are the sines of angles.
      cosines: Feature columns that are the cosines of these angles.
      angles: Feature columns that are angles; columns that wrap are found without.
      inputs: Feature columns that are given and not predicted, such as a stimulus.
      angle_unit: "radians" or "degrees"; None tells it from the values.
      derive_velocities: Whether positions get velocities where these go on from frame
        to frame; "always" for everywhere.
      lags: Frames that a change of features without roles may depend on; 0 for as many
        as the data bear out.
      domain: The box that positions wrap in, `Domain("periodic", lower, upper)`; None
        for none. Positions are then unwrapped, and predictions wrapped back.
      frame_interval: Time between frames, in the time unit of the velocities; None for
        the median step of `times`, or 1.
      node_mask: `[tasks, nodes]` or `[nodes]`, true at real nodes, which come first.
      frame_mask: `[tasks, time, nodes]` true where a node was observed.
      times: `[tasks, time]` or `[time]` of the frames, or one vector per task.
      breaks: `[tasks, time]` or `[time]` true at frames that do not follow from the one
        before.

    Raises:
      FileNotFoundError: If there is nothing at a path.
      DataError: If the trajectories are not what they should be.
      ImportError: If a package is missing that reads them.
      ValueError: If data sets come with labels or features, or an option is none.
    """
    roles = {
        "positions": positions,
        "velocities": velocities,
        "sines": sines,
        "cosines": cosines,
        "angles": angles,
        "inputs": inputs,
    }
    arrays = {
        "labels": labels,
        "node_mask": node_mask,
        "frame_mask": frame_mask,
        "times": times,
        "breaks": breaks,
    }
    if isinstance(feature_names, str):
        feature_names = (feature_names,)
    elif feature_names is not None and not np.iterable(feature_names):
        raise DataError(f"feature_names: found {feature_names!r}, expected names")
    reading = Reading(
        columns=columns,
        feature_names=feature_names,
        roles={name: role for name, role in roles.items() if role is not None},
        angle_unit=angle_unit,
        derive_velocities=derive_velocities,
        lags=lags,
        domain=domain,
        frame_interval=frame_interval,
        arrays={name: a for name, a in arrays.items() if a is not None},
    )
    return read_dataset(trajectories, reading)


def read_dataset(trajectories: Any, reading: Reading) -> TrajectoryDataset:
    """Makes a data set of trajectories and options, see `as_dataset`."""
    if isinstance(trajectories, TrajectoryDataset):
        said = (*reading.arrays, *filter(np.size, reading.roles.values()))
        others = (reading.columns, reading.feature_names, reading.frame_interval)
        if said or any(other is not None for other in others):
            raise ValueError(
                "trajectories: found a TrajectoryDataset together with labels, times, "
                "masks, or names or roles of features, expected these inside the data "
                "set"
            )
        return in_box(trajectories, reading.domain)
    place = ""
    if isinstance(trajectories, str | os.PathLike):
        place = f"{os.fspath(trajectories)}: "
    try:
        given = read_input(
            trajectories,
            columns=reading.columns,
            usual_columns=reading.usual_columns,
            feature_names=reading.feature_names,
            frame_interval=reading.frame_interval,
        )
        return dataset_of(
            _with_said(trajectories, given, reading),
            derive_velocities=reading.derive_velocities,
            lags=reading.lags,
            domain=reading.domain,
        )
    except DataError as error:
        message = str(error)
        if not place or message.startswith((place, "trajectories: ")):
            raise
        raise DataError(place + message) from error


def _with_said(trajectories: Any, given: Given, reading: Reading) -> Given:
    """What an input says of itself, and options, which win."""
    has_roles = bool(given.roles)
    roles = given.roles or reading.default_roles
    given = given._replace(roles=roles | reading.roles, **reading.arrays)
    if "labels" in reading.arrays:
        given = given._replace(num_relations=None)
    if reading.angle_unit is not None:
        given = given._replace(angle_unit=reading.angle_unit)
    names = reading.feature_names
    if names is None:
        names = given.feature_names
    if names is None and not has_roles:
        names = reading.default_names
    if names is not None:
        given = given._replace(feature_names=tuple(map(str, names)))
    interval = reading.frame_interval
    # Tables have compared it with their times already.
    if interval is None or names_columns(trajectories):
        interval = given.frame_interval
    if interval is None:
        interval = reading.frame_interval
    if interval is None and given.times is None:
        interval = reading.default_interval
    return given._replace(frame_interval=interval)


def dataset_of(
    given: Given,
    *,
    derive_velocities: bool | str = True,
    lags: int = 0,
    domain: Domain | None = None,
) -> TrajectoryDataset:
    """Makes a validated data set of what an input says.

    Args:
      given: What it says.
      derive_velocities: See `as_dataset`.
      lags: See `as_dataset`.
      domain: See `as_dataset`.

    Raises:
      DataError: If that is no data set.
    """
    if given.lagged:
        lags = 1  # they are there
    states, notes = read_states(given.states), list(given.notes)
    array = states if isinstance(states, np.ndarray) else states[0]
    features, angles, found = _read_features(given, array.shape[-1])
    notes += found
    interval = given.frame_interval
    labels = given.labels
    mask = given.node_mask
    if mask is not None:
        mask = np.asarray(as_numpy(mask, "node_mask"))
        if mask.ndim == 1 and isinstance(states, np.ndarray):
            mask = np.broadcast_to(mask, (len(states), len(mask)))
    if labels is not None:
        sizes, num_real = [len(system[0]) for system in states], None
        if mask is not None and mask.ndim == 2 and len(mask) == len(states):
            num_real = [int(np.sum(row)) for row in mask]
        labels, found = read_labels(labels, sizes, num_real)
        notes += found
    if isinstance(states, np.ndarray):
        dataset = TrajectoryDataset(
            states=states,
            features=features,
            frame_interval=interval,
            node_mask=mask,
            edges=labels,
            num_relations=given.num_relations,
            frame_mask=as_numpy(given.frame_mask, "frame_mask"),
            times=_one_vector(as_numpy(given.times, "times")),
            breaks=as_numpy(given.breaks, "breaks"),
            system_names=given.system_names,
            node_names=given.node_names,
            notes=tuple(notes),
        )
    else:
        for name in ("node_mask", "frame_mask", "breaks"):
            if getattr(given, name) is not None:
                raise DataError(
                    f"{name}: found one with arrays of different shapes, expected NaN "
                    "where nothing was observed, and one array"
                )
        dataset = pad_systems(
            states,
            labels,
            features=features,
            frame_interval=interval,
            num_relations=given.num_relations,
            times=as_numpy(given.times, "times"),
            system_names=given.system_names,
            node_names=given.node_names,
            notes=tuple(notes),
        )
    dataset = in_box(dataset, domain)
    mixtures.check_intervals(dataset)
    seen = [*hints.suspicions(dataset), *mixtures.notes(dataset)]
    dataset = prepare(
        dataset,
        derive_velocities=derive_velocities,
        angles=angles,
        angle_unit=given.angle_unit,
        lags=lags,
    )
    seen += glitches.wide_turns(dataset)
    check_resolution(dataset)
    dataset = dataclasses.replace(dataset, key_columns=given.key_columns)
    return validate(dataset.with_notes(seen))


def _read_features(
    given: Given, num_features: int
) -> tuple[FeatureSpec, tuple[int, ...], list[str]]:
    """What the columns are, which are angles, and notes on roles by name."""
    names = given.feature_names
    if names is None:
        names = tuple(f"feature_{i}" for i in range(num_features))
    if len(names) != num_features:
        raise DataError(
            f"feature_names: found {len(names)} names {tuple(names)}, expected "
            f"{num_features}, one per feature of states"
        )
    roles = {
        role: resolve_columns(columns, names, role)
        for role, columns in given.roles.items()
    }
    notes = []
    angles = roles.pop("angles", ())
    is_unsaid = not {*roles} - {"inputs"} and not angles
    if is_unsaid and given.feature_names is not None:
        usual = usual_roles(names)
        roles = usual | roles
        for role, columns in usual.items():
            taken = ", ".join(repr(names[column]) for column in columns)
            notes.append(
                f"Features {taken} are taken for {role}, by their names; "
                "positions=() takes them for plain numbers."
            )
        for name in lone_velocities(names, usual):
            notes.append(
                f"Feature {name!r} is called like a velocity, and not all positions "
                "have one: it is taken for a plain number, beside velocities that are "
                "derived. If it is one, give the others too, or leave it out."
            )
    spec = FeatureSpec(
        names,
        **roles,
        derived=given.derived,
        wrapped=given.wrapped,
        lagged=given.lagged,
        periodic=given.periodic,
    )
    for role in ("positions", "velocities"):
        units = {unit_of(names[column]): None for column in getattr(spec, role)}
        if len(units) > 1:
            found = ", ".join(repr(unit or "none") for unit in units)
            notes.append(
                f"The names of {role} have different units, {found}: distances are "
                "right only if all axes have one."
            )
    return spec, angles, notes


def _one_vector(times: Any) -> Any:
    """Vectors of all tasks, of one length, as an array."""
    if isinstance(times, list | tuple):
        try:
            return np.asarray(times)
        except ValueError as error:
            raise DataError(
                "times: found vectors of different length, expected one time per frame"
            ) from error
    return times
