"""Annealing against exact Boltzmann distributions and optima of listed structures.

The truth is a NumPy table of the energies of all structures of a tiny problem. In the
chi-square tests every chain is independent of the others, starts at an exact draw from
the Boltzmann distribution and counts at its last step alone: if the kernel leaves the
distribution invariant, the counts are exactly multinomial, however slowly it mixes;
if not, the chains drift away from it. Keys are fixed; a test fails by chance with
probability 1e-5.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from modmeta import search
from modmeta.relational.energy import symmetric_prior
from modmeta.search import enumeration, proposals, schedules
from tests.fixtures import TinyProblem, chi_square_p_value

FALSE_ALARM = 1e-5
NUM_CHAINS = 4096
PRIOR_WEIGHT = 2.5


class TableEnergy:
    """Random energies of every receiver, and those of all structures by hand.

    Attributes:
      energy: For the search.
      totals: `[S, M ** R]` energy of every structure and choice of node modules.
    """

    def __init__(self, problem, *, prior=False, num_node_modules=1, seed=0, scale=1.0):
        self.problem, self.num_node_modules = problem, num_node_modules
        mask = np.asarray(problem.candidates.slot_mask)
        num_receivers, num_slots = mask.shape
        base = problem.num_modules
        rng = np.random.default_rng(seed)
        shape = (num_receivers, num_node_modules, base**num_slots)
        self.table = scale * rng.normal(size=shape).astype(np.float32)
        self.table[~mask.any(axis=1)] = 0.0  # padded receivers
        powers = base ** np.arange(num_slots)
        table = jnp.asarray(self.table)

        def local(structure, receivers):
            slots = structure.edge_modules * problem.candidates.slot_mask
            codes = jnp.sum(slots * powers[None], axis=1)
            return table[receivers, structure.node_modules[receivers], codes[receivers]]

        self.energy = search.Energy(local)
        if prior:
            self.energy = self.energy._replace(
                prior=symmetric_prior(problem.candidates, PRIOR_WEIGHT)
            )
        nodes = list(itertools.product(range(num_node_modules), repeat=num_receivers))
        self.nodes = np.array(nodes, np.int32)
        self.totals = np.zeros((len(problem.structures), len(nodes)))
        for row, structure in enumerate(problem.structures):
            for column, modules in enumerate(nodes):
                for receiver in range(num_receivers):
                    code = sum(
                        structure[receiver, slot] * base**slot
                        for slot in range(num_slots)
                        if mask[receiver, slot]
                    )
                    value = self.table[receiver, modules[receiver], code]
                    self.totals[row, column] += value
                if prior:
                    self.totals[row, column] += PRIOR_WEIGHT * sum(
                        0.5 * (structure[slot] != structure[opposite])
                        for slot, opposite in problem.pairs()
                    )

    def boltzmann(self, temperature):
        weights = np.exp(-(self.totals - self.totals.min()) / temperature)
        return (weights / weights.sum()).ravel()

    def structure(self, index):
        """Structures of flat indices into `totals`."""
        row, column = np.unravel_index(index, self.totals.shape)
        return search.Structure(
            jnp.asarray(self.problem.structures[row]), jnp.asarray(self.nodes[column])
        )

    def index(self, structure):
        row = self.problem.index(structure.edge_modules)
        column = 0
        for modules in np.moveaxis(np.asarray(structure.node_modules), -1, 0):
            column = column * self.num_node_modules + modules
        return np.ravel_multi_index((row, column), self.totals.shape)


def run_chains(propose, truth, start, num_steps, temperature, *, hastings=True, seed=0):
    """Runs one chain for every start; returns the last states."""
    algorithm = search.simulated_annealing(propose, hastings=hastings)
    candidates = truth.problem.candidates

    @jax.jit
    @jax.vmap
    def run(key, structure):
        state = algorithm.init(structure, truth.energy)
        return search.run_search(
            key,
            state,
            algorithm,
            truth.energy,
            candidates,
            temperature
            if callable(temperature)
            else lambda _: jnp.float32(temperature),
            num_steps,
        )[0]

    keys = jax.random.split(jax.random.key(seed), len(start))
    return run(keys, truth.structure(start))


def boltzmann_p_value(propose, truth, temperature, *, hastings=True, num_steps=60):
    probabilities = truth.boltzmann(temperature)
    rng = np.random.default_rng(0)
    start = rng.choice(len(probabilities), NUM_CHAINS, p=probabilities)
    state = run_chains(propose, truth, start, num_steps, temperature, hastings=hastings)
    last = truth.index(state.structure)
    # A chain that rests would keep the distribution too.
    assert np.mean(last != start) > 0.5
    visits = np.bincount(last, minlength=len(probabilities))
    return chi_square_p_value(visits, probabilities)


def flip(uniform_fraction):
    return proposals.flip_edge(uniform_fraction=uniform_fraction)


def redraw(uniform_fraction):
    return proposals.redraw_node(uniform_fraction=uniform_fraction)


def coupled(uniform_fraction):
    """The moves that the symmetric prior needs, mixed."""
    return proposals.mixture(
        [
            flip(uniform_fraction),
            proposals.flip_pair(uniform_fraction=uniform_fraction),
        ],
        [1.0, 1.0],
    )


def everything(uniform_fraction):
    return proposals.mixture(
        [coupled(uniform_fraction), redraw(uniform_fraction)], [2.0, 1.0]
    )


@functools.cache
def skewed_problem(name):
    """Learned proposals that know nothing of the energy and are sure of it."""
    return TinyProblem(name, logit_scale=2.0, seed=3)


@pytest.mark.parametrize(
    "name, build, uniform_fraction, prior, temperature",
    [
        ("triangle", flip, 1.0, False, 1.0),
        ("triangle", flip, 0.1, False, 1.0),
        ("triangle", redraw, 0.0, False, 1.0),
        ("triangle", coupled, 1.0, True, 1.0),
        ("triangle", coupled, 0.1, True, 0.7),
        ("ragged", everything, 0.2, True, 1.0),
    ],
)
def test_fixed_temperature_samples_boltzmann(
    name, build, uniform_fraction, prior, temperature
):
    truth = TableEnergy(skewed_problem(name), prior=prior)
    p_value = boltzmann_p_value(build(uniform_fraction), truth, temperature)
    assert p_value > FALSE_ALARM


def test_fixed_temperature_samples_boltzmann_with_node_modules():
    truth = TableEnergy(skewed_problem("triangle"), num_node_modules=2)
    moves = [redraw(0.2), proposals.redraw_node_module(num_node_modules=2)]
    propose = proposals.mixture(moves, [2.0, 1.0])
    assert boltzmann_p_value(propose, truth, 1.0) > FALSE_ALARM


@pytest.mark.parametrize("build", [redraw, coupled])
def test_chi_square_sees_a_missing_hastings_correction(build):
    truth = TableEnergy(skewed_problem("triangle"), prior=build is coupled)
    assert boltzmann_p_value(build(0.1), truth, 1.0, hastings=False) < 1e-30


def test_every_start_leads_to_boltzmann():
    truth = TableEnergy(skewed_problem("triangle"), prior=True)
    probabilities = truth.boltzmann(1.0)
    start = np.full(NUM_CHAINS, np.argmin(probabilities))
    state = run_chains(coupled(0.3), truth, start, 200, 1.0)
    visits = np.bincount(truth.index(state.structure), minlength=len(probabilities))
    assert chi_square_p_value(visits, probabilities) > FALSE_ALARM


@functools.cache
def traced_chain(build=everything, prior=True, num_steps=400, is_local=True):
    """One chain with all its states and diagnostics, cooled from 3 to 0.1."""
    problem = skewed_problem("ragged")
    truth = TableEnergy(problem, prior=prior)
    energy = truth.energy._replace(is_local=is_local)
    algorithm = search.simulated_annealing(build(0.2))
    start = algorithm.init(truth.structure(0), energy)
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
    return truth, start, run(jax.random.key(1)), temperatures


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
    [(flip, True, 1), (everything, True, 2), (everything, False, 4)],
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


def run_with_bad_energies(bad):
    """A chain of which the start and about half of the structures are bad."""
    # Built outside the trace, because `skewed_problem` keeps what it builds.
    problem = skewed_problem("triangle")
    return _run_with_bad_energies(
        bad, TableEnergy(problem).table[:, 0], problem.candidates
    )


@jax.jit
def _run_with_bad_energies(bad, good, candidates):
    is_bad = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]], bool)
    table = jnp.where(is_bad, bad, good)

    def local(structure, receivers):
        codes = jnp.sum(structure.edge_modules * np.array([[1, 2]]), axis=1)
        return table[receivers, codes[receivers]]

    energy = search.Energy(local)
    algorithm = search.simulated_annealing(coupled(0.2))
    structure = search.Structure(jnp.zeros((3, 2), jnp.int32), jnp.zeros(3, jnp.int32))
    start = algorithm.init(structure, energy)
    _, trace = search.run_search(
        jax.random.key(0),
        start,
        algorithm,
        energy,
        candidates,
        lambda _: jnp.float32(2.0),
        500,
        transform=lambda state, info: (state, info),
    )
    return start, *trace


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_energies_that_are_not_finite_are_never_accepted(bad):
    start, states, info = run_with_bad_energies(jnp.float32(bad))
    assert not np.isfinite(start.energy)
    proposed = np.asarray(info.proposed_energy)
    accepted = np.asarray(info.is_accepted)
    assert not np.isfinite(proposed).all()
    assert np.isfinite(proposed[accepted]).all()
    first = np.argmax(accepted)
    assert accepted.sum() > 10
    assert np.isfinite(states.energy[first:]).all()
    assert np.isfinite(states.best_energy[first:]).all()
    lowest = np.minimum.accumulate(np.asarray(states.energy[first:]))
    np.testing.assert_array_equal(states.best_energy[first:], lowest)


def test_jit_equals_eager_and_a_chain_does_not_see_its_batch():
    problem = skewed_problem("ragged")
    truth = TableEnergy(problem, prior=True)
    algorithm = search.simulated_annealing(redraw(0.2))
    temperature = schedules.geometric_temperature(2.0, 0.5, 20)
    start = algorithm.init(truth.structure(5), truth.energy)

    def run(key, num_steps=20):
        return search.run_search(
            key,
            start,
            algorithm,
            truth.energy,
            problem.candidates,
            temperature,
            num_steps,
            transform=lambda state, _: state,
        )[1]

    keys = jax.random.split(jax.random.key(2), 3)
    alone = jax.jit(run)(keys[1])
    batched = jax.jit(jax.vmap(run))(keys)
    state = start
    for step in range(5):
        key = jax.random.fold_in(keys[1], step)
        state, _ = algorithm.step(
            key, state, truth.energy, problem.candidates, temperature(step)
        )
        compare(state, jax.tree.map(lambda leaf, at=step: leaf[at], alone))
    compare(jax.tree.map(lambda leaf: leaf[1], batched), alone)


def compare(found, expected):
    """Integers must be equal, energies up to rounding."""
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        if jnp.issubdtype(one.dtype, jnp.integer):
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [flip, redraw])
def test_annealing_finds_the_optimum_of_enumeration(build):
    problem = skewed_problem("ragged")
    for seed in range(2):
        truth = TableEnergy(problem, seed=seed, scale=3.0)
        listed = enumeration.enumerate_receivers(
            truth.energy, problem.candidates, jnp.zeros(4, jnp.int32), chunk_size=4
        )
        best, energies = enumeration.best_structure(listed, jnp.zeros(4, jnp.int32))
        lowest = truth.totals.min()
        np.testing.assert_allclose(jnp.sum(energies), lowest, rtol=1e-5)
        assert problem.index(best.edge_modules) == np.argmin(truth.totals[:, 0])
        # Eight chains: one alone may end in a local minimum.
        cooling = schedules.geometric_temperature(10.0, 0.3, 500)
        state = run_chains(build(0.5), truth, np.arange(8), 500, cooling, seed=seed)
        np.testing.assert_allclose(jnp.min(state.best_energy), lowest, rtol=1e-5)


@pytest.fixture(name="marginals", scope="module")
def marginals_by_hand():
    """Energies of the ragged problem and the marginals of their distribution."""
    truth = TableEnergy(skewed_problem("ragged"))
    probabilities = truth.boltzmann(1.5)
    marginals = np.zeros(truth.problem.candidates.edge_logits.shape)
    for structure, probability in zip(
        truth.problem.structures, probabilities, strict=True
    ):
        for slot in truth.problem.slots:
            marginals[slot][structure[slot]] += probability
    return truth, marginals


def test_edge_marginals_by_hand(marginals):
    truth, expected = marginals
    listed = enumeration.enumerate_receivers(
        truth.energy, truth.problem.candidates, jnp.zeros(4, jnp.int32)
    )
    found = np.asarray(enumeration.edge_marginals(listed, 3, temperature=1.5))
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
    start = np.random.default_rng(1).choice(
        len(probabilities), num_chains, p=probabilities
    )
    algorithm = search.simulated_annealing(everything(0.2))

    @jax.jit
    @jax.vmap
    def run(key, structure):
        return search.sample_marginals(
            key,
            algorithm.init(structure, truth.energy),
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
    with pytest.raises(ValueError, match="1048576 assignments"):
        enumeration.all_assignments(20, 2)
    truth = TableEnergy(skewed_problem("triangle"))
    with pytest.raises(ValueError, match="roll-out"):
        enumeration.enumerate_receivers(
            truth.energy._replace(is_local=False),
            truth.problem.candidates,
            jnp.zeros(3, jnp.int32),
        )


@pytest.mark.parametrize(
    "slots, modules, expected",
    [(0, 2, [[]]), (2, 2, [[0, 0], [0, 1], [1, 0], [1, 1]]), (1, 3, [[0], [1], [2]])],
)
def test_all_assignments_by_hand(slots, modules, expected):
    assert enumeration.all_assignments(slots, modules).tolist() == expected
