"""The public surface: names, parameters, the registry, and the check of a search."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import pytest

from modmeta import search
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.moves import build_algorithm
from modmeta.search import decoding, evaluation, proposals, registry, schedules, testing
from modmeta.search.schedules import ScheduleInitFn, ScheduleStepFn
from tests.fixtures import small_model

NAMES = list(search.SEARCHES)
MOVES = {
    "flip_edge": {},
    "redraw_node": {},
    "flip_pair": {},
    "rename_modules": {},
    "redraw_node_module": {"num_node_modules": 2},
    "mixture": {"weights": [1.0, 2.0]},
}
SCHEDULES = {
    "geometric": (2.0, 1.0, 5),
    "worsening_acceptance": (schedules.reference_target(),),
}


@pytest.fixture
def own_registry():
    """Searches registered by a test are gone after it."""
    before = set(search.SEARCHES)
    yield
    for name in set(search.SEARCHES) - before:
        search.unregister(name)


def build(name, **options):
    if search.SEARCHES[name].needs_proposal:
        options["propose"] = proposals.flip_edge()
    return search.build_search(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_parameter_names_of_searches(name):
    algorithm = build(name)
    init, step = map(testing.parameter_names, algorithm)
    assert init == ("structure", "energy", "candidates")
    assert step == ("rng_key", "state", "energy", "candidates", "temperature")
    for function in algorithm:  # nothing may be left out
        parameters = inspect.signature(function).parameters.values()
        assert all(parameter.default is parameter.empty for parameter in parameters)


def move(name):
    if name == "mixture":
        moves = [proposals.flip_edge(), proposals.redraw_node()]
        return search.mixture(moves, **MOVES[name])
    return getattr(search, name)(**MOVES[name])


@pytest.mark.parametrize("name", MOVES)
def test_parameter_names_of_moves(name):
    found = testing.parameter_names(move(name))
    assert found == ("rng_key", "structure", "candidates")
    assert found == testing.parameter_names(search.ProposalFunction.__call__)


@pytest.mark.parametrize("name", SCHEDULES)
def test_parameter_names_of_schedules(name):
    schedule = getattr(search, name)(*SCHEDULES[name])
    for function, protocol in zip(
        schedule, (ScheduleInitFn, ScheduleStepFn), strict=True
    ):
        expected = testing.parameter_names(protocol.__call__)
        assert testing.parameter_names(function) == expected
    assert expected == ("state", "num_worsening", "num_accepted_worsening")
    for function in (
        schedules.geometric_temperature(2.0, 1.0, 5),
        schedules.reference_target(),
    ):
        assert testing.parameter_names(function) == ("step",)


def defined_in(module, returns):
    """Public functions of a module whose annotated result is one of these."""
    return {
        name
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and function.__annotations__["return"] in returns
    }


def test_every_builder_is_tested_and_exported():
    moves = defined_in(proposals, ["base.ProposalFunction"])
    assert moves == set(MOVES)
    of_schedules = defined_in(schedules, ["TemperatureSchedule"])
    assert of_schedules == set(SCHEDULES)
    assert moves | of_schedules <= set(search.__all__)
    assert all(hasattr(search, name) for name in search.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_file_builder_and_name_are_the_same(name):
    builder = getattr(search, name)
    assert name in search.__all__
    assert search.SEARCHES[name].build is builder
    assert builder.__name__ == name
    assert builder.__module__ == f"modmeta.search.algorithms.{name}"


def test_every_file_of_algorithms_is_registered():
    package = importlib.import_module("modmeta.search.algorithms")
    files = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert files == set(NAMES)


@pytest.mark.parametrize("module", [search, registry])
def test_examples_of_docstrings(module, own_registry):
    """The second registers a search of one's own, checks and builds it."""
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 5
    assert found.failed == 0


