"""What each search that optimises claims for itself, beyond the common contract."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from modmeta import search
from modmeta.search import evaluation, factorised
from tests.search.tables import (
    TableEnergy,
    compare,
    redraw,
    run_chains,
    skewed_problem,
    table_energy,
)


def trace(algorithm, truth, num_steps, temperature=1.0, seed=0, start=0):
    """All states of one chain."""
    candidates = truth.problem.candidates

    @jax.jit
    def run(key):
        return search.run_search(
            key,
            algorithm.init(truth.structure(start), truth.energy, candidates),
            algorithm,
            truth.energy,
            candidates,
            lambda _: jnp.float32(temperature),
            num_steps,
            transform=lambda state, _: state,
        )[1]

    return run(jax.random.key(seed))


def test_greedy_restarts_at_local_minima_alone():
    """A descent ends where no single change lowers the energy, by brute force."""
    truth = TableEnergy(skewed_problem("triangle"), prior=True, num_node_modules=2)
    algorithm = search.build_search("greedy", num_node_modules=2)
    states = trace(algorithm, truth, 120)
    totals = truth.totals
    energies = np.asarray(states.energy)
    is_stuck = np.asarray(states.memory.num_idle) >= 3
    assert 5 < is_stuck.sum() < 60

    def is_local_minimum(index):
        row, column = np.unravel_index(index, totals.shape)
        changed = (truth.problem.structures != truth.problem.structures[row]).sum(
            (1, 2)
        )
        moved = (truth.nodes != truth.nodes[column]).sum(axis=1)
        neighbours = changed[:, None] + moved[None, :] == 1
        return (totals[neighbours] >= totals[row, column] - 1e-6).all()

    indices = truth.index(states.structure)
    minima = np.array([is_local_minimum(index) for index in indices])
    assert minima[is_stuck].all()
    assert not minima.all()
    # The energy falls except right after the end of a descent.
    rises = np.diff(energies) > 1e-6
    assert rises.any() and is_stuck[:-1][rises].all()
    assert (np.diff(states.num_proposals) == np.where(is_stuck[:-1], 1, 3)).all()
    # Several minima, so that a single descent could have missed the best.
    assert len(np.unique(indices[is_stuck])) > 1
    np.testing.assert_allclose(states.best_energy[-1], totals.min(), atol=1e-5)


@pytest.mark.parametrize("chunk_size, num_steps", [(5, 4), (64, 1)])
def test_exhaustive_search_ends_at_the_optimum(chunk_size, num_steps):
    """Eighteen assignments, in chunks that do not divide them, or in one.

    With this seed the last of all assignments is the best of the first receiver.
    """
    truth = TableEnergy(skewed_problem("ragged"), num_node_modules=2, seed=10)
    algorithm = search.build_search(
        "enumeration", chunk_size=chunk_size, num_node_modules=2
    )
    starts = np.arange(0, truth.totals.size, 97)
    state = run_chains(algorithm, truth, starts, num_steps, 1.0)
    assert (np.asarray(state.num_proposals) == chunk_size * num_steps).all()
    np.testing.assert_allclose(state.best_energy, truth.totals.min(), atol=1e-5)
    np.testing.assert_allclose(
        truth.totals.ravel()[truth.index(state.structure)],
        truth.totals.min(),
        atol=1e-5,
    )
    if num_steps > 1:
        before = run_chains(algorithm, truth, starts, num_steps - 1, 1.0)
        assert (np.asarray(before.energy) > truth.totals.min() + 1e-5).any()


@pytest.mark.parametrize("crossover", ["receiver", "slot"])
def test_population_of_the_genetic_algorithm(crossover):
    """Inherited energies are those of the children, and the best passes on."""
    truth = TableEnergy(skewed_problem("ragged"), prior=True)
    algorithm = search.build_search(
        "genetic", propose=redraw(1.0), population_size=7, crossover=crossover
    )
    states = trace(algorithm, truth, 30)
    energies = truth.totals.ravel()[truth.index(states.memory.structure)]
    np.testing.assert_allclose(states.memory.energy, energies, atol=1e-5)
    np.testing.assert_allclose(states.energy, energies.min(axis=1), atol=1e-5)
    assert (np.diff(states.energy) <= 0.0).all()
    assert len(np.unique(truth.index(states.memory.structure)[-1])) > 2
    receivers = {"receiver": 1, "slot": 4}[crossover]
    assert states.num_node_updates[-1] == 4 + 30 * 5 * receivers


def test_crossover_takes_each_gene_from_one_of_the_parents():
    """Without mutation, children of two parents are their combinations, all of them."""
    truth = TableEnergy(skewed_problem("ragged"))
    candidates = truth.problem.candidates

    def keep(rng_key, structure, candidates):
        del rng_key, candidates
        return search.Proposal(structure, jnp.zeros((1,), jnp.int32), jnp.zeros(()))

    rows = [0, len(truth.problem.structures) - 1]  # they differ at every edge
    parents = jax.vmap(
        lambda structure: evaluation.evaluate_fully(truth.energy, structure)
    )(truth.structure(np.array(rows)))
    population = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), parents)
    for crossover, num_genes in [("receiver", 3), ("slot", 4)]:
        algorithm = search.build_search(
            "genetic",
            propose=keep,
            population_size=4,
            num_elites=1,
            tournament_size=1,
            crossover=crossover,
        )
        state = algorithm.init(truth.structure(0), truth.energy, candidates)

        @jax.jit
        @jax.vmap
        def children(key, state=state, algorithm=algorithm):
            return algorithm.step(
                key,
                state._replace(memory=population),
                truth.energy,
                candidates,
                jnp.float32(1.0),
            )[0].memory

        found = children(jax.random.split(jax.random.key(0), 200))
        indices = truth.index(found.structure)
        first, last = (truth.problem.structures[row] for row in rows)
        expected = set()
        for genes in itertools.product([True, False], repeat=num_genes):
            structure, genes = first.copy(), iter(genes)
            for receiver in range(3):
                slots = [slot for slot in truth.problem.slots if slot[0] == receiver]
                for number, slot in enumerate(slots):
                    if crossover == "slot" or number == 0:
                        takes_first = next(genes)
                    structure[slot] = (first if takes_first else last)[slot]
            expected.add(int(truth.problem.index(structure)))
        assert set(np.unique(indices)) == expected
        np.testing.assert_allclose(
            found.energy, truth.totals.ravel()[indices], atol=1e-5
        )


def additive_truth():
    """Energies that are sums over edges: the Boltzmann distribution is a product."""
    problem = skewed_problem("ragged")
    rng = np.random.default_rng(0)
    truth = TableEnergy(problem)
    edges = (
        rng.normal(size=(4, 2, 3)) * np.asarray(problem.candidates.slot_mask)[..., None]
    )
    table = edges[:, 1, :, None] + edges[:, 0, None, :]
    truth.energy = table_energy(
        jnp.asarray(table.reshape(4, 1, 9), jnp.float32), problem.candidates
    )
    return truth, edges


@pytest.mark.parametrize("name", ["mean_field", "reinforce"])
def test_factorised_distributions_become_boltzmann_where_it_factorises(name):
    truth, edges = additive_truth()
    options = {"mean_field": {"damping": 0.7}, "reinforce": {"num_samples": 64}}
    num_steps = 300
    algorithm = search.build_search(name, **options[name])
    state = run_chains(algorithm, truth, np.arange(4), num_steps, 0.8)
    logits = state.memory if name == "mean_field" else state.memory.logits
    found = scipy.special.softmax(np.asarray(logits.edges), axis=-1)
    expected = scipy.special.softmax(-edges / 0.8, axis=-1)
    mask = np.asarray(truth.problem.candidates.slot_mask)
    tolerance = {"mean_field": 1e-4, "reinforce": 0.05}[name]
    for row in found:
        np.testing.assert_allclose(row[mask], expected[mask], atol=tolerance)


@pytest.mark.parametrize("name", ["mean_field", "reinforce"])
def test_free_energy_falls_towards_its_bound(name):
    """F(q) = E_q[energy] - T H(q) by brute force: it nears its bound -T log Z."""
    truth = TableEnergy(skewed_problem("triangle"), prior=True, scale=2.0)
    temperature, mask = 1.0, truth.problem.candidates.slot_mask
    algorithm = search.build_search(name, num_samples=16)
    bound = -temperature * scipy.special.logsumexp(-truth.totals / temperature)

    def free_energy(logits):
        shares = scipy.special.softmax(np.asarray(logits.edges, np.float64), axis=-1)
        one_hot = np.eye(2)[truth.problem.structures]
        weights = np.prod(np.sum(one_hot * shares[None], axis=-1), axis=(1, 2))
        entropy = factorised.entropy(logits, mask)
        np.testing.assert_allclose(
            entropy, -np.sum(weights * np.log(weights)), rtol=1e-4
        )
        return np.sum(weights * truth.totals[:, 0]) - temperature * float(entropy)

    start = free_energy(factorised.initial(truth.problem.candidates, 0.5))
    states = run_chains(algorithm, truth, np.arange(8), 300, temperature)
    logits = states.memory if name == "mean_field" else states.memory.logits
    ends = [
        free_energy(jax.tree.map(lambda leaf, row=row: leaf[row], logits))
        for row in range(8)
    ]
    assert min(ends) >= bound - 1e-4
    # The couplings of pairs and rows keep a product distribution from the bound.
    assert np.median(ends) < bound + 0.35 * (start - bound)


@pytest.mark.parametrize("hard", [True, False])
def test_relaxation_learns_the_best_edges(hard):
    truth, edges = additive_truth()
    algorithm = search.build_search("straight_through", hard=hard, num_samples=8)
    state = run_chains(algorithm, truth, np.arange(4), 200, 0.1)
    mask = np.asarray(truth.problem.candidates.slot_mask)
    found = np.asarray(state.memory.logits.edges).argmax(axis=-1)
    for row in found:
        np.testing.assert_array_equal(row[mask], edges.argmin(axis=-1)[mask])


def test_draws_and_log_probabilities_of_a_factorised_distribution():
    truth = TableEnergy(skewed_problem("triangle"), num_node_modules=2)
    candidates = truth.problem.candidates
    rng = np.random.default_rng(0)
    logits = factorised.Logits(
        jnp.asarray(rng.normal(size=(3, 2, 2)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    )
    everything = truth.structure(np.arange(truth.totals.size))
    listed = jax.vmap(
        lambda s: factorised.log_probabilities(logits, s, candidates.slot_mask)
    )(everything)
    probabilities = np.exp(np.asarray(listed, np.float64).sum(axis=1))
    np.testing.assert_allclose(probabilities.sum(), 1.0, rtol=1e-5)
    entropy = -np.sum(probabilities * np.log(probabilities))
    np.testing.assert_allclose(
        factorised.entropy(logits, candidates.slot_mask), entropy, rtol=1e-5
    )
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.jit(
        jax.vmap(
            lambda key: factorised.draw(
                key, logits, truth.structure(0), candidates.slot_mask
            )
        )
    )(keys)
    shares = np.bincount(truth.index(drawn), minlength=truth.totals.size) / len(keys)
    # Five standard deviations of every share.
    deviation = np.sqrt(probabilities / len(keys))
    assert (np.abs(shares - probabilities) < 5.0 * deviation + 1e-3).all()


def test_bounded_and_lowest_by_hand():
    values = np.array(
        [[1.0, np.nan, np.inf], [np.inf, 2.0, np.nan], [3.0, 5.0, -np.inf]]
    )
    compare(
        evaluation.bounded(jnp.asarray(values)),
        np.array([[1.0, 5.0, 0.0], [3.0, 2.0, 0.0], [3.0, 5.0, 0.0]]),
    )
    energies = jnp.array([np.nan, 2.0, -np.inf, 1.0])
    structure = search.Structure(jnp.arange(4), jnp.arange(4))
    found = evaluation.lowest(evaluation.Evaluated(structure, energies, energies))
    assert found.energy == 1.0 and found.structure.edge_modules == 3
    for energy, than, expected in [
        (1.0, 2.0, True),
        (2.0, 2.0, False),
        (1.0, np.nan, True),
        (1.0, -np.inf, True),
        (np.nan, 1.0, False),
        (-np.inf, 1.0, False),
        (np.nan, np.nan, False),
    ]:
        assert evaluation.is_better(jnp.float32(energy), jnp.float32(than)) == expected
