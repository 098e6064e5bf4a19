"""Relations chosen jointly, against enumeration and simulated systems."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.relational.data.domains import Domain
from modmeta.relational.data.frames import Frames
from modmeta.relational.hidden import choosing, scenes
from modmeta.relational.hidden.fitting import Fit
from modmeta.relational.tasks.states import host_states
from tests.relational.hidden.laws_by_hand import VISIBLE, springs


@pytest.mark.parametrize("num_relations", [2, 3])
def test_no_change_of_one_pair_or_two_leads_further_down(num_relations):
    rng = np.random.default_rng(0)
    count = 4
    root = rng.normal(size=(20, count * num_relations + 1))
    form = root.T @ root
    first = rng.integers(0, num_relations, count)
    found, value = jax.jit(choosing.best_pairs, static_argnums=2)(
        jnp.asarray(form, jnp.float32), jnp.asarray(first), num_relations
    )
    found = np.asarray(found)

    def energy(pairs):
        whole = np.append(np.eye(num_relations)[list(pairs)].reshape(-1), 1.0)
        return whole @ form @ whole

    np.testing.assert_allclose(value, energy(found), rtol=1e-4)
    near = [
        energy(pairs)
        for pairs in itertools.product(range(num_relations), repeat=count)
        if np.sum(pairs != found) <= 2
    ]
    assert len(near) > 10 and energy(found) <= min(near) * (1.0 + 1e-4)


def test_relations_of_hidden_ones_change_one_pair_at_a_time():
    num_visible, num_hidden, num_relations = 2, 2, 3
    changes = choosing.single_changes(num_visible, num_hidden, num_relations)
    slots = scenes.hidden_slots(num_hidden, num_visible)
    pairs = set()
    for change in changes:
        square = np.zeros((4, 4), int)
        for receiver, row in enumerate(change):
            square[receiver, slots[receiver]] = row
        among = square[:num_hidden, :num_hidden]
        assert (among == among.T).all()
        ends = np.argwhere(square * np.triu(np.ones((4, 4)), 1))
        assert len(ends) <= 1
        pairs.add(tuple(map(int, (*ends.reshape(-1), square.max()))))
    # Two hidden ones, each with two visible ones, and each other.
    assert len(pairs) == len(changes) == 1 + 5 * (num_relations - 1)


def test_wrong_relations_at_several_receivers_are_mended_at_once():
    """No place is known, no visible pair is joined, one hidden relation is wrong."""
    whole, model, params = springs()
    modules = model.network.modules(params)
    labels = np.asarray(whole.edges)
    acts = np.flatnonzero(labels[:, :VISIBLE, VISIBLE].sum(axis=1) >= 2)
    states = host_states(whole, params.preprocessing.normalization).states
    truth = labels[acts][:, VISIBLE, :VISIBLE]
    wrong = truth.copy()
    wrong[:, 1] = 1 - wrong[:, 1]
    joined = labels[acts][:, :VISIBLE, :VISIBLE]
    assert len(acts) >= 2 and (joined == 1).any()

    @jax.jit
    def mended(states, heard):
        frames = Frames(states, None, None, None, None)
        scene = scenes.build_scene(modules, frames, 2)
        size = modules.bank.layout.num_features + scenes.num_effects(modules)
        guess = scenes.Guess(jnp.zeros((1, 1, size)), heard[None])
        slots = jnp.zeros((VISIBLE, VISIBLE - 1), jnp.int32)
        edges = jnp.concatenate([slots, heard[:, None]], axis=1)
        fit = Fit(guess, edges, jnp.float32(jnp.inf))
        return choosing.jointly(modules, scene, fit, Domain())

    for row, task in enumerate(acts):
        fit = mended(jnp.asarray(states[task, :VISIBLE]), jnp.asarray(wrong[row]))
        np.testing.assert_array_equal(fit.guess.incoming[0], truth[row])
        np.testing.assert_array_equal(fit.edges[:, -1], truth[row])
        for node in range(VISIBLE):
            others = np.delete(joined[row, node], node)
            np.testing.assert_array_equal(fit.edges[node, :-1], others)
