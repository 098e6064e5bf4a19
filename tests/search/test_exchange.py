"""Receivers that a prior ties together, against lists of all joint structures."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import search
from modmeta.relational.energies.priors import symmetric_prior
from modmeta.search import extrinsic

WEIGHT = 3.0
NUM_PROBLEMS = 24


def all_pairs(num_receivers, num_modules):
    """Candidates of a system in which every pair is an edge either way."""
    senders = np.array(
        [[j for j in range(num_receivers) if j != i] for i in range(num_receivers)]
    )
    reverse = np.array(
        [[list(senders[j]).index(i) for j in senders[i]] for i in range(num_receivers)]
    )
    shape = (num_receivers, num_receivers - 1)
    return search.Candidates(
        slot_mask=jnp.ones(shape, bool),
        edge_logits=jnp.zeros((*shape, num_modules)),
        reverse_slots=jnp.asarray(reverse, jnp.int32),
        sender_receivers=jnp.asarray(senders, jnp.int32),
    )


def designs(num_problems, num_receivers, num_modules, num_residuals=3):
    """Few residuals for many edges, so that receivers alone are often wrong."""
    rng = np.random.default_rng(0)
    shape = (num_problems, num_receivers, num_residuals, num_receivers - 1)
    design = rng.normal(size=(*shape, num_modules))
    labels = rng.integers(num_modules, size=(num_problems, *[num_receivers] * 2))
    labels = np.triu(labels, 1) + np.triu(labels, 1).swapaxes(1, 2)
    senders = np.asarray(all_pairs(num_receivers, 2).sender_receivers)
    planted = np.take_along_axis(labels, senders[None], axis=2)
    one_hot = np.eye(num_modules)[planted]
    offset = np.einsum("brpdk,brdk->brp", design, one_hot)
    return design, offset + 0.5 * rng.normal(size=offset.shape)


def linear_energy(design, offset, candidates, weight):
    def residuals(weights, node_module, receiver):
        del node_module
        found = jnp.einsum("pdk,dk->p", design[receiver], weights)
        return found - offset[receiver]

    def local(structure, receivers):
        weights = jax.nn.one_hot(structure.edge_modules, design.shape[3])[receivers]
        values = jax.vmap(lambda w, r: residuals(w, 0, r))(weights, receivers)
        return 0.5 * jnp.sum(jnp.square(values), axis=1)

    energy = search.Energy(local, residuals=residuals)
    if weight:
        energy = energy._replace(prior=symmetric_prior(candidates, weight))
    return energy


def joint_energies(design, offset, structures, candidates):
    """`[S]` of all structures `[S, R, D]`, in float64, one receiver at a time."""
    total = np.zeros(len(structures))
    for receiver in range(design.shape[0]):
        rows = structures[:, receiver]
        sums = design[receiver][:, np.arange(rows.shape[1])[None], rows].sum(axis=-1)
        total += 0.5 * np.square(sums - offset[receiver][:, None]).sum(axis=0)
        for slot in range(rows.shape[1]):
            sender = int(candidates.sender_receivers[receiver, slot])
            back = int(candidates.reverse_slots[receiver, slot])
            differs = structures[:, sender, back] != rows[:, slot]
            total += 0.5 * WEIGHT * differs
    return total


@functools.partial(jax.jit, static_argnames=("is_told", "num_steps"))
def searched(design, offset, is_told, num_steps):
    candidates = all_pairs(design.shape[1], design.shape[4])
    if not is_told:
        candidates = candidates._replace(sender_receivers=None)
    tables = all_pairs(design.shape[1], design.shape[4])
    algorithm = search.integer_least_squares(num_candidates=4, residual_noise=0.5)
    zeros = jnp.zeros(candidates.slot_mask.shape, jnp.int32)
    start = search.Structure(zeros, zeros[:, 0])

    def one(key, design, offset):
        energy = linear_energy(design, offset, tables, WEIGHT)
        return search.run_search(
            key,
            algorithm.init(start, energy, candidates),
            algorithm,
            energy,
            candidates,
            lambda step: jnp.float32(1.0),
            num_steps,
        )[0]

    keys = jax.random.split(jax.random.key(0), len(design))
    return jax.vmap(one)(keys, design, offset)


def test_joint_optimum_of_all_receivers_is_found():
    design, offset = designs(NUM_PROBLEMS, 4, 2)
    candidates = all_pairs(4, 2)
    digits = itertools.product(range(2), repeat=12)
    structures = np.array(list(digits)).reshape(-1, 4, 3)
    codes = 2 ** np.arange(12)[::-1]
    state = searched(jnp.float32(design), jnp.float32(offset), True, 4)
    num_found = 0
    for row in range(NUM_PROBLEMS):
        totals = joint_energies(design[row], offset[row], structures, candidates)
        found = np.asarray(state.best_structure.edge_modules[row]).reshape(-1)
        expected = totals[found @ codes]
        np.testing.assert_allclose(state.best_energy[row], expected, rtol=1e-4)
        num_found += expected < totals.min() + 1e-4
    assert num_found >= NUM_PROBLEMS - 1
    # Four decoded and three single changes at every one of four receivers, four times.
    assert (np.asarray(state.num_proposals) == 4 * 4 * (4 + 3)).all()


def test_receivers_that_tell_each_other_find_more_than_others():
    """As many decodings, with the tables of opposite edges and without."""
    design, offset = map(jnp.float32, designs(NUM_PROBLEMS, 4, 2))
    told = searched(design, offset, True, 4).best_energy
    alone = searched(design, offset, False, 16).best_energy
    assert (told < alone + 1e-4).all()
    assert np.mean(told < alone - 1e-4) > 0.1


def test_without_a_prior_tables_change_nothing():
    design, offset = designs(1, 3, 2)
    algorithm = search.integer_least_squares(num_candidates=4)
    tables = all_pairs(3, 2)
    energy = linear_energy(jnp.float32(design[0]), jnp.float32(offset[0]), tables, 0.0)
    structure = search.Structure(jnp.zeros((3, 2), jnp.int32), jnp.zeros(3, jnp.int32))

    @jax.jit
    def one_step(key):
        def of(candidates):
            state = algorithm.init(structure, energy, candidates)
            return algorithm.step(key, state, energy, candidates, jnp.float32(1.0))

        return of(tables), of(tables._replace(reverse_slots=None))

    one, other = one_step(jax.random.key(1))
    assert one[0].memory.exchange is None
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_messages_on_a_chain_are_exact():
    """Two receivers tell the one between them all that can be known of its edges."""
    rng = np.random.default_rng(3)
    # Receiver 1 has an edge from 0 and one from 2; each of these has one from 1, and
    # one from nowhere that anyone shares.
    candidates = search.Candidates(
        slot_mask=jnp.ones((3, 2), bool),
        edge_logits=jnp.zeros((3, 2, 3)),
        reverse_slots=jnp.array([[0, 2], [0, 1], [2, 1]], jnp.int32),
        sender_receivers=jnp.array([[1, 0], [0, 2], [0, 1]], jnp.int32),
    )
    prior = symmetric_prior(candidates, 1.0)
    energy = search.Energy(lambda *_: jnp.zeros(3), prior)
    rows = search.all_assignments(2, 3)
    table = 2.0 * rng.normal(size=(3, len(rows)))
    structure = search.Structure(jnp.zeros((3, 2), jnp.int32), jnp.zeros(3, jnp.int32))
    at, opinions = search.opposites(candidates), extrinsic.unknown(structure, 3)

    @jax.jit
    def tell(opinions, receiver, energies):
        found = extrinsic.Assignments(
            jnp.asarray(rows), jnp.zeros(len(rows), jnp.int32), energies
        )
        costs = extrinsic.pair_costs(energy, structure, at, receiver, 3)
        return extrinsic.consider(opinions, at, receiver, found, costs)

    for receiver in (0, 2, 1):
        opinions, every, believed = tell(
            opinions, jnp.int32(receiver), jnp.float32(table[receiver])
        )
    expected = np.empty(len(rows))
    for index, row in enumerate(rows):
        first = min(table[0][c] + (r[0] != row[0]) for c, r in enumerate(rows))
        last = min(table[2][c] + (r[1] != row[1]) for c, r in enumerate(rows))
        expected[index] = table[1][index] + first + last
    found = np.asarray(believed[: len(rows)])
    np.testing.assert_allclose(
        found - found.min(), expected - expected.min(), atol=1e-4
    )
    for slot, module in itertools.product(range(2), range(3)):
        kept = expected[rows[:, slot] == module].min()
        index = np.flatnonzero(expected == kept)[0]
        np.testing.assert_array_equal(opinions.kept.rows[1, slot, module], rows[index])
