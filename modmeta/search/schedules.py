"""Temperature schedules as pure `init`/`step` pairs.

A schedule sees one scalar per step, the share of worsening proposals that were
accepted over all chains of the batch, and may ignore it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.search import base


class ScheduleState(NamedTuple):
    """State of a schedule.

    Attributes:
      temperature: `()` present temperature, in the unit of the energy.
      count: `()` int32, steps taken.
      rate: `()` running sum behind the acceptance rate of worsening moves.
      weight: `()` its normaliser.
    """

    temperature: jax.Array
    count: jax.Array
    rate: jax.Array
    weight: jax.Array


class TemperatureSchedule(NamedTuple):
    """A temperature schedule.

    Attributes:
      init: `() -> ScheduleState`.
      step: `(state, num_worsening, num_accepted_worsening) -> ScheduleState`.
    """

    init: Callable[[], ScheduleState]
    step: Callable[[ScheduleState, jax.Array, jax.Array], ScheduleState]


def _initial_state(temperature: jax.Array) -> ScheduleState:
    return ScheduleState(
        temperature=jnp.asarray(temperature, jnp.float32),
        count=jnp.zeros((), jnp.int32),
        rate=jnp.zeros(()),
        weight=jnp.zeros(()),
    )


def geometric_temperature(
    initial: float, final: float, num_steps: int
) -> Callable[[jax.Array], jax.Array]:
    """Temperature as a function of the step: geometric, then constant.

    Args:
      initial: Temperature at step 0.
      final: Temperature from step `num_steps` on.
      num_steps: Number of steps between them.

    Returns:
      `step -> temperature`.

    Raises:
      ValueError: If a temperature is not positive or `num_steps` is negative.
    """
    if initial <= 0 or final <= 0 or num_steps < 0:
        raise ValueError(
            f"geometric_temperature: found initial={initial}, final={final}, "
            f"num_steps={num_steps}, expected positive temperatures and num_steps >= 0"
        )
    log_ratio = jnp.log(final / initial)

    def temperature(count: jax.Array) -> jax.Array:
        fraction = jnp.clip(count / num_steps, 0.0, 1.0) if num_steps else 1.0
        return initial * jnp.exp(fraction * log_ratio)

    return temperature


def geometric(initial: float, final: float, num_steps: int) -> TemperatureSchedule:
    """Cools geometrically from `initial` to `final` in `num_steps`, then stays.

    Args:
      initial: First temperature.
      final: Last temperature.
      num_steps: Steps between them.
    """
    temperature = geometric_temperature(initial, final, num_steps)

    def step(state, num_worsening, num_accepted_worsening):
        del num_worsening, num_accepted_worsening
        count = state.count + 1
        return state._replace(temperature=temperature(count), count=count)

    return TemperatureSchedule(
        init=lambda: _initial_state(temperature(jnp.zeros(()))), step=step
    )


def worsening_acceptance(
    target: Callable[[jax.Array], jax.Array],
    *,
    initial: float = 5.5e-5,
    floor: float = 1e-38,
    factor: float = 1.1,
    max_weight: float = 0.01,
) -> TemperatureSchedule:
    """Steers the acceptance rate of worsening moves to a target (reference code).

    The running rate is an exponential mean over worsening proposals only, with weight
    min(`max_weight`, present rate) per proposal, divided by its own normaliser. Below
    the target the temperature is multiplied by `factor`, above it is divided.
    Deviation: the proposals of one batch enter together, at their mean, instead of
    one after the other; the floor is the smallest normal float32, not exp(-100).

    Args:
      target: `step -> rate`, for instance `reference_target`.
      initial: First temperature; the published one is exp(-9.8).
      floor: Smallest temperature.
      factor: Change per step.
      max_weight: Largest weight of one proposal in the running rate.
    """

    def step(
        state: ScheduleState,
        num_worsening: jax.Array,
        num_accepted_worsening: jax.Array,
    ) -> ScheduleState:
        estimate = state.rate / jnp.maximum(state.weight, 1e-12)
        weight = jnp.where(
            state.weight > 0, jnp.clip(estimate, 1e-6, max_weight), max_weight
        )
        kept = jnp.power(1.0 - weight, num_worsening.astype(jnp.float32))
        observed = num_accepted_worsening / jnp.maximum(num_worsening, 1)
        rate = kept * state.rate + (1.0 - kept) * observed
        normaliser = kept * state.weight + (1.0 - kept)
        current = rate / jnp.maximum(normaliser, 1e-12)
        temperature = jnp.where(
            current < target(state.count),
            state.temperature * factor,
            jnp.maximum(state.temperature / factor, floor),
        )
        return ScheduleState(
            temperature=temperature,
            count=state.count + 1,
            rate=rate,
            weight=normaliser,
        )

    return TemperatureSchedule(init=lambda: _initial_state(initial), step=step)


def reference_target(
    intercept: float = -1.0, slope: float = -5.0 / 800.0
) -> Callable[[jax.Array], jax.Array]:
    """The published target rate exp(-1 - 5 step / 800) of accepted worsening moves.

    Args:
      intercept: Exponent at step 0.
      slope: Change of the exponent per step.
    """
    return lambda count: jnp.exp(intercept + slope * count)


def count_worsening(info: base.SearchInfo, mask: jax.Array | None = None):
    """Counts worsening proposals, and those of them that were accepted.

    Args:
      info: Diagnostics with any leading axes.
      mask: Proposals that count; shape of `info.is_worsening`. All where None.

    Returns:
      `(num_worsening, num_accepted_worsening)`, scalars.
    """
    worsening = info.is_worsening
    if mask is not None:
        worsening = worsening & mask
    return jnp.sum(worsening), jnp.sum(worsening & info.is_accepted)
