"""Messages as integrals of laws over the interval between two observed frames.

They are terms of a sum over senders, as are the variances of what is not known.

Letters: I intervals, S points on a path, C axes of space, O other predicted features,
Y predicted changes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.modules.integrals import Integrals, quadrature, two_body_flow
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
from modmeta.relational.modules.motion import Motion, Windows
from modmeta.relational.modules.preprocessing import Preprocessing, with_columns


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