def broken(*, change_state=None, rename=False):
    """Gibbs sampling with one thing wrong."""
    algorithm = search.gibbs()

    def step(rng_key, state, energy, candidates, temperature):
        new_state, info = algorithm.step(
            rng_key, state, energy, candidates, temperature
        )
        if change_state:
            new_state = change_state(state, new_state, energy)
        return new_state, info

    def init(start, energy, candidates):
        return algorithm.init(start, energy, candidates)

    return search.SearchAlgorithm(init if rename else algorithm.init, step)


def _wrong_energy(state, new_state, energy):
    del state, energy
    return new_state._replace(energy=new_state.energy + 1.0)


def _worse_best(state, new_state, energy):
    del state, energy
    return new_state._replace(
        best_structure=new_state.structure, best_energy=new_state.energy
    )


def _uncounted(state, new_state, energy):
    del energy
    return new_state._replace(num_proposals=state.num_proposals)


def _back_to_start(state, new_state, energy):
    """From every finite energy to a structure that may have none."""
    zeros = jax.tree.map(jnp.zeros_like, new_state.structure)
    moved = evaluation.evaluate_fully(energy, zeros)
    moves = jnp.isfinite(state.energy)
    moved = evaluation.select(moves, moved, evaluation.present(new_state))
    return new_state._replace(
        **moved._asdict(),
        num_proposals=new_state.num_proposals + 1,
        num_node_updates=new_state.num_node_updates + len(moved.local_energies),
    )


def _other_dtype(state, new_state, energy):
    del state, energy
    return new_state._replace(num_proposals=jnp.float32(new_state.num_proposals))


@pytest.mark.parametrize(
    "options, spec, message",
    [
        ({"rename": True}, {}, "parameters of init: found"),
        ({"change_state": _other_dtype}, {}, "leaf after a step: found"),
        ({"change_state": _wrong_energy}, {}, "energy: found"),
        ({"change_state": _worse_best}, {}, "best_energy: found"),
        ({"change_state": _uncounted}, {}, "num_proposals: found"),
        ({"change_state": _back_to_start}, {}, "energy after a finite one: found"),
        ({}, {"needs": search.EnergyTraits(relaxed=True)}, "init without relaxed"),
    ],
)
def test_a_broken_search_is_seen(options, spec, message):
    spec = {"uses_logits": False, **spec}
    spec = search.SearchSpec(lambda: broken(**options), **spec)
    with pytest.raises(AssertionError, match=message):
        testing.check_search(spec)


def test_what_a_spec_claims_is_checked():
    propose = proposals.flip_edge(uniform_fraction=0.1)
    learned = search.SearchSpec(search.simulated_annealing, uses_logits=False)
    with pytest.raises(AssertionError, match="with other logits"):
        testing.check_search(learned, propose=propose)
    uncorrected = search.SearchSpec(search.simulated_annealing, samples=True)
    with pytest.raises(AssertionError, match="visits at temperature 1: found"):
        testing.check_search(uncorrected, propose=propose, hastings=False)


def test_a_registered_search_is_known_by_name_everywhere(own_registry):
    def stay(*, uniform_fraction=1.0, num_node_modules=1):
        assert (uniform_fraction, num_node_modules) == (1.0, 2)
        return search.gibbs(num_node_modules=num_node_modules)

    needs = search.EnergyTraits(residuals=True, independent_receivers=True)
    search.register("stay", search.SearchSpec(stay, needs=needs))
    assert search.spec_of("stay").needs == needs
    build_algorithm(small_model(num_node_modules=2), "stay")
    with pytest.raises(ValueError, match="energy.residuals: found None, expected"):
        EnergyConfig(form="rollout").check_algorithm("stay")
    with pytest.raises(ValueError, match="found one that couples receivers"):
        EnergyConfig(prior="symmetric").check_algorithm("stay")


