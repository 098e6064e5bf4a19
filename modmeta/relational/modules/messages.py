"""Messages as integrals of laws over the interval between two observed frames.

Over an interval of length h, a rate a adds to a velocity its impulse, the integral of
a dt, and to a position, beyond constant velocity, its moment, that of (h - t) a dt.
Both are terms of a sum over senders, as are the variances of what is not known.

Letters: I intervals, S points on a path, C axes of space, O other predicted features,
Y predicted changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.modules.laws import (
    LawLayout,
    LawNetwork,
    OwnLawNetwork,
    RelativeState,
    Units,
    law_inputs,
    relative_state,
    saturated,
    seen_by_sender,
    units_of,
)
from modmeta.relational.modules.motion import Motion, Windows, gauss_legendre
from modmeta.relational.modules.preprocessing import Preprocessing, with_columns

# Shares of a time: how near in time a passage is thought to be at least, however close,
# as a path that bends passes elsewhere; and beyond which steps are of one length.
_BRIEF, _LONG = 0.05, 10.0
# Of squared distances in spreads of position: a pair that stands still.
_TINY = 1e-12


class Integrals(NamedTuple):
    """What a rate adds over an interval.

    Attributes:
      moment: `[..., I, C]` of accelerations.
      impulse: `[..., I, C]`.
      others: `[..., I, O]` integrals of the other rates.
    """

    moment: jax.Array
    impulse: jax.Array
    others: jax.Array


def quadrature(
    accelerations: jax.Array, others: jax.Array, duration: jax.Array
) -> Integrals:
    """Gauss-Legendre sums of rates over the points of a path.

    Args:
      accelerations: `[..., I, S, C]` at the S points of `motion.gauss_legendre`.
      others: `[..., I, S, O]`.
      duration: `[..., I]`; the leading axes broadcast.
    """
    points, weights = gauss_legendre(accelerations.shape[-2])
    shape = (1,) * (accelerations.ndim - 2) + (-1, 1)
    left, weights = (1.0 - points).reshape(shape), weights.reshape(shape)
    length = jnp.broadcast_to(duration, accelerations.shape[:-2])[..., None]
    return Integrals(
        jnp.square(length) * jnp.sum(left * weights * accelerations, axis=-2),
        length * jnp.sum(weights * accelerations, axis=-2),
        length * jnp.sum(weights * others, axis=-2),
    )


def two_body_flow(
    rates: Callable[[RelativeState], tuple[jax.Array, jax.Array, jax.Array]],
    first: RelativeState,
    last: RelativeState,
    duration: jax.Array,
    num_steps: int,
) -> tuple[Integrals, jax.Array]:
    """Integrals of a law along the motion that a pair would take under it alone.

    Leapfrog, half of the steps forwards from the first state, half backwards from the
    last: the others, who pull as well, have less time to lead the pair elsewhere. Steps
    are shorter where the pair is about to pass closely, see `next_step`.

    Args:
      rates: From relative states to the accelerations of receiver and sender, both
        `[..., C]`, and the inputs `[..., inputs]` of the law.
      first: Relative states at the start, leaves `[..., I, C]`.
      last: Those at the end.
      duration: `[..., I]`; the leading axes broadcast.
      num_steps: Steps, an even number.

    Returns:
      The integrals, and the inputs at all steps `[..., I, num_steps, inputs]`.
    """
    shape = first.displacement.shape[:-1]
    duration = jnp.broadcast_to(duration, shape)[None, ..., None]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, last)
    # Backwards in time velocities point the other way, and forces do not.
    sign = jnp.reshape(jnp.array([1.0, -1.0]), (2,) + (1,) * len(shape) + (1,))

    def body(carry, num_left):
        displacement, velocity, left = carry
        step = next_step(displacement, velocity, left, num_left)
        displacement = displacement + 0.5 * step * velocity
        rate, of_sender, inputs = rates(
            RelativeState(displacement, sign * velocity, both.others)
        )
        velocity = velocity + step * (of_sender - rate)
        displacement = displacement + 0.5 * step * velocity
        # Until the middle of the interval, and from where the rate acts to its end.
        until = left - 0.5 * step
        after = 0.5 * duration + sign * until
        impulse = step * rate
        return (displacement, velocity, left - step), (impulse, after * impulse, inputs)

    half = num_steps // 2
    left = jnp.broadcast_to(0.5 * duration, (2, *shape, 1))
    _, (impulses, moments, inputs) = jax.lax.scan(
        body,
        (both.displacement, sign * both.velocity, left),
        jnp.arange(half, 0, -1, dtype=jnp.float32),
    )
    integrals = Integrals(
        jnp.sum(moments, axis=(0, 1)),
        jnp.sum(impulses, axis=(0, 1)),
        jnp.zeros((*shape, 0)),
    )
    inputs = inputs.reshape(num_steps, *inputs.shape[2:])
    return integrals, jnp.moveaxis(inputs, 0, -2)


def next_step(
    displacement: jax.Array, velocity: jax.Array, left: jax.Array, num_left: jax.Array
) -> jax.Array:
    """Length `[..., 1]` of the next of some steps that fill a time.

    As many of them per time as the pair would be near each other if it went straight:
    their number grows with one over the distance. Asked anew before every step, so that
    it follows the pair where its path bends.

    Args:
      displacement: `[..., C]`.
      velocity: `[..., C]` of the displacement.
      left: `[..., 1]` the time.
      num_left: `()` the number of steps.
    """
    # Steps are no part of what is learned.
    displacement, velocity, left = jax.lax.stop_gradient((displacement, velocity, left))
    ahead = velocity * left
    squared = jnp.sum(jnp.square(ahead), axis=-1, keepdims=True) + _TINY
    closest = -jnp.sum(displacement * ahead, axis=-1, keepdims=True) / squared
    passed_at = jnp.square(displacement + closest * ahead)
    width = jnp.sqrt(jnp.sum(passed_at, axis=-1, keepdims=True) / squared)
    # In units of the time: when the pair is nearest, and how long it stays near.
    closest = jnp.clip(closest, -_LONG, _LONG)
    width = jnp.clip(width, _BRIEF, _LONG)
    begin, end = jnp.arcsinh(-closest / width), jnp.arcsinh((1.0 - closest) / width)
    share = closest + width * jnp.sinh(begin + (end - begin) / num_left)
    return left * jnp.where(num_left > 1, jnp.clip(share, 0.0, 1.0), 1.0)


@dataclasses.dataclass(frozen=True)
class LawMessages:
    """Messages of a bank of laws.

    Attributes:
      law: What a law depends on and changes.
      path: "interpolated": along observed paths. "two_body": along the relative motion
        that the pair would take under the law alone, from both ends of the interval.
      num_points: Evaluations of a law per interval.
      span: Intervals per window; sets the units.
      edge_sizes: Hidden layers of a law.
      node_sizes: Hidden layers of what acts on an entity alone.
      activation: See `modmeta.networks.ACTIVATIONS`.
    """

    law: LawLayout
    path: str
    num_points: int
    span: int
    edge_sizes: tuple[int, ...]
    node_sizes: tuple[int, ...]
    activation: str

    @property
    def edge_module(self) -> LawNetwork:
        """The architecture of an edge module."""
        return LawNetwork(
            self.edge_sizes,
            self.activation,
            self.law.num_outputs,
            self.law.layout.num_targets,
        )

    @property
    def node_module(self) -> OwnLawNetwork:
        """The architecture of a node module."""
        return OwnLawNetwork(
            self.node_sizes,
            self.activation,
            self.num_rates,
            self.law.layout.num_targets,
        )

    @property
    def num_rates(self) -> int:
        """Rates R: of every axis, then of other features."""
        return self.law.num_axes + len(self.law.others)

    def edge_examples(self, preprocessing: Preprocessing) -> tuple[jax.Array, ...]:
        """Inputs of an edge module, to draw its parameters."""
        state = jnp.zeros((self.law.layout.num_features,))
        inputs, _ = law_inputs(
            self.law, relative_state(self.law, preprocessing, state, state)
        )
        return inputs, jnp.concatenate([inputs, inputs])

    def edge(
        self,
        preprocessing: Preprocessing,
        params: Any,
        senders: Motion,
        receivers: Motion,
    ) -> jax.Array:
        """Messages of one law, `[..., I, 2 Y]`: changes and their log-scales.

        Args:
          preprocessing: Fitted constants.
          params: Parameters of one edge module.
          senders: Motion of the senders, leaves `[..., I, ...]`.
          receivers: Motion of the receivers; the leading axes broadcast.
        """
        units = units_of(self.law, preprocessing, self.span)
        integrals, inputs = self._integrate(
            units, preprocessing, params, senders, receivers
        )
        summary = jnp.concatenate(
            [jnp.min(inputs, axis=-2), jnp.max(inputs, axis=-2)], axis=-1
        )
        spreads = self.edge_module.apply({"params": params}, summary, method="spreads")
        return jnp.concatenate([self.changes(units, integrals), spreads], axis=-1)

    def node(self, preprocessing: Preprocessing, params: Any, motion: Motion):
        """What one node module adds to its node, `[..., I, 2 Y]` as for `edge`."""
        units = units_of(self.law, preprocessing, self.span)
        apply = self.node_module.apply
        points, start = map(self.law.own_inputs, (motion.points, motion.start))
        rates = apply({"params": params}, points, method="rates")
        axes = self.law.num_axes
        integrals = quadrature(
            units.acceleration * rates[..., :axes],
            units.others * rates[..., axes:],
            motion.duration,
        )
        spreads = apply({"params": params}, start, method="spreads")
        return jnp.concatenate([self.changes(units, integrals), spreads], axis=-1)

    def pair_rates(
        self, units: Units, params: Any, relative: RelativeState
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One law at relative states.

        Returns:
          Accelerations `[..., C]`, before any component is cut off, other rates
          `[..., O]`, and the inputs `[..., I]`.
        """
        inputs, directions = law_inputs(self.law, relative)
        outputs = self.edge_module.apply({"params": params}, inputs, method="rates")
        factors, others = jnp.split(outputs, [self.law.num_directions], axis=-1)
        others = units.others * others
        if directions is None:
            return jnp.zeros((*others.shape[:-1], 0)), others, inputs
        factors = saturated(units.acceleration * factors, units.limit)
        return jnp.sum(factors[..., None] * directions, axis=-2), others, inputs

    def _integrate(
        self, units, preprocessing, params, senders, receivers
    ) -> tuple[Integrals, jax.Array]:
        """Integrals of a law over the intervals, and the inputs that it was asked."""

        def rates(relative):
            accelerations, others, inputs = self.pair_rates(units, params, relative)
            return units.learned_cut(accelerations), others, inputs

        def relative(name):
            return relative_state(
                self.law,
                preprocessing,
                getattr(senders, name),
                getattr(receivers, name),
            )

        if self.path == "interpolated":
            accelerations, others, inputs = rates(relative("points"))
            return quadrature(accelerations, others, receivers.duration), inputs

        def of_both(relative):
            rate, _, inputs = rates(relative)
            of_sender = jnp.zeros_like(rate)
            if self.law.kind == "mutual":
                # Without features of the ends, what pulls one pulls the other as much.
                of_sender = -rate
                if self.law.columns():
                    of_sender = rates(seen_by_sender(self.law, relative))[0]
            return rate, of_sender, inputs

        first, last = relative("start"), relative("end")
        integrals, inputs = two_body_flow(
            of_both, first, last, receivers.duration, self.num_points
        )
        ends = [law_inputs(self.law, end)[0][..., None, :] for end in (first, last)]
        return integrals, jnp.concatenate([inputs, *ends], axis=-2)

    def changes(self, units: Units, integrals: Integrals) -> jax.Array:
        """Integrals as changes of the targets, `[..., Y]`."""
        law, layout = self.law, self.law.layout
        spec, axes = layout.spec, law.num_axes
        # Without velocities, an acceleration is the rate of a position.
        of_position = 0 if spec.velocities else axes
        places = []
        for target in range(layout.num_targets):
            column = layout.shifting[target] if target < len(layout.shifting) else None
            if target in law.others:
                places.append(2 * axes + law.others.index(target))
            elif column in spec.positions:
                places.append(of_position + spec.positions.index(column))
            else:
                places.append(axes + spec.velocities.index(column))
        values = jnp.concatenate(list(integrals), axis=-1)
        changes = jnp.reshape(units.changes, (1,) * (values.ndim - 1) + (-1,))
        return (values * changes)[..., np.array(places)]

    def rate_of_target(self) -> np.ndarray:
        """Which rate moves which target, one-hot `[Y, R]`."""
        law, layout = self.law, self.law.layout
        spec = layout.spec
        found = np.zeros((layout.num_targets, self.num_rates), np.float32)
        for target in range(layout.num_targets):
            if target in law.others:
                rate = law.num_axes + law.others.index(target)
            else:
                column = layout.shifting[target]
                group = spec.positions if column in spec.positions else spec.velocities
                rate = group.index(column)
            found[target, rate] = 1.0
        return found

    def unit_changes(
        self, preprocessing: Preprocessing, duration: jax.Array
    ) -> jax.Array:
        """Changes `[..., Y]` by all rates at their unit for a time `[...]`."""
        units = units_of(self.law, preprocessing, self.span)

        def constant(value, count):
            length = (*duration.shape, count)
            return jnp.broadcast_to((value * duration)[..., None], length)

        impulse = constant(units.acceleration, self.law.num_axes)
        others = constant(units.others, len(self.law.others))
        moment = 0.5 * duration[..., None] * impulse
        return self.changes(units, Integrals(moment, impulse, others))

    def collect(
        self, preprocessing: Preprocessing, messages: jax.Array, windows: Windows
    ) -> jax.Array:
        """Sums messages over windows.

        What a velocity gains early in a window moves the position until its end.

        Args:
          preprocessing: Fitted constants.
          messages: `[N, ..., I, 2 Y]` changes and variances.
          windows: Which intervals are in which window; leaves `[N, W, I]`.

        Returns:
          `[N, ..., W, 2 Y]`.
        """
        total = jnp.einsum("wi,...iy->...wy", windows.is_inside, messages)
        layout, spec = self.law.layout, self.law.layout.spec
        if not spec.has_motion:
            return total
        units = units_of(self.law, preprocessing, self.span)
        axes, pairs, factors = self.law.num_axes, [], []
        for axis, columns in enumerate(
            zip(spec.positions, spec.velocities, strict=True)
        ):
            if set(columns) <= set(layout.shifting):
                pairs.append([layout.shifting.index(c) for c in columns])
                factors.append(units.changes[axis] / units.changes[axes + axis])
        if not pairs:
            return total
        position, velocity = np.array(pairs).T
        drift = jnp.einsum(
            "nwi,n...ic->n...wc", windows.remaining, messages[..., velocity]
        )
        factors = jnp.reshape(jnp.stack(factors), (1,) * (drift.ndim - 1) + (-1,))
        moved = total[..., position] + drift * factors
        return with_columns(total, position, moved)
