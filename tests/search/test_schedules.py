"""Temperature schedules against closed forms and a slow float64 loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import search
from modmeta.search import schedules


def test_geometric_temperature_closed_form():
    temperature = schedules.geometric_temperature(50.0, 2.0, 10)
    for step, expected in [
        (0, 50.0),
        (5, 10.0),  # the geometric mean
        (10, 2.0),
        (11, 2.0),
        (10_000, 2.0),
    ]:
        np.testing.assert_allclose(temperature(step), expected, rtol=1e-6)
    ratios = [temperature(step + 1) / temperature(step) for step in range(10)]
    np.testing.assert_allclose(ratios, 25.0**-0.1, rtol=1e-5)


def test_geometric_schedule_follows_the_function():
    schedule = schedules.geometric(50.0, 2.0, 10)
    temperature = schedules.geometric_temperature(50.0, 2.0, 10)
    state = schedule.init()
    for step in range(13):
        assert state.count == step
        np.testing.assert_allclose(state.temperature, temperature(step), rtol=1e-6)
        state = schedule.step(state, jnp.int32(3), jnp.int32(1))


@pytest.mark.parametrize(
    "initial, final, num_steps", [(0.0, 1.0, 5), (1.0, -1.0, 5), (1.0, 1.0, -1)]
)
def test_geometric_rejects(initial, final, num_steps):
    with pytest.raises(ValueError, match="geometric_temperature: found"):
        schedules.geometric_temperature(initial, final, num_steps)


def test_reference_target():
    target = schedules.reference_target()
    np.testing.assert_allclose(target(0), 0.36788, rtol=1e-4)
    np.testing.assert_allclose(target(800), 0.0024788, rtol=1e-4)


def test_worsening_acceptance_against_a_slow_reference():
    rng = np.random.default_rng(0)
    num_worsening = rng.integers(0, 40, 120)
    num_worsening[[0, 7, 8]] = 0  # steps without a worsening proposal
    num_accepted = rng.binomial(num_worsening, np.linspace(0.9, 0.0, 120))
    schedule = schedules.worsening_acceptance(
        schedules.reference_target(slope=-0.02), initial=0.5, floor=0.3
    )
    step = jax.jit(schedule.step)

    state = schedule.init()
    temperature, total, normaliser = 0.5, 0.0, 0.0
    for count, (worsening, accepted) in enumerate(
        zip(num_worsening, num_accepted, strict=True)
    ):
        weight = 0.01
        if normaliser > 0:
            weight = min(0.01, max(total / normaliser, 1e-6))
        for _ in range(worsening):  # one proposal after the other, at their mean
            total = (1 - weight) * total + weight * accepted / worsening
            normaliser = (1 - weight) * normaliser + weight
        rate = total / normaliser if normaliser > 0 else 0.0
        if rate < np.exp(-1 - 0.02 * count):
            temperature *= 1.1
        else:
            temperature = max(temperature / 1.1, 0.3)
        state = step(state, jnp.int32(worsening), jnp.int32(accepted))
        np.testing.assert_allclose(state.temperature, temperature, rtol=1e-4)
        np.testing.assert_allclose(
            state.rate / max(float(state.weight), 1e-12), rate, rtol=1e-3
        )


@pytest.mark.parametrize("initial", [1e-3, 1e3])
def test_worsening_acceptance_steers_to_its_target(initial):
    """Worsening moves of 2 nats are accepted at exp(-2 / T): T must find 2 / ln 5."""
    schedule = schedules.worsening_acceptance(
        lambda _: jnp.float32(0.2), initial=initial
    )

    def body(state, key):
        probability = jnp.exp(-2.0 / state.temperature)
        accepted = jax.random.bernoulli(key, probability, (64,))
        state = schedule.step(state, jnp.int32(64), jnp.sum(accepted))
        return state, (state.temperature, jnp.mean(accepted))

    keys = jax.random.split(jax.random.key(0), 2000)
    _, (temperatures, rates) = jax.jit(
        lambda keys: jax.lax.scan(body, schedule.init(), keys)
    )(keys)
    # 64,000 draws of rate 0.2 deviate by 0.0016; the control oscillates around it.
    np.testing.assert_allclose(np.mean(rates[1000:]), 0.2, atol=0.02)
    np.testing.assert_allclose(
        np.exp(np.mean(np.log(temperatures[1000:]))), 2 / np.log(5), rtol=0.1
    )


def test_count_worsening():
    info = search.SearchInfo(
        proposed_energy=None,
        log_ratio=None,
        acceptance_probability=None,
        is_accepted=jnp.array([[True, False, True], [True, True, False]]),
        is_worsening=jnp.array([[True, True, False], [True, True, True]]),
    )
    assert [int(n) for n in schedules.count_worsening(info)] == [5, 3]
    mask = jnp.array([[True, True, True], [True, False, False]])
    assert [int(n) for n in schedules.count_worsening(info, mask)] == [3, 2]


@pytest.mark.parametrize("num_problems", [1, 3, 7, 64, 257])
def test_geometric_curve_is_the_same_for_all_who_cool(num_problems):
    """Bit by bit: with many problems at once, and one number at a time."""
    rng = np.random.default_rng(0)
    initial = jnp.asarray(rng.uniform(1.0, 90.0, num_problems), jnp.float32)
    fractions = jnp.linspace(0.0, 1.0, 17)

    @jax.jit
    def written_out(initial):
        decay = jnp.log(0.7 / initial)
        return initial[:, None] * jnp.exp(decay[:, None] * fractions[None, :])

    @jax.jit
    def by_curve(initial):
        return schedules.geometric_curve(initial[:, None], 0.7)(fractions[None])

    expected = np.asarray(written_out(initial))
    np.testing.assert_array_equal(by_curve(initial), expected)
    np.testing.assert_allclose(expected[:, 0], initial, rtol=1e-6)
    np.testing.assert_allclose(expected[:, -1], 0.7, rtol=1e-6)
    middle = np.sqrt(np.asarray(initial) * 0.7)
    np.testing.assert_allclose(expected[:, 8], middle, rtol=1e-5)


def test_spread_temperature_by_hand():
    energies = jnp.array(
        [
            [1.0, 5.0, np.nan, 2.0],
            [3.0, 5.0, np.inf, np.inf],
            [5.0, 5.0, -np.inf, 4.0],
        ]
    )
    found = schedules.spread_temperature(energies, 0.5)
    expected = [np.sqrt(8.0 / 3.0), 0.5, 0.5, 1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    alone = [schedules.spread_temperature(energies[:, p], 0.5) for p in range(4)]
    np.testing.assert_array_equal(found, jnp.stack(alone))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"initial": 0.0}, "initial: found 0.0, expected a positive one"),
        ({"floor": -1.0}, "floor: found"),
        ({"factor": 0.9}, "factor: found 0.9, expected at least 1"),
        ({"max_weight": 1.5}, "max_weight: found 1.5, expected a share"),
    ],
)
def test_worsening_acceptance_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        schedules.worsening_acceptance(schedules.reference_target(), **options)
