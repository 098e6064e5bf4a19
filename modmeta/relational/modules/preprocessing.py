"""What lies between raw states and the modules: inputs of edges, targets of nodes.

`Preprocessing` is a pytree of constants, fitted once (see `fitting`) and kept with the
model. Letters: F features, Y predicted changes: one of every predicted feature, and one
of every angle, which has two features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data import FeatureSpec
from modmeta.relational.data.normalization import Normalization


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
        intrinsic frequency, say) are inputs alone. Sine and cosine of an angle are
        predicted together.
      compress: Whether targets are compressed by sign(y) log(1 + |y|), which keeps
        close encounters from dominating.
      frame_interval: Unit of time of the model; 0 where it is not known.
      apparent_interval: Time between frames at which velocities explain how positions
        moved in the training data, or a column how angles turned, see
        `hints.apparent_motion`; 0 where it is not known.
      key_columns: What columns of the training table the systems, times and entities
        were read from, as pairs of a key and a name.
    """

    spec: FeatureSpec
    predicted: tuple[int, ...]
    compress: bool = True
    frame_interval: float = 0.0
    # Nothing that is compiled knows of these two.
    apparent_interval: float = dataclasses.field(default=0.0, compare=False)
    key_columns: tuple[tuple[str, str], ...] = dataclasses.field(
        default=(), compare=False
    )

    @property
    def num_features(self) -> int:
        """Number of feature columns F."""
        return len(self.spec.names)

    @property
    def turning(self) -> tuple[tuple[int, int], ...]:
        """Columns of the sine and the cosine of every predicted angle."""
        return tuple(pair for pair in self.spec.angles if pair[0] in self.predicted)

    @property
    def shifting(self) -> tuple[int, ...]:
        """Predicted columns that belong to no angle."""
        circle = set(self.spec.sines) | set(self.spec.cosines)
        return tuple(column for column in self.predicted if column not in circle)

    @property
    def num_targets(self) -> int:
        """Number of predicted changes Y: of columns, then of angles."""
        return len(self.shifting) + len(self.turning)


def _aligned(vector: jax.Array, values: jax.Array) -> jax.Array:
    """`[F]` with as many axes as `values`, which strict rank promotion asks for."""
    return jnp.reshape(vector, (1,) * (values.ndim - 1) + (-1,))


def with_columns(states: jax.Array, columns: Any, values: jax.Array) -> jax.Array:
    """States `[..., F]` with other values `[..., C]` in C static columns.

    A permutation, where the compiler would turn a scatter into a loop.
    """
    source = np.arange(states.shape[-1])
    source[np.asarray(columns, int)] = states.shape[-1] + np.arange(values.shape[-1])
    both = jnp.concatenate([states, values], axis=-1)
    return both.at[..., source].get(
        mode="promise_in_bounds", unique_indices=True, wrap_negative_indices=False
    )


def _baseline(
    preprocessing: Preprocessing, states: jax.Array, duration: jax.Array | None = None
) -> jax.Array:
    """States after a time `[...]` without any interaction, by default one frame."""
    offset = _aligned(preprocessing.step_offset, states)
    if duration is None:
        return states @ preprocessing.step_matrix + offset
    identity = jnp.eye(states.shape[-1])
    drift = states @ (preprocessing.step_matrix - identity) + offset
    return states + duration[..., None] * drift


def velocity_per_frame(
    preprocessing: Preprocessing, spec: FeatureSpec
) -> tuple[jax.Array, jax.Array]:
    """Normalised positions per frame interval: of a unit of velocity, and of none.

    Returns:
      `()`, and `[axes]`: velocities of zero may not be normalised to zero.
    """
    position, velocity = spec.positions[0], spec.velocities[0]
    offset = preprocessing.step_offset[np.array(spec.positions)]
    return preprocessing.step_matrix[velocity, position], offset


def angle_differences(
    states: Any, others: Any, angles: tuple[tuple[int, int], ...]
) -> tuple[Any, Any]:
    """Sines and cosines of angles of `states` minus angles of `others`."""
    sine, cosine = np.array(angles, int).reshape(-1, 2).T
    (s1, c1), (s2, c2) = (
        (values[..., sine], values[..., cosine]) for values in (states, others)
    )
    return s1 * c2 - c1 * s2, c1 * c2 + s1 * s2


def changes(layout: FeatureLayout, states: Any, next_states: Any, xp: Any) -> Any:
    """Differences of columns, then turns of angles in radians, `[..., Y]`.

    Of all turns between two frames it is the shortest.
    """
    shifts = (next_states - states)[..., np.array(layout.shifting, int)]
    sine, cosine = angle_differences(next_states, states, layout.turning)
    # The offset keeps the gradient finite at padded nodes, which are zero.
    turns = xp.arctan2(sine, cosine + 1e-12)
    return xp.concatenate([shifts, turns], axis=-1)


def turned(sine: jax.Array, cosine: jax.Array, turns: jax.Array):
    """Sine and cosine of angles after a turn, on the unit circle."""
    radius = jnp.sqrt(sine**2 + cosine**2 + 1e-12)
    sine, cosine = sine / radius, cosine / radius
    along, across = jnp.cos(turns), jnp.sin(turns)
    return sine * along + cosine * across, cosine * along - sine * across


def changed(layout: FeatureLayout, states: Any, moves: Any) -> jax.Array:
    """Inverts `changes`: states `[..., F]` after moves `[..., Y]`."""
    if layout.shifting:
        columns = np.array(layout.shifting)
        shifted = states[..., columns] + moves[..., : len(columns)]
        states = with_columns(states, columns, shifted)
    if layout.turning:
        turns = moves[..., len(layout.shifting) :]
        sine, cosine = np.array(layout.turning).T
        after = turned(states[..., sine], states[..., cosine], turns)
        states = with_columns(states, [*sine, *cosine], jnp.concatenate(after, axis=-1))
    return states


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
    duration: jax.Array | None = None,
) -> jax.Array:
    """Change beyond the baseline, scaled and compressed: what node modules predict.

    Args:
      preprocessing: Fitted constants.
      layout: Static facts.
      states: `[..., F]` normalised.
      next_states: `[..., F]` normalised, later.
      duration: `[...]` how much later, in frame intervals; None for one.

    Returns:
      `[..., Y]`.
    """
    expected = _baseline(preprocessing, states, duration)
    residual = changes(layout, expected, next_states, jnp)
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
    return changed(layout, _baseline(preprocessing, states), residual)
