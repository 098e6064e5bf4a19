"""A trained model on new systems: read as the training data were, then searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from modmeta.relational.data import DataError, FeatureSpec, TrajectoryDataset, hints
from modmeta.relational.data.derived import ALWAYS, PERIODS
from modmeta.relational.data.domains import domain_of
from modmeta.relational.data.forms.arrays import Reading, read_dataset
from modmeta.relational.data.forms.inputs import names_columns
from modmeta.relational.data.segments import concatenate_tasks
from modmeta.relational.discovery import Discovery
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.features import (
    check_time_unit,
    relative_spreads,
    renamed,
)
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.modules.preprocessing import FeatureLayout, Preprocessing
from modmeta.relational.verdict import conclusions

# Intervals that frames show may differ from stated ones by this factor.
_SAME_INTERVAL = 1.25
# Data that spread so many times more or less are hardly of one kind and unit.
_OTHER_SIZE = 10.0
_SINE = "sine of "
_NOTHING = Reading()


def read_like(
    trajectories: Any,
    features: FeatureSpec,
    frame_interval: float | None,
    reading: Reading = _NOTHING,
) -> TrajectoryDataset:
    """Reads new data as those that a model was trained on.

    Args:
      trajectories: Of any accepted form.
      features: Of the training data, as are those of an input that says nothing of
        them.
      frame_interval: The same of the time between frames; None where it is not known.
      reading: Options that come with them.

    Raises:
      DataError: If the data are not what they should be.
    """
    if isinstance(trajectories, TrajectoryDataset):
        return read_dataset(trajectories, reading)
    if reading.domain is None:
        reading = reading._replace(domain=domain_of(features))
    names = _recorded_names(features)
    if names_columns(trajectories) and reading.feature_names is None:
        reading = reading._replace(feature_names=names)
    if features.wrapped and reading.angle_unit is None:
        period = features.wrapped[0][2]
        unit = next(u for u, p in PERIODS.items() if abs(p - period) < 1e-6)
        reading = reading._replace(angle_unit=unit)
    has_derived = bool({*features.velocities} & {*features.derived})
    reading = reading._replace(
        default_names=names,
        default_roles=_recorded_roles(features),
        default_interval=frame_interval,
        derive_velocities=ALWAYS if has_derived else False,
        lags=_num_lags(features),
    )
    try:
        return read_dataset(trajectories, reading)
    except DataError as error:
        # Names and roles may be those of the training data, which are not repeated now.
        if not any(text in str(error) for text in ("feature_names: ", "columns: ")):
            raise
        known = [features.names[column] for column in features.recorded]
        raise DataError(f"{error}; the model knows {list(names or known)}") from error


def read_new(
    trajectories: Any, like: TrajectoryDataset, reading: Reading = _NOTHING
) -> TrajectoryDataset:
    """`read_like` the training data, and `check_interval`."""
    if reading.usual_columns is None:
        reading = reading._replace(usual_columns=like.key_columns)
    dataset = read_like(trajectories, like.features, like.frame_interval, reading)
    motion = hints.apparent_motion(like)
    apparent = 0.0 if motion is None else motion.interval
    check_interval(dataset, like.frame_interval, apparent)
    return dataset


def read_for(
    trajectories: Any, layout: FeatureLayout, reading: Reading = _NOTHING
) -> TrajectoryDataset:
    """The same for a model whose training data are not at hand."""
    reading = reading._replace(usual_columns=dict(layout.key_columns))
    interval = layout.frame_interval or None
    dataset = read_like(trajectories, layout.spec, interval, reading)
    check_interval(dataset, layout.frame_interval, layout.apparent_interval)
    return dataset


def read_more(
    trajectories: Any,
    like: TrajectoryDataset,
    columns: Mapping[str, str] | None,
    frame_interval: float | None,
    arrays: Mapping[str, Any],
) -> TrajectoryDataset:
    """`read_new`, with the options that a caller gives.

    Args:
      trajectories: Of any accepted form.
      like: The training data.
      columns: Names of the columns of a table; those of the training data otherwise.
      frame_interval: Time between frames, if it is given.
      arrays: Labels, masks and times by name; None for those that there are not.
    """
    reading = Reading(
        columns=columns,
        frame_interval=frame_interval,
        arrays={n: array for n, array in arrays.items() if array is not None},
    )
    return read_new(trajectories, like, reading)


def check_interval(dataset: TrajectoryDataset, trained: float, apparent: float) -> None:
    """Refuses frames that are evidently not as far apart as stated.

    Args:
      dataset: New data.
      trained: Interval of the training data.
      apparent: That by which their velocities explain their positions, or a column how
        their angles turn; 0 where it is not known.

    Raises:
      DataError: If by these columns, things go at another interval.
    """
    found = hints.apparent_motion(dataset)
    if found is None or not apparent:
        return
    # By the same factor as in training: units of both may differ.
    stated = dataset.frame_interval * apparent / trained
    if not 1.0 / _SAME_INTERVAL < found.interval / stated < _SAME_INTERVAL:
        likely = found.interval * trained / apparent
        raise DataError(
            f"frame_interval: found {dataset.frame_interval:g} with {found.sentence}, "
            f"expected about {likely:.3g}: give frame_interval in the time unit of the "
            "training data"
        )


def discover_again(
    discovery: Discovery,
    dataset: TrajectoryDataset,
    inference: InferenceConfig,
    shared_graph: bool,
    seed: int,
    mesh: Mesh | None,
) -> tuple[TrajectoryDataset, Discovery]:
    """Searches new systems under a trained model, and judges what it finds.

    Args:
      discovery: Where the model comes from.
      dataset: The new systems, raw units.
      inference: Options of the search.
      shared_graph: Whether they are recordings of one graph.
      seed: Seed of the search.
      mesh: Devices that share it.

    Returns:
      The systems as they were searched, and what was found.

    Raises:
      DataError: If the model cannot read them.
    """
    model = discovery.model.reaching(dataset.frame_interval)
    params = discovery.params
    if shared_graph:
        dataset = concatenate_tasks(dataset)
    model.read(dataset)
    check_time_unit(dataset, model.bank.layout, params.preprocessing)
    dataset = dataset.with_notes(renamed(model.bank.layout.spec, dataset.features))
    dataset = dataset.with_notes(other_sizes(dataset, params.preprocessing))
    key_infer, key_judge = jax.random.split(jax.random.key(seed))
    found = infer_dataset(
        key_infer, model, params, dataset.without_labels(), inference, mesh=mesh
    )
    concluded = conclusions.judge(
        key_judge, model, params, dataset, found, inference, is_new=True
    )
    settled = conclusions.settle(found, concluded)
    return dataset, dataclasses.replace(
        discovery,
        model=model,
        found=found,
        settled=settled,
        verdict=concluded,
        stretches=None,
    )


def other_sizes(dataset: TrajectoryDataset, preprocessing: Preprocessing) -> list[str]:
    """A note on columns that spread much more, or less, than in the training data."""
    features = dataset.features
    found = relative_spreads(dataset, preprocessing)
    low, high = 1.0 / _OTHER_SIZE, _OTHER_SIZE
    unlike = [c for c, ratio in found.items() if ratio and not low < ratio < high]
    if not unlike:
        return []
    names = ", ".join(repr(features.names[column]) for column in sorted(unlike))
    ratios = " and ".join(f"{found[column]:.2g}" for column in sorted(unlike))
    return [
        f"Features {names} spread over {ratios} times as much as in the training data: "
        "laws hold where they were learned, and in the units of the training data."
    ]


def _recorded_names(features: FeatureSpec) -> tuple[str, ...] | None:
    """Names of the columns as they were recorded; None where they had none."""
    angles = {column for column, _, _ in features.wrapped}
    names = tuple(
        features.names[c].removeprefix(_SINE) if c in angles else features.names[c]
        for c in features.recorded
    )
    is_unnamed = names == tuple(f"feature_{i}" for i in range(len(names)))
    return None if is_unnamed else names


def _recorded_roles(features: FeatureSpec) -> dict[str, tuple[int, ...]]:
    """Roles of the columns as they were recorded."""
    angles = tuple(column for column, _, _ in features.wrapped)
    kept = set(features.recorded) - set(angles)
    pairs = [pair for pair in features.angles if kept >= set(pair)]
    return {
        "positions": features.positions,
        "velocities": tuple(c for c in features.velocities if c in kept),
        "sines": tuple(sine for sine, _ in pairs),
        "cosines": tuple(cosine for _, cosine in pairs),
        "inputs": features.inputs,
        "angles": angles,
    }


def _num_lags(features: FeatureSpec) -> int:
    """Frames that a change may depend on."""
    count = features.num_features - len(features.lagged)
    return 1 + len(features.lagged) // count
