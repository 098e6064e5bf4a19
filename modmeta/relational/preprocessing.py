"""What lies between raw states and the modules: inputs of edges, targets of nodes.

`Preprocessing` is fitted once on the training trajectories, is a pytree of constants,
and is kept with the model. Letters: F features, Y predicted features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.data.normalization import (
    Normalization,
    fit_normalization,
    normalize,
)

BASELINES = ("auto", "constant_velocity", "static")


class Preprocessing(NamedTuple):
    """Constants fitted on training data.

    Attributes:
      normalization: Raw states to normalised states.
      step_matrix: `[F, F]` and
      step_offset: `[F]`, the baseline prediction of the next normalised state,
        `state @ step_matrix + step_offset`: constant velocity, or no change.
      target_scale: `[Y]` unit in which changes beyond the baseline are measured: 1.5
        times their median absolute value.
      target_limit: `[Y]` largest encoded target of the training data. Predictions stay
        within it: where targets are compressed, a little beyond it is far beyond it.
      position_scale: `()` and
      velocity_scale: `()`, standard deviation of normalised positions and velocities,
        the units of the relative geometry (1 where there are none).
    """

    normalization: Normalization
    step_matrix: jax.Array
    step_offset: jax.Array
    target_scale: jax.Array
    target_limit: jax.Array
    position_scale: jax.Array
    velocity_scale: jax.Array


@dataclasses.dataclass(frozen=True)
class FeatureLayout:
    """Static facts about the feature columns.

    Attributes:
      spec: Names and roles of the columns.
      predicted: Columns that change in time and are predicted; the others (an
        intrinsic frequency, say) are inputs alone.
      compress: Whether targets are compressed by sign(y) log(1 + |y|), which keeps
        close encounters from dominating.
    """

    spec: FeatureSpec
    predicted: tuple[int, ...]
    compress: bool = True

    @property
    def num_features(self) -> int:
        """Number of feature columns F."""
        return len(self.spec.names)


def fit_preprocessing(
    dataset: TrajectoryDataset, *, baseline: str = "auto", compress: bool = True
) -> tuple[Preprocessing, FeatureLayout]:
    """Fits normalisation, baseline and target scale on training trajectories.

    Args:
      dataset: Training systems, in raw units.
      baseline: "constant_velocity" (needs positions and velocities; each position
        advances by its velocity times the frame interval), "static" (no change, as in
        the paper), or "auto", the first of them that applies.
      compress: See `FeatureLayout`.

    Returns:
      The constants and the static layout.

    Raises:
      ValueError: If the baseline is unknown or needs features that are not there.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline: found {baseline!r}, expected one of {BASELINES}")
    spec = dataset.features
    has_velocities = bool(spec.positions) and bool(spec.velocities)
    if baseline == "auto":
        baseline = "constant_velocity" if has_velocities else "static"
    if baseline == "constant_velocity" and not has_velocities:
        raise ValueError(
            "baseline: constant_velocity needs position and velocity features, found "
            f"positions={spec.positions}, velocities={spec.velocities}"
        )
    normalization = fit_normalization(dataset)
    num_features = len(spec.names)
    matrix = np.eye(num_features)
    shift = np.zeros(num_features)
    if baseline == "constant_velocity":
        for position, velocity in zip(spec.positions, spec.velocities, strict=True):
            per_frame = dataset.frame_interval / normalization.scale[position]
            matrix[velocity, position] = per_frame * normalization.scale[velocity]
            shift[position] = per_frame * normalization.offset[velocity]

    states = np.asarray(normalize(normalization, dataset.states), np.float64)
    mask = dataset.node_mask[:, None, :, None]
    change = states[:, 1:] - states[:, :-1]
    moving = np.abs(np.where(mask, change, 0.0)).max(axis=(0, 1, 2)) > 1e-6
    predicted = tuple(int(column) for column in np.flatnonzero(moving))
    residual = states[:, 1:] - (states[:, :-1] @ matrix + shift)
    residual = np.abs(residual[..., list(predicted)])
    rows = np.broadcast_to(mask[..., 0], residual.shape[:-1])  # real nodes
    median = np.median(residual[rows], axis=0)
    # More than half the values at zero: fall back on their spread.
    spread = np.sqrt(np.mean(residual[rows] ** 2, axis=0))
    unit = np.where(median > 1e-9, 1.5 * median, np.maximum(spread, 1e-9))

    limit = np.max(residual[rows], axis=0) / unit
    if compress:
        limit = np.log1p(limit)

    def deviation(columns: tuple[int, ...]) -> float:
        if not columns:
            return 1.0
        return float(np.std(states[:, :-1][rows][:, list(columns)]))

    constants = Preprocessing(
        normalization=Normalization(
            np.asarray(normalization.offset, np.float32),
            np.asarray(normalization.scale, np.float32),
        ),
        step_matrix=matrix.astype(np.float32),
        step_offset=shift.astype(np.float32),
        target_scale=unit.astype(np.float32),
        target_limit=limit.astype(np.float32),
        position_scale=np.float32(deviation(spec.positions)),
        velocity_scale=np.float32(deviation(spec.velocities)),
    )
    return constants, FeatureLayout(spec, predicted, compress)


def _aligned(vector: jax.Array, values: jax.Array) -> jax.Array:
    """`[F]` with as many axes as `values`, which strict rank promotion asks for."""
    return jnp.reshape(vector, (1,) * (values.ndim - 1) + (-1,))


