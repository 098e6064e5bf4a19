"""Temperatures: curves, schedules as pure `init`/`step` pairs, and where to start.

A schedule sees two numbers per step, the worsening proposals of all chains of the batch
and those of them that were accepted, and may ignore them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from modmeta.search import base, checks

# Random structures behind a first temperature. The standard deviation of so few is
# right within a third, and a third more or less of it changes hardly any acceptance.
SPREAD_DRAWS = 8

# Smallest normal float32: below it, energies divided by a temperature overflow.
_MIN_TEMPERATURE = 1e-38
# A running rate is divided by the weight of what entered it; before anything did, both
# are zero, and so must be the quotient.
_MIN_WEIGHT = 1e-12
# Of a proposal in the running rate, also where nothing was accepted for long.
_MIN_RATE = 1e-6


class ScheduleState(NamedTuple):
    """State of a schedule.

    Attributes:
      temperature: `()` present temperature, in the unit of the energy.
      count: `()` int32, steps taken.
      rate: `()` running sum behind the acceptance rate of worsening moves.
      weight: `()` its normaliser.
    """

    temperature: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    rate: jax.Array
    weight: jax.Array


class TemperatureFunction(Protocol):
    """Temperature, or a rate, as a function of the step."""

    def __call__(self, step: jax.Array, /) -> jax.Array:
        """The value at a step `()` or at any shape of steps."""
        ...


class ScheduleInitFn(Protocol):
    """Starts a schedule."""

    def __call__(self) -> ScheduleState:
        """The state at step 0."""
        ...


class ScheduleStepFn(Protocol):
    """Advances a schedule."""

    def __call__(
        self,
        state: ScheduleState,
        num_worsening: jax.Array,
        num_accepted_worsening: jax.Array,
    ) -> ScheduleState:
        """The state after one step of all chains.

        Args:
          state: The state before.
          num_worsening: `()` worsening proposals of the step.
          num_accepted_worsening: `()` those of them that were accepted.
        """
        ...


class TemperatureSchedule(NamedTuple):
    """A temperature schedule.

    Attributes:
      init: `() -> ScheduleState`.
      step: `(state, num_worsening, num_accepted_worsening) -> ScheduleState`.
    """

    init: ScheduleInitFn
    step: ScheduleStepFn


def _initial_state(temperature: float | jax.Array) -> ScheduleState:
    return ScheduleState(
        temperature=jnp.asarray(temperature, jnp.float32),
        count=jnp.zeros((), jnp.int32),
        rate=jnp.zeros(()),
        weight=jnp.zeros(()),
    )


def geometric_curve(
    initial: float | jax.Array, final: float | jax.Array
) -> Callable[[float | jax.Array], jax.Array]:
    """Geometric cooling as a function of the share of it that is done.

    Every geometric temperature comes from here. Of problems with first temperatures
    `[P]`, those of T steps are
    `geometric_curve(initial[:, None], final)(jnp.linspace(0.0, 1.0, T)[None])`.

    Args:
      initial: Temperature at 0, above zero; any shape.
      final: Temperature at 1, above zero; broadcasts with it.

    Returns:
      `fraction -> initial * (final / initial) ** fraction`, where the fraction
      broadcasts with the temperatures.
    """
    log_ratio = jnp.log(final / initial)
    return lambda fraction: initial * jnp.exp(log_ratio * fraction)


def spread_temperature(energies: jax.Array, at_least: float | jax.Array) -> jax.Array:
    """A first temperature: the standard deviation of energies of random structures.

    At it nearly every move is accepted.

    Args:
      energies: `[draws, ...]`, for instance of `SPREAD_DRAWS` structures per problem;
        what is not finite does not count.
      at_least: The lowest temperature that is returned, also where no energy is finite.

    Returns:
      `[...]`, in the unit of the energy.
    """
    energies = jnp.where(jnp.isfinite(energies), energies, jnp.nan)
    return jnp.maximum(jnp.nan_to_num(jnp.nanstd(energies, axis=0)), at_least)


def geometric_temperature(
    initial: float, final: float, num_steps: int
) -> TemperatureFunction:
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
    curve = geometric_curve(initial, final)

    def temperature(step: jax.Array) -> jax.Array:
        return curve(jnp.clip(step / num_steps, 0.0, 1.0) if num_steps else 1.0)

    return temperature


def geometric(initial: float, final: float, num_steps: int) -> TemperatureSchedule:
    """Cools geometrically from `initial` to `final` in `num_steps`, then stays.

    Args:
      initial: First temperature.
      final: Last temperature.
      num_steps: Steps between them.
    """
    temperature = geometric_temperature(initial, final, num_steps)

    def init() -> ScheduleState:
        return _initial_state(temperature(jnp.zeros(())))

    def step(
        state: ScheduleState,
        num_worsening: jax.Array,
        num_accepted_worsening: jax.Array,
    ) -> ScheduleState:
        del num_worsening, num_accepted_worsening
        count = state.count + 1
        return state._replace(temperature=temperature(count), count=count)

    return TemperatureSchedule(init, step)


def worsening_acceptance(
    target: TemperatureFunction,
    *,
    initial: float = 5.5e-5,
    floor: float = _MIN_TEMPERATURE,
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
      factor: Change per step, as published.
      max_weight: Largest weight of one proposal in the running rate, as published.

    Raises:
      ValueError: If a number is out of its range.
    """
    checks.positive(initial=initial, floor=floor)
    checks.at_least(1, factor=factor)
    checks.share(max_weight=max_weight)

    def init() -> ScheduleState:
        return _initial_state(initial)

    def step(
        state: ScheduleState,
        num_worsening: jax.Array,
        num_accepted_worsening: jax.Array,
    ) -> ScheduleState:
        estimate = state.rate / jnp.maximum(state.weight, _MIN_WEIGHT)
        weight = jnp.where(
            state.weight > 0, jnp.clip(estimate, _MIN_RATE, max_weight), max_weight
        )
        kept = jnp.power(1.0 - weight, num_worsening.astype(jnp.float32))
        observed = num_accepted_worsening / jnp.maximum(num_worsening, 1)
        rate = kept * state.rate + (1.0 - kept) * observed
        normaliser = kept * state.weight + (1.0 - kept)
        current = rate / jnp.maximum(normaliser, _MIN_WEIGHT)
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

    return TemperatureSchedule(init, step)


def reference_target(
    intercept: float = -1.0, slope: float = -5.0 / 800.0
) -> TemperatureFunction:
    """The published target rate exp(-1 - 5 step / 800) of accepted worsening moves.

    Args:
      intercept: Exponent at step 0.
      slope: Change of the exponent per step.
    """

    def target(step: jax.Array) -> jax.Array:
        return jnp.exp(intercept + slope * step)

    return target


def count_worsening(
    info: base.SearchInfo, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
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
