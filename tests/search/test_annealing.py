"""Annealing against exact Boltzmann distributions and optima of listed structures.

The truth is a NumPy table of the energies of all structures of a tiny problem. In the
chi-square tests every chain is independent of the others, starts at an exact draw from
the Boltzmann distribution and counts at its last step alone: if the kernel leaves the
distribution invariant, the counts are exactly multinomial, however slowly it mixes;
if not, the chains drift away from it. Keys are fixed; a test fails by chance with
probability 1e-5.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from modmeta import search
from modmeta.search import proposals, schedules
from tests.fixtures import chi_square_p_value
from tests.search.tables import (
    TableEnergy,
    coupled,
    everything,
    exact_draws,
    flip,
    redraw,
    run_chains,
    skewed_problem,
)

FALSE_ALARM = 1e-5
NUM_CHAINS = 4096


def boltzmann_p_value(propose, truth, temperature, *, hastings=True, num_steps=60):
    probabilities = truth.boltzmann(temperature)
    start = exact_draws(probabilities, NUM_CHAINS)
    algorithm = search.simulated_annealing(propose, hastings=hastings)
    state = run_chains(algorithm, truth, start, num_steps, temperature)
    last = truth.index(state.structure)
    # A chain that rests would keep the distribution too.
    assert np.mean(last != start) > 0.5
    visits = np.bincount(last, minlength=len(probabilities))
    return chi_square_p_value(visits, probabilities)


@pytest.mark.parametrize(
    "name, build, uniform_fraction, prior, temperature",
    [
        ("triangle", redraw, 0.0, False, 1.0),
        ("triangle", coupled, 0.1, True, 0.7),
        ("ragged", everything, 0.2, True, 1.0),
    ],
)
def test_fixed_temperature_samples_boltzmann(
    name, build, uniform_fraction, prior, temperature
):
    """Log-ratios of every move alone, uniform ones too, are in `test_proposals.py`."""
    truth = TableEnergy(skewed_problem(name), prior=prior)
    p_value = boltzmann_p_value(build(uniform_fraction), truth, temperature)
    assert p_value > FALSE_ALARM


def test_fixed_temperature_samples_boltzmann_with_node_modules():
    truth = TableEnergy(skewed_problem("triangle"), num_node_modules=2)
    moves = [redraw(0.2), proposals.redraw_node_module(num_node_modules=2)]
    propose = proposals.mixture(moves, [2.0, 1.0])
    assert boltzmann_p_value(propose, truth, 1.0) > FALSE_ALARM


def test_chi_square_sees_a_missing_hastings_correction():
    truth = TableEnergy(skewed_problem("triangle"), prior=True)
    assert boltzmann_p_value(coupled(0.1), truth, 0.7, hastings=False) < 1e-30


@functools.cache
def traced_chain(build=everything, prior=True, num_steps=400, is_local=True):
    """One chain with all its states and diagnostics, cooled from 3 to 0.1."""
    problem = skewed_problem("ragged")
    truth = TableEnergy(problem, prior=prior)
    energy = truth.energy._replace(is_local=is_local)
    algorithm = search.simulated_annealing(build(0.2))
    start = algorithm.init(truth.structure(0), energy, problem.candidates)
    temperature = schedules.geometric_temperature(3.0, 0.1, num_steps)
    run = jax.jit(
        lambda key: search.run_search(
            key,
            start,
            algorithm,
            energy,
            problem.candidates,
            temperature,
            num_steps,
            transform=lambda state, info: (state, info),
        )[1]
    )
    temperatures = np.array([temperature(step) for step in range(num_steps)])
    return truth, start, jax.device_get(run(jax.random.key(1))), temperatures


def test_energies_and_diagnostics_of_every_step():
    truth, start, (states, info), temperatures = traced_chain()
    energies = truth.totals.ravel()[truth.index(states.structure)]
    np.testing.assert_allclose(states.energy, energies, atol=1e-5)
    before = np.append(start.energy, states.energy[:-1])
    proposed = np.asarray(info.proposed_energy)
    accepted = np.asarray(info.is_accepted)
    np.testing.assert_array_equal(states.energy, np.where(accepted, proposed, before))
    np.testing.assert_array_equal(info.is_worsening, proposed > before)
    exponent = (before - proposed) / temperatures + np.asarray(info.log_ratio)
    np.testing.assert_allclose(
        info.acceptance_probability, np.exp(np.minimum(exponent, 0.0)), rtol=1e-4
    )
    assert 0 < accepted.sum() < len(accepted)


def test_best_so_far_is_the_minimum_visited():
    truth, start, (states, _), _ = traced_chain()
    visited = np.append(start.energy, states.energy)
    lowest = np.minimum.accumulate(visited)[1:]
    np.testing.assert_array_equal(states.best_energy, lowest)
    best = truth.totals.ravel()[truth.index(states.best_structure)]
    np.testing.assert_allclose(best, lowest, atol=1e-5)
    # The chain left its best structure at some time: they are kept apart.
    assert (np.asarray(states.energy) > lowest + 0.1).any()


@pytest.mark.parametrize(
    "build, is_local, per_step",
    [(everything, True, 2), (everything, False, 4)],
)
def test_counters(build, is_local, per_step):
    _, start, (states, _), _ = traced_chain(build, True, 400, is_local)
    assert start.num_proposals == 0
    assert start.num_node_updates == 4
    steps = np.arange(1, 401)
    np.testing.assert_array_equal(states.num_proposals, steps)
    np.testing.assert_array_equal(states.num_node_updates, 4 + per_step * steps)


def test_local_energy_gives_the_same_chain_as_full_evaluation():
    _, _, (local, _), _ = traced_chain()
    _, _, (full, _), _ = traced_chain(is_local=False)
    jax.tree.map(np.testing.assert_array_equal, local.structure, full.structure)
    np.testing.assert_allclose(local.energy, full.energy, atol=1e-5)


@pytest.mark.parametrize("build, seed", [(flip, 0), (redraw, 1)])
def test_annealing_finds_the_optimum_of_enumeration(build, seed):
    problem = skewed_problem("ragged")
    truth = TableEnergy(problem, seed=seed, scale=3.0)
    listed = jax.jit(
        lambda: search.enumerate_receivers(
            truth.energy, problem.candidates, jnp.zeros(4, jnp.int32), chunk_size=4
        )
    )()
    best, energies = search.best_structure(listed, jnp.zeros(4, jnp.int32))
    lowest = truth.totals.min()
    np.testing.assert_allclose(np.sum(energies), lowest, rtol=1e-5)
    assert problem.index(best.edge_modules) == np.argmin(truth.totals[:, 0])
    # Eight chains: one alone may end in a local minimum.
    cooling = schedules.geometric_temperature(10.0, 0.3, 500)
    algorithm = search.simulated_annealing(build(0.5))
    state = run_chains(algorithm, truth, np.arange(8), 500, cooling, seed=seed)
    np.testing.assert_allclose(np.min(state.best_energy), lowest, rtol=1e-5)


@pytest.fixture(name="marginals", scope="module")
def marginals_by_hand():
    """Energies of the ragged problem and the marginals of their distribution."""
    truth = TableEnergy(skewed_problem("ragged"))
    return truth, truth.marginals(1.5)


def test_edge_marginals_by_hand(marginals):
    truth, expected = marginals

    @jax.jit
    def enumerate_all():
        listed = search.enumerate_receivers(
            truth.energy, truth.problem.candidates, jnp.zeros(4, jnp.int32)
        )
        return listed, search.edge_marginals(listed, 3, temperature=1.5)

    listed, found = jax.device_get(enumerate_all())
    mask = np.asarray(truth.problem.candidates.slot_mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-6)
    # Masked slots sit at module 0, so that every real assignment counts once.
    assert np.isfinite(listed.energies).sum(axis=1).tolist() == [9, 3, 3, 1]
    np.testing.assert_allclose(found[~mask][:, 0], 1.0, rtol=1e-5)


def test_sampled_marginals_are_unbiased(marginals):
    """t-tests over chains that start at exact draws, so that there is no burn-in."""
    truth, expected = marginals
    probabilities = truth.boltzmann(1.5)
    num_chains = 256
    start = exact_draws(probabilities, num_chains, seed=1)
    algorithm = search.simulated_annealing(everything(0.2))

    @jax.jit
    @jax.vmap
    def run(key, structure):
        return search.sample_marginals(
            key,
            algorithm.init(structure, truth.energy, truth.problem.candidates),
            algorithm,
            truth.energy,
            truth.problem.candidates,
            100,
            temperature=1.5,
        )

    keys = jax.random.split(jax.random.key(0), num_chains)
    found = np.asarray(run(keys, truth.structure(start)), np.float64)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    mask = np.asarray(truth.problem.candidates.slot_mask)
    found, expected = found[:, mask].reshape(num_chains, -1), expected[mask].ravel()
    deviation = (found.mean(axis=0) - expected) / scipy.stats.sem(found, axis=0)
    p_values = 2 * scipy.stats.t.sf(np.abs(deviation), num_chains - 1)
    assert p_values.min() > FALSE_ALARM / len(expected)


def test_enumeration_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="found 1048576 assignments"):
        search.all_assignments(20, 2)
    truth = TableEnergy(skewed_problem("triangle"))
    with pytest.raises(ValueError, match="roll-out"):
        search.enumerate_receivers(
            truth.energy._replace(is_local=False),
            truth.problem.candidates,
            jnp.zeros(3, jnp.int32),
        )


@pytest.mark.parametrize(
    "slots, modules, expected",
    [(0, 2, [[]]), (2, 2, [[0, 0], [0, 1], [1, 0], [1, 1]]), (1, 3, [[0], [1], [2]])],
)
def test_all_assignments_by_hand(slots, modules, expected):
    assert search.all_assignments(slots, modules).tolist() == expected