def _baseline(preprocessing: Preprocessing, states: jax.Array) -> jax.Array:
    offset = _aligned(preprocessing.step_offset, states)
    return states @ preprocessing.step_matrix + offset


def compressed(values: jax.Array) -> jax.Array:
    """Logarithm of large changes, small ones as they are: sign(x) log(1 + |x|)."""
    return jnp.sign(values) * jnp.log1p(jnp.abs(values))


def expanded(values: jax.Array) -> jax.Array:
    """Inverts `compressed`."""
    return jnp.sign(values) * jnp.expm1(jnp.abs(values))


def encode_targets(
    preprocessing: Preprocessing,
    layout: FeatureLayout,
    states: jax.Array,
    next_states: jax.Array,
) -> jax.Array:
    """Change beyond the baseline, scaled and compressed: what node modules predict.

    Args:
      preprocessing: Fitted constants.
      layout: Static facts.
      states: `[..., F]` normalised.
      next_states: `[..., F]` normalised, one frame later.

    Returns:
      `[..., Y]`.
    """
    residual = next_states - _baseline(preprocessing, states)
    residual = residual[..., np.array(layout.predicted)]
    scaled = residual / _aligned(preprocessing.target_scale, residual)
    return compressed(scaled) if layout.compress else scaled


def decode_targets(
    preprocessing: Preprocessing,
    layout: FeatureLayout,
    states: jax.Array,
    targets: jax.Array,
) -> jax.Array:
    """Inverts `encode_targets`: the next normalised state, `[..., F]`.

    Features that are not predicted follow the baseline. Compressed targets are cut at
    `target_limit` first.
    """
    if layout.compress:
        limit = _aligned(preprocessing.target_limit, targets)
        targets = expanded(jnp.clip(targets, -limit, limit))
    residual = targets * _aligned(preprocessing.target_scale, targets)
    baseline = _baseline(preprocessing, states)
    return baseline.at[..., np.array(layout.predicted)].add(residual)


def _raw(preprocessing, spec, senders, receivers):
    del preprocessing, spec
    return jnp.concatenate(jnp.broadcast_arrays(senders, receivers), axis=-1)


def _bilinear(preprocessing, spec, senders, receivers):
    del preprocessing, spec
    senders, receivers = jnp.broadcast_arrays(senders, receivers)
    products = senders[..., :, None] * receivers[..., None, :]
    products = products.reshape(*products.shape[:-2], -1)
    return jnp.concatenate([senders, receivers, products], axis=-1)


def _relative(preprocessing, spec, senders, receivers):
    positions, velocities = np.array(spec.positions), np.array(spec.velocities)
    displacement = senders[..., positions] - receivers[..., positions]
    displacement = displacement / preprocessing.position_scale
    velocity = senders[..., velocities] - receivers[..., velocities]
    velocity = velocity / preprocessing.velocity_scale
    # The offset keeps the logarithm and its gradient finite where two nodes meet.
    squared = jnp.sum(displacement**2, axis=-1, keepdims=True) + 1e-8
    direction = displacement * jax.lax.rsqrt(squared)
    radial = jnp.sum(direction * velocity, axis=-1, keepdims=True)
    parts = [displacement, velocity, jnp.log(squared), direction, radial]
    roles = set(spec.positions) | set(spec.velocities)
    others = np.array([i for i in range(len(spec.names)) if i not in roles], int)
    if others.size:
        parts += jnp.broadcast_arrays(senders[..., others], receivers[..., others])
    return jnp.concatenate(parts, axis=-1)


GEOMETRIES: dict[str, Callable] = {
    "raw": _raw,
    "relative": _relative,
    "bilinear": _bilinear,
}


def resolve_geometry(name: str, spec: FeatureSpec) -> str:
    """Resolves "auto" and checks that the features allow the geometry.

    "raw": sender state, receiver state (the paper). "relative": displacement,
    relative velocity, log squared distance, unit direction, radial velocity, other
    features as they are. "bilinear": both states and all products of a feature of
    one with a feature of the other, in which the sine of a phase difference is
    linear. "auto": relative where positions and velocities are known, else raw.

    Raises:
      ValueError: If the name is unknown or the features do not allow it.
    """
    has_velocities = bool(spec.positions) and bool(spec.velocities)
    if name == "auto":
        return "relative" if has_velocities else "raw"
    if name not in GEOMETRIES:
        raise ValueError(
            f"geometry: found {name!r}, expected auto or one of {sorted(GEOMETRIES)}"
        )
    if name == "relative" and not has_velocities:
        raise ValueError(
            "geometry: relative needs position and velocity features, found "
            f"positions={spec.positions}, velocities={spec.velocities}"
        )
    return name


def edge_inputs(
    geometry: str,
    preprocessing: Preprocessing,
    layout: FeatureLayout,
    senders: jax.Array,
    receivers: jax.Array,
) -> jax.Array:
    """Inputs of the edge modules.

    Args:
      geometry: A key of `GEOMETRIES`.
      preprocessing: Fitted constants.
      layout: Static facts.
      senders: `[..., F]` normalised states of the senders.
      receivers: `[..., F]` of the receivers; the leading axes broadcast.

    Returns:
      `[..., inputs]`.
    """
    return GEOMETRIES[geometry](preprocessing, layout.spec, senders, receivers)
