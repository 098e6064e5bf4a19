"""What holds for every search: one list of them, the same tests for each.

What `modmeta.search.testing.check_search` tells of any search, and beyond it what these
reach on its problem. Energies are tables of tiny problems, so the energy of whatever a
search returns is known by hand, and the budget is counted by the energy itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import search
from modmeta.search import proposals, schedules, testing
from tests.search.tables import TableEnergy, compare, redraw, skewed_problem

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


def has_prior(name):
    """Whether the search is tested with a prior, which ties receivers together."""
    return not search.SEARCHES[name].needs.independent_receivers


@functools.cache
def checked(name):
    """The problem of `check_search` and all states and diagnostics of its chains."""
    return testing.checked_chains(name, **OPTIONS[name])


def usual_chains(name):
    problem, batch = checked(name)
    totals = problem.totals(problem.tables[0])
    return totals, jax.tree.map(lambda leaf: leaf[: testing.NUM_CHAINS], batch)


def test_every_search_is_tested():
    assert NAMES == list(OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_contract_is_kept(name):
    """Shapes, counts, energies, alone in a scan as in a batch of steps, and more."""
    problem, _ = checked(name)
    _, (states, _) = usual_chains(name)
    assert len(np.unique(problem.index(states.structure.edge_modules))) > 1
    if has_prior(name):  # without one, energies of structures add up by construction
        assert np.abs(states.energy - states.local_energies.sum(-1)).max() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_best_is_the_optimum_at_the_end(name):
    totals, (states, _) = usual_chains(name)
    assert totals[0] > totals.min() + 0.5
    share = np.mean(states.best_energy[:, -1] < totals.min() + 1e-5)
    assert share >= 0.25


@pytest.mark.parametrize("name", NAMES)
def test_diagnostics(name):
    totals, (states, info) = usual_chains(name)
    first = np.full((len(states.energy), 1), totals[0], np.float32)
    before = np.concatenate([first, states.energy[:, :-1]], axis=1)
    probability = info.acceptance_probability
    accepted = info.is_accepted
    assert (probability[accepted] > 0.0).all() and (probability[~accepted] < 1.0).all()
    if name != "parallel_tempering":  # its chain may be exchanged after the move
        expected = np.where(accepted, info.proposed_energy, before)
        np.testing.assert_allclose(states.energy, expected, atol=1e-5)
    clear = np.abs(info.proposed_energy - before) > 1e-5
    worse = info.proposed_energy > before
    np.testing.assert_array_equal(info.is_worsening[clear], worse[clear])


@pytest.mark.parametrize("name", [name for name in NAMES if has_prior(name)])
def test_energy_that_is_not_local_is_evaluated_at_all_receivers(name):
    problem, batch = checked(name)
    counts = {"calls": 0, "receivers": 0, "weights": 0}

    def observe(kind, argument):
        def count(*leaves):
            counts["calls"] += kind == "receivers"
            counts[kind] += len(leaves[0]) if kind == "receivers" else leaves[0].size

        # All of it, so that every structure of a batch is counted.
        jax.debug.callback(count, *jax.tree.leaves(argument))

    energy = problem.energy(problem.tables[0], observe)._replace(is_local=False)
    algorithm = search.build_search(name, **OPTIONS[name])

    def first_step(energy, candidates):
        @jax.jit
        def take(key):
            state = algorithm.init(problem.start, energy, candidates)
            key = jax.random.fold_in(key, 0)
            temperature = testing.temperature(jnp.int32(0))
            return algorithm.step(key, state, energy, candidates, temperature)

        return take(testing.chain_key(0))

    state, info = first_step(energy, problem.candidates)
    jax.effects_barrier()
    # The start is evaluated, but is no proposal.
    assert state.num_proposals == counts["calls"] - 1
    assert state.num_node_updates == counts["receivers"] + counts["weights"]
    derivatives = 6 if search.SEARCHES[name].needs.residuals else 0
    assert state.num_node_updates == 3 * (1 + state.num_proposals) + derivatives
    # Only the cost differs. (A first step of REINFORCE draws before it learns.)
    expected, expected_info = jax.tree.map(lambda leaf: leaf[0, 0], batch)
    if search.SEARCHES[name].sweeps:
        # Energies that are not local cannot be kept: one receiver at a time.
        local = problem.energy(problem.tables[0])
        candidates = problem.candidates._replace(reverse_slots=None)
        expected, expected_info = first_step(local, candidates)
    compare(info, expected_info)
    unlike = {"num_node_updates": np.int32(0), "memory": ()}
    compare(state._replace(**unlike), expected._replace(**unlike))


def test_population_of_finite_energies_stays_so():
    """Bad children are replaced, not only passed over."""
    _, (states, _) = checked("genetic")
    for energies in states.memory.energy[testing.NUM_CHAINS : -1]:
        is_finite = np.isfinite(energies).all(axis=1)
        assert not is_finite[0]
        assert is_finite[np.argmax(is_finite) :].all()
        assert is_finite[-1]


@pytest.mark.parametrize("name", ["reinforce", "mean_field", "integer_least_squares"])
def test_node_modules_are_searched_where_asked(name):
    """In the table, every module of a node changes the energies of all assignments.

    Gibbs sampling with modules of nodes is in `test_statistics.py`, greedy and
    exhaustive search in `test_optimisers.py`.
    """
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
