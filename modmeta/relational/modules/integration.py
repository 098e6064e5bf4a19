"""Prediction by integration: the composed law from one observed state onwards.

Nothing here sees a later frame. Bodies move by velocity Verlet steps, exact to second
order in the length of a step; where anything else changes, everything moves by those of
Runge and Kutta, exact to fourth order.

Letters: N nodes, D slots, F features, C axes of space, O other rates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import networks
from modmeta.relational.data.domains import Domain
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.laws import relative_state, units_of
from modmeta.relational.modules.preprocessing import (
    changed,
    velocity_per_frame,
    with_columns,
)
from modmeta.search import Structure


@dataclasses.dataclass(frozen=True)
class Integrator:
    """How the composed law is integrated.

    Attributes:
      modules: The bank with its arrays.
      structure: Module of every slot `[N, D]` and node `[N]`.
      slot_senders: `[N, D]` node that the edge of a slot comes from; from N on, of
        those that are heard besides, see `advance_among`.
      slot_mask: `[N, D]` true at real slots.
      num_substeps: Steps per frame interval.
      domain: Where bodies can be.
      effects: What nodes have of their own, leaves `[N, ...]`; None where all are
        alike.
      inputs: `[N, C]` normalised inputs at the end of a frame, which they go to
        straight; None where there are none.
    """

    modules: BoundBank
    structure: Structure
    slot_senders: jax.Array
    slot_mask: jax.Array
    num_substeps: int | jax.Array
    domain: Domain = Domain()
    effects: Effects | None = None
    inputs: jax.Array | None = None

    def rates(
        self, states: jax.Array, others: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Accelerations `[N, C]` and other rates `[N, O]` of states `[N, F]`.

        Args:
          states: See above.
          others: `[S, F]` of those that are heard besides; None for nobody.
        """
        modules = self.modules
        laws = modules.bank.laws
        preprocessing = modules.preprocessing
        units = units_of(laws.law, preprocessing, laws.span)
        edge, chosen, is_heard = modules.heard(self.structure, self.slot_mask)
        heard = states if others is None else jnp.concatenate([states, others])
        relative = relative_state(
            laws.law, preprocessing, heard[self.slot_senders], states[:, None]
        )

        def of_pair(params):
            rate, others, _ = laws.pair_rates(units, params, relative)
            return jnp.concatenate([rate, others], axis=-1)

        # All modules on all pairs: cheaper, step after step, than sorting the pairs.
        found = jax.vmap(of_pair)(edge)
        weights = jax.nn.one_hot(chosen, found.shape[0]) * is_heard[..., None]
        total = jnp.einsum("ndk,kndr->nr", weights, found)

        def own(params, states):
            return laws.node_module.apply({"params": params}, states, method="rates")

        alone = networks.apply_chosen(
            own,
            modules.params.node,
            self.structure.node_modules,
            laws.law.own_inputs(states),
        )
        if self.effects is not None:
            total = self.effects.factor[:, None] * total
            alone = alone + self.effects.offsets
        axes = laws.law.num_axes
        acceleration = total[:, :axes] + units.acceleration * alone[:, :axes]
        acceleration = units.cut(acceleration)
        moves = laws.law.moves
        if not all(moves):
            # Motion in a plane of space: nothing was learned of what never changes.
            acceleration = jnp.where(np.array(moves)[None], acceleration, 0.0)
        return acceleration, total[:, axes:] + units.others * alone[:, axes:]

    def advance(
        self, states: jax.Array, duration: jax.Array | None = None
    ) -> jax.Array:
        """Normalised states later than `[N, F]`.

        Args:
          states: `[N, F]` normalised.
          duration: `[N]` how much later, in frame intervals; None for one.

        Returns:
          `[N, F]`.
        """
        laws = self.modules.bank.laws
        columns = laws.law.layout.spec.inputs
        begin = states[..., np.array(columns, int)]

        def at(states, share):
            """States with the inputs of a share of the frame."""
            if self.inputs is None:
                return states
            return with_columns(states, columns, begin + share * (self.inputs - begin))

        is_mechanical = laws.law.layout.spec.has_motion and not laws.law.others
        length = 1.0 / self.num_substeps
        if duration is not None:
            length = duration[:, None] * length
        if is_mechanical:
            return at(self._verlet(states, length, at), 1.0)

        def body(index, states):
            def change(states, passed):
                return self._change(at(states, (index + passed) / self.num_substeps))

            return self._runge_kutta(states, length, change)

        return at(jax.lax.fori_loop(0, self.num_substeps, body, states), 1.0)

    def advance_among(
        self, states: jax.Array, others: jax.Array, duration: jax.Array
    ) -> jax.Array:
        """Normalised states `[N, F]` later, driven by others whose paths are known.

        Args:
          states: `[N, F]` normalised.
          others: `[2 substeps + 1, S, F]` states of the others at equal steps from the
            start to the end.
          duration: `()` how much later, in frame intervals.
        """
        length = duration / self.num_substeps
        # Every stage of a step: who is heard, how far the last slope leads, its weight.
        stages = jnp.stack([others[:-1:2], others[1::2], others[1::2], others[2::2]], 1)
        reach = jnp.array([0.0, 0.5, 0.5, 1.0])
        weight = jnp.array([1.0, 2.0, 2.0, 1.0]) / 6.0

        def step(states, heard):
            def stage(carry, given):
                slope, total = carry
                heard, reach, weight = given
                moved = self.move(states, reach * length * slope)
                slope = self._change(moved, heard)
                return (slope, total + weight * slope), None

            # A loop, which compiles in a quarter of the time.
            nothing = jnp.zeros((len(states), self.modules.bank.layout.num_targets))
            (_, total), _ = jax.lax.scan(
                stage, (nothing, nothing), (heard, reach, weight)
            )
            moved = self.move(states, length * total)
            if self.domain.kind != "open":
                moved = self._join(moved, *self._reflect(*self._split(moved)))
            return moved, None

        return jax.lax.scan(step, states, stages)[0]

    def _split(self, states: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalised positions, and what they change by in a frame interval."""
        spec = self.modules.bank.layout.spec
        per_frame, shift = velocity_per_frame(self.modules.preprocessing, spec)
        velocity = states[..., np.array(spec.velocities)]
        return states[..., np.array(spec.positions)], per_frame * velocity + shift[None]

    def _join(self, states, position, drift):
        spec = self.modules.bank.layout.spec
        per_frame, shift = velocity_per_frame(self.modules.preprocessing, spec)
        velocity = (drift - shift[None]) / per_frame
        motion = jnp.concatenate([position, velocity], axis=-1)
        return with_columns(states, [*spec.positions, *spec.velocities], motion)

    def _verlet(
        self, states: jax.Array, length: float | jax.Array, at: Callable
    ) -> jax.Array:
        """All steps of a frame; one evaluation of the rates each."""
        spread = self.modules.preprocessing.position_scale
        position, drift = self._split(states)

        def rate_at(position, drift, share):
            now = self._join(at(states, share), position, drift)
            return spread * self.rates(now)[0]

        def body(index, carry):
            position, drift, rate = carry
            middle = drift + 0.5 * length * rate
            position, middle = self._reflect(position + length * middle, middle)
            # Of forces that depend on velocities, those at the predicted one.
            share = (index + 1) / self.num_substeps
            rate = rate_at(position, middle + 0.5 * length * rate, share)
            return position, middle + 0.5 * length * rate, rate

        start = (position, drift, rate_at(position, drift, 0.0))
        position, drift, _ = jax.lax.fori_loop(0, self.num_substeps, body, start)
        return self._join(states, position, drift)

    def _reflect(self, position, drift):
        if self.domain.kind != "reflecting":
            return position, drift
        columns = np.array(self.modules.bank.layout.spec.positions)
        offset, scale = (
            leaf[columns] for leaf in self.modules.preprocessing.normalization
        )
        lower, upper = (
            ((jnp.array(corner) - offset) / scale)[None]
            for corner in (self.domain.lower, self.domain.upper)
        )
        is_above, is_below = position > upper, position < lower
        position = jnp.where(is_above, 2.0 * upper - position, position)
        position = jnp.where(is_below, 2.0 * lower - position, position)
        speed = jnp.abs(drift)
        drift = jnp.where(is_above, -speed, jnp.where(is_below, speed, drift))
        return position, drift

    def _runge_kutta(
        self, states: jax.Array, length: float | jax.Array, change: Callable
    ) -> jax.Array:
        first = change(states, 0.0)
        second = change(self.move(states, 0.5 * length * first), 0.5)
        third = change(self.move(states, 0.5 * length * second), 0.5)
        fourth = change(self.move(states, length * third), 1.0)
        total = first + 2.0 * second + 2.0 * third + fourth
        states = self.move(states, length / 6.0 * total)
        if self.domain.kind != "reflecting":
            return states
        position, drift = self._split(states)
        return self._join(states, *self._reflect(position, drift))

    def _change(self, states: jax.Array, others: jax.Array | None = None) -> jax.Array:
        """Changes `[N, Y]` per frame interval, of columns and of angles in radians."""
        bank = self.modules.bank
        layout, law = bank.layout, bank.laws.law
        spec, preprocessing = layout.spec, self.modules.preprocessing
        acceleration, rates = self.rates(states, others)
        moving = preprocessing.position_scale * acceleration
        if spec.has_motion:
            per_frame, _ = velocity_per_frame(preprocessing, spec)
            drift = self._split(states)[1]
        columns = []
        for target in range(layout.num_targets):
            column = layout.shifting[target] if target < len(layout.shifting) else None
            if target in law.others:
                rate = rates[:, law.others.index(target)]
                columns.append(rate * preprocessing.target_scale[target])
            elif column in spec.velocities:
                columns.append(moving[:, spec.velocities.index(column)] / per_frame)
            elif spec.has_motion:
                columns.append(drift[:, spec.positions.index(column)])
            else:
                columns.append(moving[:, spec.positions.index(column)])
        return jnp.stack(columns, axis=-1)

    def move(self, states: jax.Array, changes: jax.Array) -> jax.Array:
        """States `[N, F]` after changes `[N, Y]`, of angles in radians."""
        return changed(self.modules.bank.layout, states, changes)
