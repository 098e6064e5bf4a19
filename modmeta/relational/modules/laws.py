"""Laws: the rate at which a sender changes its receiver, from their relative state.

A law is a sum of directions in space times functions of what does not depend on the
frame of reference, and a rate for every other feature. Lengths are in units of the
spread of positions, times in frame intervals, rates in units of the typical change.

Letters: I inputs, B directions, C axes of space, O other predicted features, R = C + O
rates.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import networks
from modmeta.relational.data.domains import minimum_image
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
    angle_differences,
    velocity_per_frame,
)

# In units of the spread of positions: where two bodies meet, a direction has no sense.
SOFTENING = 1e-2
# Distances enter as logarithms and, in this unit, as they are.
_FAR = 3.0
# exp(12) times the typical change: no law of data needs more, and float32 holds it.
_MAX_LOG_RATE = 12.0
# A law may be as strong as this many times the strongest change that was observed.
_HEADROOM = 2.0
# Where components are cut off, the cut bounds what acts, and a component may be small
# where the whole is many times the bound: two bodies that pass each other.
_BEYOND_BOUNDS = 100.0
# Of the slope of what is cut off, the share that laws learn by.
_SLOPE_BEYOND = 0.1
# Rates of all features but positions when nothing is known yet.
_FIRST_RATES = 0.1


class RelativeState(NamedTuple):
    """A sender as its receiver sees it, at an instant.

    Attributes:
      displacement: `[..., C]` position of the sender minus that of the receiver, in
        units of the spread of positions; None without positions.
      velocity: `[..., C]` the same of the velocities, per frame interval; None without.
      others: `[..., E]` sines and cosines of differences of angles, then other
        features of both.
    """

    displacement: jax.Array | None
    velocity: jax.Array | None
    others: jax.Array


@dataclasses.dataclass(frozen=True)
class LawLayout:
    """Static facts about a law: what it depends on, and what it changes.

    Attributes:
      kind: "general", "central" or "mutual", see `ModuleConfig.law`.
      reads_attributes: Whether features that do not change enter.
      layout: Facts about the feature columns.
      max_rate: See `ModuleConfig.max_rate`.
    """

    kind: str
    reads_attributes: bool
    layout: FeatureLayout
    max_rate: float = 0.0

    @property
    def is_spatial(self) -> bool:
        """Whether there are directions in space."""
        return bool(self.layout.spec.positions)

    @property
    def num_axes(self) -> int:
        """Axes of space C."""
        return len(self.layout.spec.positions)

    @property
    def moves(self) -> tuple[bool, ...]:
        """Whether what an acceleration changes is predicted, by axis of space."""
        spec = self.layout.spec
        columns = spec.velocities or spec.positions
        return tuple(column in self.layout.shifting for column in columns)

    @property
    def others(self) -> tuple[int, ...]:
        """Targets Y that are neither positions nor velocities."""
        moving = {*self.layout.spec.positions, *self.layout.spec.velocities}
        shifting = self.layout.shifting
        rest = [i for i, column in enumerate(shifting) if column not in moving]
        turning = range(len(shifting), self.layout.num_targets)
        return (*rest, *turning)

    @property
    def num_directions(self) -> int:
        """Directions B that a law combines."""
        if not self.is_spatial:
            return 0
        has_velocity = bool(self.layout.spec.velocities)
        return 2 if self.kind == "general" and has_velocity else 1

    @property
    def num_outputs(self) -> int:
        """Outputs of a law: a factor per direction, a rate per other feature."""
        return self.num_directions + len(self.others)

    def own_inputs(self, states: jax.Array) -> jax.Array:
        """What acts on an entity alone sees of states `[..., F]`.

        Not where it is in a box that repeats itself: nowhere is special there.
        """
        wrapping = [column for column, _, _ in self.layout.spec.periodic]
        if not wrapping:
            return states
        is_seen = np.ones(self.layout.num_features, bool)
        is_seen[wrapping] = False
        is_seen = is_seen.reshape((1,) * (states.ndim - 1) + (-1,))
        return jnp.where(is_seen, states, 0.0)

    def columns(self) -> tuple[int, ...]:
        """Features of both ends that enter as they are."""
        spec, layout = self.layout.spec, self.layout
        roles = {*spec.positions, *spec.velocities, *spec.sines, *spec.cosines}
        roles |= {*spec.inputs}
        plain = [c for c in range(layout.num_features) if c not in roles]
        if not self.reads_attributes:
            plain = [c for c in plain if c in layout.predicted]
        return tuple(plain)


def relative_state(
    law: LawLayout, preprocessing: Preprocessing, senders: jax.Array, receivers: Any
) -> RelativeState:
    """What a law sees of states `[..., F]` at both ends; leading axes broadcast."""
    spec = law.layout.spec
    displacement = velocity = None
    if spec.positions:
        columns = np.array(spec.positions)
        displacement = senders[..., columns] - receivers[..., columns]
        if spec.periodic:
            unit = preprocessing.normalization.scale[columns]
            periods = jnp.array(spec.periods) / unit
            shape = (1,) * (displacement.ndim - 1) + (-1,)
            displacement = minimum_image(displacement, periods.reshape(shape), jnp)
        displacement = displacement / preprocessing.position_scale
    if spec.has_motion:
        columns = np.array(spec.velocities)
        per_frame, _ = velocity_per_frame(preprocessing, spec)
        velocity = senders[..., columns] - receivers[..., columns]
        velocity = velocity * (per_frame / preprocessing.position_scale)
    parts = []
    if spec.angles:
        parts += angle_differences(senders, receivers, spec.angles)
    columns = np.array(law.columns(), int)
    shape = jnp.broadcast_shapes(senders.shape, receivers.shape)[:-1]
    for states in (senders, receivers):
        parts.append(jnp.broadcast_to(states[..., columns], (*shape, len(columns))))
    return RelativeState(displacement, velocity, jnp.concatenate(parts, axis=-1))


def seen_by_sender(law: LawLayout, relative: RelativeState) -> RelativeState:
    """The same pair with its ends exchanged: the receiver as its sender sees it."""
    num_angles = len(law.layout.spec.angles)
    sines, cosines, columns = jnp.split(
        relative.others, [num_angles, 2 * num_angles], axis=-1
    )
    of_sender, of_receiver = jnp.split(columns, 2, axis=-1)
    others = jnp.concatenate([-sines, cosines, of_receiver, of_sender], axis=-1)
    displacement, velocity = (
        None if values is None else -values
        for values in (relative.displacement, relative.velocity)
    )
    return RelativeState(displacement, velocity, others)


def law_inputs(law: LawLayout, relative: RelativeState) -> tuple[jax.Array, Any]:
    """Inputs `[..., I]` of a law and its directions in space `[..., B, C]`."""
    if relative.displacement is None:
        return relative.others, None
    squared = jnp.sum(jnp.square(relative.displacement), axis=-1, keepdims=True)
    distance = jnp.sqrt(squared + SOFTENING**2)
    direction = relative.displacement / distance
    inputs, directions = [jnp.log(distance), distance / _FAR], [direction]
    if law.num_directions == 2:
        velocity = relative.velocity
        radial = jnp.sum(direction * velocity, axis=-1, keepdims=True)
        speed = jnp.sum(jnp.square(velocity), axis=-1, keepdims=True)
        inputs += [radial, jnp.sqrt(speed + SOFTENING**2)]
        directions.append(velocity)
    inputs.append(relative.others)
    return jnp.concatenate(inputs, axis=-1), jnp.stack(directions, axis=-2)


def saturated(rates: jax.Array, limit: jax.Array) -> jax.Array:
    """Rates below a limit in size, whose slope is nowhere zero.

    Where a law was cut off instead, nothing would ever bring it back.
    """
    return rates / (1.0 + jnp.abs(rates) / limit)


class Units(NamedTuple):
    """Units of rates and changes, from what was observed in the training data.

    Attributes:
      acceleration: `()` typical change of a velocity, in spreads of position per
        squared frame interval; of a position, where there are no velocities.
      limit: `()` what an acceleration stays below, see `saturated`.
      others: `()` of every other rate, in units of its target per frame interval.
      changes: `[2 C + O]` from moments and impulses of accelerations and integrals of
        other rates to units of the targets.
      bounds: `[C]` what the components of an acceleration are cut off at; None where
        they are not.
    """

    acceleration: jax.Array
    limit: jax.Array
    others: jax.Array
    changes: jax.Array
    bounds: jax.Array | None = None

    def cut(self, accelerations: jax.Array) -> jax.Array:
        """Accelerations `[..., C]` as they act where components are cut off."""
        if self.bounds is None:
            return accelerations
        bounds = jnp.reshape(self.bounds, (1,) * (accelerations.ndim - 1) + (-1,))
        return jnp.clip(accelerations, -bounds, bounds)

    def learned_cut(self, accelerations: jax.Array) -> jax.Array:
        """The same with some of the slope of what is cut off, to learn by.

        Without any, nothing would ever bring a law back that is wrong beyond the
        bounds; with all of it, what no law there explains drowns what is known.
        """
        kept = self.cut(accelerations)
        beyond = accelerations - kept
        return kept + _SLOPE_BEYOND * (beyond - jax.lax.stop_gradient(beyond))


def units_of(law: LawLayout, preprocessing: Preprocessing, span: int) -> Units:
    """Units for intervals of `span` frames, see `Units`."""
    spec, layout = law.layout.spec, law.layout
    scale, limit = preprocessing.target_scale, preprocessing.target_limit
    changes = jnp.ones((2 * law.num_axes + len(law.others),))
    per_span = jnp.float32(1.0 / span)
    if not law.is_spatial:
        return Units(per_span, per_span, per_span, changes)
    moved = spec.velocities or spec.positions
    rows = np.array([i for i, c in enumerate(layout.shifting) if c in moved], int)
    per_position = per_velocity = 1.0 / preprocessing.position_scale
    if spec.velocities:
        per_frame, _ = velocity_per_frame(preprocessing, spec)
        per_velocity = per_frame / preprocessing.position_scale
    typical = largest = per_span  # of places, where nothing moves
    if rows.size:
        typical = jnp.mean(scale[rows]) * per_velocity / span
        largest = jnp.max(scale[rows] * limit[rows]) * per_velocity / span
    # Moments move positions and impulses velocities; where there are none, an
    # acceleration is the rate of a position. What is not predicted needs no unit.
    columns = spec.positions + (spec.velocities or spec.positions)
    places = [i for i, column in enumerate(columns) if column in layout.shifting]
    if places:
        is_velocity = np.array([columns[i] in spec.velocities for i in places])
        targets = np.array([layout.shifting.index(columns[i]) for i in places])
        per = jnp.where(is_velocity, per_velocity, per_position)
        changes = changes.at[np.array(places)].set(1.0 / (per * scale[targets]))
    # Where nothing changed, the largest is zero.
    largest = jnp.maximum(largest, typical)
    bounds, limit = None, _HEADROOM * largest
    if law.max_rate:
        interval = layout.frame_interval or 1.0
        unit = preprocessing.normalization.scale[np.array(spec.positions)]
        order = 2 if spec.velocities else 1
        bounds = law.max_rate * interval**order / (unit * preprocessing.position_scale)
        limit = jnp.maximum(limit, _BEYOND_BOUNDS * jnp.max(bounds))
    return Units(typical, limit, per_span, changes, bounds)


class LawNetwork(nn.Module):
    """One edge module as a law, and how far its messages are known.

    Attributes:
      sizes: Hidden layers.
      activation: See `modmeta.networks.ACTIVATIONS`.
      num_outputs: Factors of directions and other rates. Each is the product of a
        positive output, in logarithmic units, so that a law may span many orders of
        size, and one of either sign, so that it may pass through zero at any size.
      num_targets: Changes Y whose spread is told.
    """

    sizes: tuple[int, ...]
    activation: str
    num_outputs: int
    num_targets: int

    def setup(self) -> None:
        """Two networks: what is not known says nothing about the law."""
        self.rate_network = networks.MLP(
            (*self.sizes, 2 * self.num_outputs),
            activation=self.activation,
            output_scale=_FIRST_RATES,
        )
        self.spread_network = networks.MLP(
            (*self.sizes, self.num_targets),
            activation=self.activation,
            output_scale=_FIRST_RATES,
        )

    def __call__(self, inputs: jax.Array, summary: jax.Array):
        """Both, to draw parameters."""
        return self.rates(inputs), self.spreads(summary)

    def rates(self, inputs: jax.Array) -> jax.Array:
        """Rates `[..., outputs]` in units of the typical change."""
        sizes, signed = jnp.split(self.rate_network(inputs), 2, axis=-1)
        return jnp.exp(jnp.clip(sizes, -_MAX_LOG_RATE, _MAX_LOG_RATE)) * signed

    def spreads(self, summary: jax.Array) -> jax.Array:
        """Log-scales `[..., Y]` of a message, in units of the targets."""
        return self.spread_network(summary)


class OwnLawNetwork(nn.Module):
    """One node module as a law: what acts on an entity alone.

    Attributes:
      sizes: Hidden layers.
      activation: See `modmeta.networks.ACTIVATIONS`.
      num_rates: Rates R: of every axis, then of other features.
      num_targets: Changes Y whose spread is told.
    """

    sizes: tuple[int, ...]
    activation: str
    num_rates: int
    num_targets: int

    def setup(self) -> None:
        """A linear part beside the network: friction, drift, a natural frequency."""
        self.linear = networks.Dense(
            self.num_rates, kernel_init=nn.initializers.zeros, name="linear"
        )
        self.rate_network = networks.MLP(
            (*self.sizes, self.num_rates),
            activation=self.activation,
            output_scale=_FIRST_RATES,
        )
        self.spread_network = networks.MLP(
            (*self.sizes, self.num_targets),
            activation=self.activation,
            output_scale=_FIRST_RATES,
        )

    def __call__(self, states: jax.Array):
        """Both, to draw parameters."""
        return self.rates(states), self.spreads(states)

    def rates(self, states: jax.Array) -> jax.Array:
        """Rates `[..., R]` in units of the typical change."""
        return self.linear(states) + self.rate_network(states)

    def spreads(self, states: jax.Array) -> jax.Array:
        """Log-scales `[..., Y]`, in units of the targets."""
        return self.spread_network(states)
