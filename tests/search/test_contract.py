"""What holds for every search: one list of them, the same tests for each.

What `modmeta.search.testing.check_search` tells of any search, and beyond it what these
reach on larger tables. Energies are tables of tiny problems, so the energy of whatever
a search returns is known by hand, and the budget is counted by the energy itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import search
from modmeta.search import proposals, schedules, testing
from tests.search.tables import (
    TableEnergy,
    compare,
    redraw,
    skewed_problem,
    table_energy,
)

NUM_STEPS = 100
NUM_CHAINS = 8
START = 7
OPTIONS = {
    "simulated_annealing": {"propose": redraw(0.5)},
    "parallel_tempering": {"propose": redraw(0.5), "factors": (1.0, 2.0, 4.0)},
    "gibbs": {},
    "greedy": {},
    "enumeration": {"chunk_size": 2},
    "genetic": {"propose": redraw(0.5), "population_size": 6},
    "reinforce": {"num_samples": 4},
    "straight_through": {"num_samples": 2},
    "mean_field": {"num_samples": 2},
    "integer_least_squares": {"num_candidates": 4, "beam_size": 6},
}
NAMES = list(search.SEARCHES)
BAD = (np.nan, np.inf, -np.inf)
temperature = schedules.geometric_temperature(2.0, 0.3, NUM_STEPS)


def has_prior(name):
    """Whether the search is tested with a prior, which ties receivers together."""
    return not search.SEARCHES[name].needs.independent_receivers


def build(name):
    return search.build_search(name, **OPTIONS[name])


@functools.cache
def truths_of(name):
    """Energies of the ragged problem: a usual one, then one for each of `BAD`.

    The problem has masked slots, a padded receiver, and edges without opposite. Of the
    bad energies, that of the start is one.
    """
    problem, prior = skewed_problem("ragged"), has_prior(name)
    is_bad = np.random.default_rng(0).random((4, 1, 9)) < 0.4
    is_bad[1:] = False
    is_bad[1, 0, 3:6] = True  # the second of three modules
    slots = problem.structures[START, 0]
    is_bad[0, 0, slots[0] + 3 * slots[1]] = True
    usual = TableEnergy(problem, prior=prior)
    bad = [TableEnergy(problem, prior=prior, bad=b, is_bad=is_bad) for b in BAD]
    return [usual, *bad]


def truth_of(name):
    return truths_of(name)[0]


def run(name, key, energy, candidates):
    """All states and diagnostics of one chain, from the same start."""
    algorithm = build(name)
    start = truth_of(name).structure(START)
    return search.run_search(
        key,
        algorithm.init(start, energy, candidates),
        algorithm,
        energy,
        candidates,
        temperature,
        NUM_STEPS,
        transform=lambda state, info: (state, info),
    )[1]


@functools.cache
def batch_of_problems(name):
    """Usual chains, one with each kind of bad energy, one of a problem without edges.

    All at once: what one of them does must not reach the others.
    """
    usual, *bad = truths_of(name)
    tables = [usual.table] * NUM_CHAINS + [truth.table for truth in bad]
    tables = np.stack([*tables, np.zeros_like(usual.table)])
    candidates = jax.tree.map(
        lambda leaf: np.stack([leaf] * len(tables)), usual.problem.candidates
    )
    candidates.slot_mask[-1] = False

    @jax.jit
    @jax.vmap
    def run_all(key, table, candidates):
        energy = table_energy(table, candidates, prior=has_prior(name))
        return run(name, key, energy, candidates)

    return jax.device_get(run_all(chain_keys(), tables, candidates))


@functools.cache
def chain_keys():
    return jax.random.split(jax.random.key(1), NUM_CHAINS + len(BAD) + 1)


def usual_chains(name):
    return jax.tree.map(lambda leaf: leaf[:NUM_CHAINS], batch_of_problems(name))


class Counting:
    """An energy that counts how often, and at how many receivers, it is evaluated."""

    def __init__(self, energy, is_local=True):
        self.calls, self.receivers, self.derivatives = 0, 0, 0

        def count(receivers, evaluated):
            del evaluated  # so that every structure of a batch is counted
            self.calls += 1
            self.receivers += len(receivers)

        def count_derivatives(weights):
            self.derivatives += weights.size

        def local(structure, receivers):
            jax.debug.callback(count, receivers, structure)
            return energy.local(structure, receivers)

        def relaxed(edge_weights, node_modules):
            weights = jax.lax.stop_gradient(edge_weights)
            jax.debug.callback(count, node_modules, weights)
            return energy.relaxed(edge_weights, node_modules)

        def residuals(edge_weights, node_module, receiver):
            weights = jax.lax.stop_gradient(edge_weights)
            jax.debug.callback(count_derivatives, weights)
            return energy.residuals(edge_weights, node_module, receiver)

        self.energy = energy._replace(
            local=local, relaxed=relaxed, residuals=residuals, is_local=is_local
        )

    def assert_counted(self, state):
        jax.effects_barrier()
        # The start is evaluated, but is no proposal.
        assert state.num_proposals == self.calls - 1
        assert state.num_node_updates == self.receivers + self.derivatives


def test_every_search_is_tested():
    assert NAMES == list(OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_contract_is_kept(name):
    """Shapes, dtypes, counts, alone as in a batch and without jit, and more."""
    testing.check_search(name, **OPTIONS[name])


@pytest.mark.parametrize("name", NAMES)
def test_energies_are_those_of_the_structures(name):
    truth, (states, _) = truth_of(name), usual_chains(name)
    totals = truth.totals.ravel()
    for structure, energy in [
        (states.structure, states.energy),
        (states.best_structure, states.best_energy),
    ]:
        np.testing.assert_allclose(energy, totals[truth.index(structure)], atol=1e-5)
    if has_prior(name):  # without one, it would pass by construction
        assert np.abs(states.energy - states.local_energies.sum(-1)).max() > 1.0
    assert len(np.unique(truth.index(states.structure))) > 1


@pytest.mark.parametrize("name", NAMES)
def test_masked_slots_are_left_alone(name):
    truth, (states, _) = truth_of(name), usual_chains(name)
    mask = np.asarray(truth.problem.candidates.slot_mask)
    for structure in (states.structure, states.best_structure):
        assert (np.asarray(structure.edge_modules)[..., ~mask] == 1).all()
        assert (np.asarray(structure.node_modules) == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_best_never_worsens(name):
    truth, (states, _) = truth_of(name), usual_chains(name)
    best = np.asarray(states.best_energy)
    start = truth.totals.ravel()[START]
    visited = np.minimum.accumulate(np.asarray(states.energy), axis=1)
    assert (np.diff(best, axis=1) <= 0.0).all()
    assert (best <= np.minimum(visited, start + 1e-6)).all()


@pytest.mark.parametrize("name", NAMES)
def test_best_is_the_optimum_at_the_end(name):
    truth, (states, _) = truth_of(name), usual_chains(name)
    optimum = truth.totals.min()
    assert truth.totals.ravel()[START] > optimum + 0.5
    share = np.mean(states.best_energy[:, -1] < optimum + 1e-5)
    # Annealing this short gets there in .43 of many chains.
    assert share >= 0.25


@pytest.mark.parametrize("name", NAMES)
def test_diagnostics(name):
    truth, (states, info) = truth_of(name), usual_chains(name)
    first = np.full((NUM_CHAINS, 1), truth.totals.ravel()[START], np.float32)
    before = np.concatenate([first, states.energy[:, :-1]], axis=1)
    probability = np.asarray(info.acceptance_probability)
    assert ((0.0 <= probability) & (probability <= 1.0)).all()
    accepted = np.asarray(info.is_accepted)
    assert (probability[accepted] > 0.0).all() and (probability[~accepted] < 1.0).all()
    if name != "parallel_tempering":  # its chain may be exchanged after the move
        expected = np.where(accepted, info.proposed_energy, before)
        np.testing.assert_allclose(states.energy, expected, atol=1e-5)
    clear = np.abs(info.proposed_energy - before) > 1e-5
    worse = np.asarray(info.proposed_energy) > before
    np.testing.assert_array_equal(np.asarray(info.is_worsening)[clear], worse[clear])


@pytest.mark.parametrize("name", [name for name in NAMES if has_prior(name)])
def test_energy_that_is_not_local_is_evaluated_at_all_receivers(name):
    truth, algorithm = truth_of(name), build(name)
    candidates = truth.problem.candidates
    counting = Counting(truth.energy, is_local=False)

    @jax.jit
    def first_step(key):
        state = algorithm.init(truth.structure(START), counting.energy, candidates)
        key = jax.random.fold_in(key, 0)
        return algorithm.step(
            key, state, counting.energy, candidates, temperature(jnp.int32(0))
        )

    state, info = first_step(chain_keys()[3])
    counting.assert_counted(state)
    derivatives = 6 if search.SEARCHES[name].needs.residuals else 0
    assert state.num_node_updates == 4 * (1 + state.num_proposals) + derivatives
    # Only the cost differs. (A first step of REINFORCE draws before it learns.)
    expected, expected_info = jax.tree.map(lambda leaf: leaf[3, 0], usual_chains(name))
    compare(info, expected_info)
    unlike = {"num_node_updates": np.int32(0), "memory": ()}
    compare(state._replace(**unlike), expected._replace(**unlike))


@pytest.mark.parametrize("name", NAMES)
def test_energies_that_are_not_finite_are_never_accepted(name):
    states, info = jax.tree.map(
        lambda leaf: leaf[NUM_CHAINS:-1], batch_of_problems(name)
    )
    accepted = np.asarray(info.is_accepted)
    assert accepted.any(axis=1).all()
    assert np.isfinite(np.asarray(info.proposed_energy)[accepted]).all()
    for row, truth in enumerate(truths_of(name)[1:]):
        totals = truth.totals.ravel()
        assert not np.isfinite(totals[START])
        is_finite = np.isfinite(states.energy[row])
        first = np.argmax(is_finite)
        assert is_finite[first:].all()
        for structure, energy in [
            (states.structure, states.energy),
            (states.best_structure, states.best_energy),
        ]:
            expected = totals[truth.index(structure)[row]]
            np.testing.assert_allclose(energy[row, first:], expected[first:], atol=1e-5)
        assert (np.diff(states.best_energy[row, first:]) <= 0.0).all()


def test_population_of_finite_energies_stays_so():
    """Bad children are replaced, not only passed over."""
    states, _ = batch_of_problems("genetic")
    for energies in np.asarray(states.memory.energy)[NUM_CHAINS:-1]:
        is_finite = np.isfinite(energies).all(axis=1)
        assert not is_finite[0]
        assert is_finite[np.argmax(is_finite) :].all()
        assert is_finite[-1]


@pytest.mark.parametrize("name", NAMES)
def test_problem_without_edges(name):
    """Nothing can change, and nothing breaks."""
    states, _ = jax.tree.map(lambda leaf: leaf[-1], batch_of_problems(name))
    start = truth_of(name).structure(START)
    for leaf, expected in zip(states.structure, start, strict=True):
        assert (np.asarray(leaf) == np.asarray(expected)[None]).all()
    for leaf in (states.energy, states.best_energy, states.local_energies):
        assert (np.asarray(leaf) == 0.0).all()
    for leaf in jax.tree.leaves(states.memory):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    "name", ["gibbs", "greedy", "reinforce", "mean_field", "integer_least_squares"]
)
def test_node_modules_are_searched_where_asked(name):
    """In the table, every module of a node changes the energies of all assignments."""
    truth = TableEnergy(skewed_problem("triangle"), num_node_modules=2, seed=5)
    algorithm = search.build_search(name, num_node_modules=2)
    candidates = truth.problem.candidates

    @jax.jit
    @jax.vmap
    def run(key):
        return search.run_search(
            key,
            algorithm.init(truth.structure(3), truth.energy, candidates),
            algorithm,
            truth.energy,
            candidates,
            schedules.geometric_temperature(3.0, 0.2, 150),
            150,
        )[0]

    state = run(jax.random.split(jax.random.key(0), 8))
    totals = truth.totals.ravel()
    np.testing.assert_allclose(
        state.best_energy, totals[truth.index(state.best_structure)], atol=1e-5
    )
    # The modules at the start are not those of the optimum.
    assert totals.min() < truth.totals[:, 0].min() - 0.1
    assert np.mean(state.best_energy < totals.min() + 1e-5) >= 0.5


def test_build_search_refuses():
    with pytest.raises(ValueError, match="search: found 'annealing', expected one of"):
        search.build_search("annealing")
    with pytest.raises(ValueError, match="options of gibbs: found .'sweeps'"):
        search.build_search("gibbs", sweeps=2)
    with pytest.raises(ValueError, match="'propose': 'required'"):
        search.build_search("genetic", population_size=4)


@pytest.mark.parametrize(
    "name, options",
    [
        ("parallel_tempering", {"factors": (1.0,)}),
        ("parallel_tempering", {"factors": (2.0, 4.0)}),
        ("parallel_tempering", {"factors": (1.0, 3.0, 2.0)}),
        ("gibbs", {"block_size": 0}),
        ("gibbs", {"num_node_modules": 0}),
        ("greedy", {"num_node_modules": 0}),
        ("enumeration", {"chunk_size": 0}),
        ("genetic", {"num_elites": 0}),
        ("genetic", {"num_elites": 4, "population_size": 4}),
        ("genetic", {"tournament_size": 0}),
        ("genetic", {"crossover": "edge"}),
        ("reinforce", {"num_samples": 0}),
        ("reinforce", {"baseline_decay": 1.0}),
        ("straight_through", {"num_samples": 0}),
        ("straight_through", {"softmax_temperature": 0.0}),
        ("mean_field", {"num_samples": 0}),
        ("mean_field", {"damping": 1.0}),
        ("mean_field", {"uniform_fraction": 1.5}),
        ("greedy", {"uniform_fraction": -0.5}),
        ("integer_least_squares", {"num_candidates": 0}),
        ("integer_least_squares", {"beam_size": 8}),
        ("integer_least_squares", {"order_noise": -1.0}),
        ("integer_least_squares", {"num_node_modules": 0}),
    ],
)
def test_builders_refuse(name, options):
    if "propose" in OPTIONS[name]:
        options = {"propose": proposals.flip_edge(), **options}
    field = next(option for option in options if option != "propose")
    with pytest.raises(ValueError, match=f"{field}: found"):
        search.build_search(name, **options)


@pytest.mark.parametrize(
    "name, options, change, message",
    [
        ("gibbs", {"block_size": 3}, {}, "block_size: found 3"),
        ("enumeration", {}, {"is_local": False}, "energy: found one that couples"),
        ("enumeration", {}, {"prior": lambda _: 0.0}, "energy: found one that couples"),
        ("enumeration", {"num_node_modules": 1 << 17}, {}, "assignments per receiver"),
        ("straight_through", {}, {"relaxed": None}, "energy.relaxed: found None"),
        ("integer_least_squares", {}, {"residuals": None}, "energy.residuals: found"),
    ],
)
def test_searches_refuse_problems(name, options, change, message):
    truth = TableEnergy(skewed_problem("triangle"))
    energy, candidates = truth.energy._replace(**change), truth.problem.candidates
    algorithm = search.build_search(name, **options)
    with pytest.raises(ValueError, match=message):
        state = algorithm.init(truth.structure(0), energy, candidates)
        algorithm.step(jax.random.key(0), state, energy, candidates, jnp.float32(1.0))