def test_register_refuses(own_registry):
    def positional(factor=1.0, /):
        return search.gibbs(block_size=factor)

    def required(*, factor):
        return search.gibbs(block_size=factor)

    for name, builder, message in [
        ("gibbs", search.gibbs, "search: found 'gibbs' registered before"),
        ("my search", search.gibbs, "expected an identifier"),
        ("new", positional, "new.factor: found positional-only"),
        ("new", required, "new.factor: found no default"),
    ]:
        with pytest.raises(ValueError, match=message):
            search.register(name, search.SearchSpec(builder))
    assert list(search.SEARCHES) == NAMES
    with pytest.raises(TypeError):
        search.SEARCHES["new"] = search.SearchSpec(search.gibbs)


def test_the_name_of_a_forgotten_search_is_free(own_registry):
    for builder in (search.gibbs, search.mean_field):
        search.register("new", search.SearchSpec(builder))
        assert search.spec_of("new").build is builder
        search.unregister("new")
        assert "new" not in search.SEARCHES
    with pytest.raises(ValueError, match="search: found 'new', expected one of"):
        search.unregister("new")


def test_check_energy_names_all_that_is_missing():
    plain = search.Energy(lambda structure, receivers: jnp.zeros(len(receivers)))
    search.check_energy("gibbs", plain)
    search.check_energy("enumeration", plain)
    with pytest.raises(ValueError, match=r"energy.relaxed: found None.*straight_thr"):
        search.check_energy("straight_through", plain)
    coupled = plain._replace(prior=lambda structure: jnp.zeros(()))
    for energy in (coupled, search.traits_of(coupled), plain._replace(is_local=False)):
        with pytest.raises(ValueError, match="energy: found one that couples"):
            search.check_energy("enumeration", energy)
    everything = search.EnergyTraits(True, True, True)
    for name in NAMES:
        search.check_energy(name, everything)
    with pytest.raises(ValueError, match="couples.*; energy.relaxed.*; energy.resid"):
        registry.base.check_traits(everything, search.EnergyTraits())


def test_bytes_per_chain():
    shapes = search.SearchShapes(
        num_receivers=5, num_slots=4, num_modules=3, num_residuals=40
    )
    # Modules of edges and nodes of both structures, energies, four scalars.
    state = 4 * (2 * (5 * 4 + 5) + 5 + 4)
    found = {name: search.bytes_per_chain(name, shapes) for name in NAMES}
    assert found["simulated_annealing"] == found["gibbs"] == state
    assert min(found.values()) == state
    # Four more chains, the exchanges of three pairs, the step.
    assert found["parallel_tempering"] == 5 * state + 4 * 4
    longer = search.bytes_per_chain(
        "parallel_tempering", shapes, factors=(1.0, 2.0, 3.0, 4.0, 5.0)
    )
    assert longer == 6 * state + 4 * 5
    population = [
        search.bytes_per_chain("genetic", shapes, population_size=size)
        for size in (8, 16)
    ]
    assert population[1] - population[0] == 8 * 4 * (5 * 4 + 5 + 5 + 1)
    least_squares = found["integer_least_squares"]
    assert least_squares > state + decoding.num_bytes(40, 4, 3)
    twice = search.bytes_per_chain("integer_least_squares", shapes, num_node_modules=2)
    assert twice - least_squares == decoding.num_bytes(40, 4, 3)
    with pytest.raises(ValueError, match="options of gibbs: found"):
        search.bytes_per_chain("gibbs", shapes, sweeps=2)


@pytest.mark.parametrize(
    "build", [search.flip_edge, search.redraw_node, search.flip_pair]
)
@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_moves_refuse_what_is_no_share(build, fraction):
    with pytest.raises(ValueError, match="uniform_fraction: found"):
        build(uniform_fraction=fraction)


def test_flip_pair_refuses_candidates_without_opposites():
    candidates = search.Candidates(jnp.ones((1, 1), bool), jnp.zeros((1, 1, 2)))
    structure = search.Structure(jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match="candidates: found no reverse_slots"):
        search.flip_pair()(jax.random.key(0), structure, candidates)
