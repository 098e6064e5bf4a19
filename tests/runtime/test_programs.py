"""Compiled programs of many models in one process."""

import jax
import jax.numpy as jnp
import pytest

from modmeta.runtime import programs, training_loop


def model(width):
    """A function that is another program for every width."""

    @jax.jit
    def apply(inputs):
        def step(carry, _):
            return jnp.sin(carry), jnp.max(carry)

        return jax.lax.scan(step, inputs, length=3)

    return apply, jnp.ones(width + 2)


def test_twenty_models_stay_under_a_bound(monkeypatch):
    if programs.max_maps() is None:  # not Linux: there is nothing to run out of
        assert not programs.make_room()
        return
    apply, inputs = model(20)
    apply(inputs)
    programs.drop()
    before = programs.count_maps()
    apply(inputs)
    room = 4 * (programs.count_maps() - before)
    assert room > 0
    monkeypatch.setattr(programs, "max_maps", lambda: 2 * (before + room))
    kept, counts, dropped = [], [], []
    for width in range(20):
        dropped.append(programs.make_room())
        apply, inputs = model(width)
        kept.append((apply, inputs, apply(inputs)))
        counts.append(programs.count_maps())
    assert max(counts) < before + 2 * room
    assert 1 <= sum(dropped) < 10
    for apply, inputs, expected in kept[:2]:
        for one, other in zip(apply(inputs), expected, strict=True):
            assert (one == other).all()


def test_nothing_is_dropped_while_there_is_room(monkeypatch):
    monkeypatch.setattr(programs, "drop", lambda: pytest.fail("dropped"))
    assert not programs.make_room()
    monkeypatch.setattr(programs, "max_maps", lambda: None)
    monkeypatch.setattr(programs, "count_maps", lambda: 10**6)
    assert not programs.make_room()
    monkeypatch.setattr(programs, "max_maps", lambda: 65_530)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not programs.make_room()


def test_trainings_ask_for_room(monkeypatch):
    calls = []
    monkeypatch.setattr(programs, "make_room", lambda: calls.append(True))
    training_loop.train(
        0,
        lambda run, step, count: (run, {}),
        lambda run, step, metrics: (run, {}, False),
        num_steps=2,
        num_evaluations=1,
    )
    assert calls == [True]
