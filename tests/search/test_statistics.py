"""Searches that sample, against exact distributions of listed structures.

Where chains start at exact draws, their last structures are independent exact draws if
the search keeps the distribution, however slowly it mixes. Where they start anywhere,
they had many times the steps that such a tiny problem needs to forget its start. Keys
are fixed; every test fails by chance with probability 1e-5 at most.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from modmeta import search
from modmeta.search import factorised
from modmeta.search.algorithms import parallel_tempering, reinforce
from tests.fixtures import chi_square_p_value, compiled_for_speed
from tests.search.tables import (
    PairProblem,
    TableEnergy,
    coupled,
    everything,
    exact_draws,
    run_chains,
    skewed_problem,
    table_energy,
    total_variation,
    total_variation_limit,
)

FALSE_ALARM = 1e-5
NUM_CHAINS = 4096
FACTORS = (1.0, 2.0, 4.0)


def assert_distributed(indices, probabilities):
    """Both distances, so half of the false alarms for each."""
    visits = np.bincount(indices, minlength=len(probabilities))
    limit = total_variation_limit(probabilities, len(indices), 0.5 * FALSE_ALARM)
    assert total_variation(visits, probabilities) < limit
    assert chi_square_p_value(visits, probabilities) > 0.5 * FALSE_ALARM


@pytest.mark.parametrize(
    "name, prior, num_node_modules, options, temperature",
    [
        ("triangle", True, 1, {"sweep": False}, 0.7),
        ("triangle", False, 2, {"num_node_modules": 2}, 1.0),
        ("ragged", True, 1, {"block_size": 2}, 1.0),
    ],
)
def test_gibbs_samples_boltzmann(name, prior, num_node_modules, options, temperature):
    truth = TableEnergy(
        skewed_problem(name), prior=prior, num_node_modules=num_node_modules
    )
    probabilities = truth.boltzmann(temperature)
    start = exact_draws(probabilities, NUM_CHAINS)
    algorithm = search.build_search("gibbs", **options)
    state = run_chains(algorithm, truth, start, 60, temperature)
    found = truth.index(state.structure)
    assert np.mean(found != start) > 0.5
    assert_distributed(found, probabilities)


def run_ladder(propose, truth, num_steps, num_chains):
    """Chains of which every rung starts at an exact draw at its own temperature.

    Returns:
      Last states, and the index of the structure of every rung, `[chains, L]`.
    """
    algorithm = search.build_search(
        "parallel_tempering", propose=propose, factors=FACTORS
    )
    candidates = truth.problem.candidates
    starts = [
        truth.structure(exact_draws(truth.boltzmann(factor), num_chains, seed=rung))
        for rung, factor in enumerate(FACTORS)
    ]

    @jax.jit
    @jax.vmap
    def run(key, structures):
        rungs = [
            search.init(structure, truth.energy, candidates) for structure in structures
        ]
        chains = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rungs)
        state = algorithm.init(structures[0], truth.energy, candidates)
        state = state._replace(memory=state.memory._replace(chains=chains))
        return search.run_search(
            key,
            state,
            algorithm,
            truth.energy,
            candidates,
            lambda _: jnp.float32(1.0),
            num_steps,
        )[0]

    keys = jax.random.split(jax.random.key(0), num_chains)
    state = run(keys, starts)
    return state, truth.index(state.memory.chains.structure)


def test_every_rung_of_the_ladder_samples_its_own_boltzmann():
    truth = TableEnergy(skewed_problem("triangle"), prior=True)
    state, found = run_ladder(coupled(0.1), truth, 40, NUM_CHAINS)
    for rung, factor in enumerate(FACTORS):
        assert_distributed(found[:, rung], truth.boltzmann(factor))
    np.testing.assert_array_equal(truth.index(state.structure), found[:, 0])
    # Every pair of neighbours is offered every other step.
    num_exchanges = np.asarray(state.memory.num_exchanges)
    assert num_exchanges.max() <= 20
    assert (num_exchanges.mean(axis=0) > 5).all()


def test_a_wrong_exchange_is_seen(monkeypatch):
    exchange = parallel_tempering.exchange

    def always(rng_key, energies, temperatures, parity):
        return exchange(rng_key, jnp.zeros_like(energies), temperatures, parity)

    monkeypatch.setattr(parallel_tempering, "exchange", always)
    truth = TableEnergy(skewed_problem("triangle"), prior=True)
    _, found = run_ladder(coupled(0.1), truth, 10, 1024)
    probabilities = truth.boltzmann(1.0)
    visits = np.bincount(found[:, 0], minlength=len(probabilities))
    assert chi_square_p_value(visits, probabilities) < 1e-30


SAMPLERS = {
    "simulated_annealing": {"propose": everything(0.3)},
    "gibbs": {},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_padded_systems_of_mixed_sizes_in_one_batch(name):
    """From any start; learned proposals, symmetric prior.

    Tempering takes the steps of annealing at every rung; its distribution from any
    start is told by `check_search`, that of every rung above.
    """
    problems = [skewed_problem("ragged"), PairProblem("pair", 2.0)]
    truths = [TableEnergy(problem, prior=True) for problem in problems]
    algorithm = search.build_search(name, **SAMPLERS[name])
    tables, candidates = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *[(jnp.asarray(t.table), t.problem.candidates) for t in truths],
    )
    structures = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[truth.structure(0) for truth in truths]
    )

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, None, None))
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    def run(key, table, candidates, structure):
        energy = table_energy(table, candidates, prior=True)
        return search.run_search(
            key,
            algorithm.init(structure, energy, candidates),
            algorithm,
            energy,
            candidates,
            lambda _: jnp.float32(1.0),
            100,
        )[0]

    keys = jax.random.split(jax.random.key(0), NUM_CHAINS)
    with compiled_for_speed():
        state = run(keys, tables, candidates, structures)
    for row, truth in enumerate(truths):
        structure = jax.tree.map(lambda leaf, row=row: leaf[:, row], state.structure)
        assert_distributed(truth.index(structure), truth.boltzmann(1.0))


def test_edge_probabilities_are_calibrated():
    """Chains of many random problems against enumeration, among edges alike.

    In every class of edges that have about the same exact probability, the mean of
    what chains say is this probability: a t-test over independent problems.
    """
    problem, num_problems = skewed_problem("ragged"), 512
    candidates = problem.candidates
    algorithm = search.gibbs()
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(num_problems, 4, 1, 9)).astype(np.float32)
    start = TableEnergy(problem).structure(0)

    @jax.jit
    @jax.vmap
    def run(key, table):
        energy = table_energy(table, candidates)
        key_warm, key_sample = jax.random.split(key)
        state = algorithm.init(start, energy, candidates)
        arguments = (algorithm, energy, candidates)
        state, _ = search.run_search(
            key_warm, state, *arguments, lambda _: jnp.float32(1.0), 60
        )
        found = search.sample_marginals(key_sample, state, *arguments, 60)
        listed = search.enumerate_receivers(energy, candidates, start.node_modules)
        exact = [
            search.edge_marginals(listed, problem.num_modules, temperature)
            for temperature in (1.0, 2.0)
        ]
        return found, *exact

    keys = jax.random.split(jax.random.key(0), num_problems)
    found, exact, hot = map(np.asarray, run(keys, jnp.asarray(tables)))

    def smallest_p_value(exact):
        p_values = []
        for slot in problem.slots:
            deviation = (found - exact)[:, *slot, 0].astype(np.float64)
            order = np.argsort(exact[:, *slot, 0])
            for members in np.split(order, 4):
                test = scipy.stats.ttest_1samp(deviation[members], 0.0)
                p_values.append(test.pvalue)
        return min(p_values) * len(p_values)

    assert smallest_p_value(exact) > FALSE_ALARM
    assert smallest_p_value(hot) < 1e-10  # the test sees a wrong temperature


def test_policy_gradient_is_unbiased():
    """Against the derivative of the free energy, summed over all structures."""
    truth, temperature = TableEnergy(skewed_problem("triangle"), prior=True), 1.3
    candidates = truth.problem.candidates
    logits = factorised.initial(candidates, 0.3)
    baseline = jnp.array([0.5, -1.0, 2.0])

    @jax.jit
    @jax.vmap
    def estimate(key):
        draws = jax.vmap(
            lambda key: factorised.draw(
                key, logits, truth.structure(0), candidates.slot_mask
            )
        )(jax.random.split(key, 2))
        states = jax.vmap(lambda draw: search.init(draw, truth.energy, candidates))(
            draws
        )
        costs = reinforce.credited_costs(
            truth.energy, states.local_energies, states.energy
        )
        return reinforce.free_energy_gradient(
            logits, draws, costs, baseline, candidates.slot_mask, temperature
        ).edges

    found = np.asarray(estimate(jax.random.split(jax.random.key(0), 4000)), np.float64)

    shares = np.exp(np.asarray(logits.edges, np.float64))  # log-probabilities already
    exact = np.zeros_like(shares)
    for structure, energy in zip(
        truth.problem.structures, truth.totals[:, 0], strict=True
    ):
        one_hot = np.eye(2)[structure]
        probability = np.prod(np.sum(one_hot * shares, axis=-1))
        exact += probability * energy * (one_hot - shares)
    entropy = -np.sum(shares * np.log(shares), axis=-1, keepdims=True)
    exact += temperature * shares * (np.log(shares) + entropy)
    deviation = (found.mean(axis=0) - exact) / scipy.stats.sem(found, axis=0)
    p_values = 2 * scipy.stats.norm.sf(np.abs(deviation))
    assert p_values.min() > FALSE_ALARM / exact.size
    assert np.abs(exact / scipy.stats.sem(found, axis=0)).max() > 20.0  # it can fail
