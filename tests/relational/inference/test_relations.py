"""Inferred structures against a list of all structures, by `tests.reference`.

Energies of the small random models differ by many nats, so that the optimum is unique
and a short annealing run finds it with near certainty; keys are fixed.
"""

import copy
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from modmeta.graphs import supergraphs
from modmeta.relational.inference.config import InferenceConfig, MemoryConfig
from modmeta.relational.inference.infer import infer, search_batches
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.structures import TaskStructures
from tests.fixtures import Batch, search_options, small_model, small_params
from tests.reference import Reference

SIZES = (3, 1, 4, 2, 3)
CONFIG = InferenceConfig(num_steps=150, num_chains=4, num_samples=20)
# For what is compared with probabilities that are known.
MANY_SAMPLES = dataclasses.replace(CONFIG, num_samples=2000, tempered=False)


class Setting:
    """Tasks of several sizes, in batches of two, and a random model."""

    def __init__(self, model, sizes=SIZES, *, frames=4, scale=1.0, edges=None):
        self.model, self.sizes = model, sizes
        self.tasks = Batch(sizes, frames=frames)
        params = small_params(model, self.tasks.supergraph, frames)
        self.params = params._replace(
            modules=jax.tree.map(lambda leaf: scale * leaf, params.modules)
        )
        self.reference = Reference(model, self.params)
        self.batches = all_batches(sizes, 2, edges or supergraphs.fully_connected)
        # Padded nodes must never be read.
        self.states = np.full(
            (len(sizes), max(sizes), *self.tasks.states[0].shape[1:]),
            np.nan,
            np.float32,
        )
        for task, states in enumerate(self.tasks.states):
            self.states[task, : len(states)] = states

    def infer(self, config=CONFIG, start=None, seed=0):
        return infer(
            jax.random.key(seed),
            self.model,
            self.params,
            self.states,
            self.batches,
            start,
            config,
        )

    def edge_mask(self):
        """`[tasks, nodes, nodes]` true where there is an edge."""
        mask = np.zeros((len(self.sizes),) + (max(self.sizes),) * 2, bool)
        for task, size in enumerate(self.sizes):
            mask[task, :size, :size] = ~np.eye(size, dtype=bool)
        return mask


@functools.cache
def receiver_optima(setting):
    """Best edges `[tasks, nodes, nodes]`, node modules and energies by listing."""
    config = setting.model.bank.config
    shape = setting.edge_mask().shape
    edges, nodes = np.zeros(shape, int), np.zeros(shape[:2], int)
    energies = np.zeros(len(setting.sizes))
    for task, states in enumerate(setting.tasks.states):
        for receiver in range(len(states)):
            listed = {
                (assignment, module): energy
                for module in range(config.num_node_modules)
                for assignment, energy in setting.reference.receiver_energies(
                    states, receiver, module
                ).items()
            }
            assignment, module = min(listed, key=listed.get)
            others = [s for s in range(len(states)) if s != receiver]
            edges[task, receiver, others] = assignment
            nodes[task, receiver] = module
            energies[task] += listed[assignment, module]
    return edges, nodes, energies


@functools.cache
def setting(name):
    if name == "uniform":
        return Setting(small_model(num_relations=3))
    return Setting(small_model(num_node_modules=2, encoder="mlp+denoiser"))


@functools.cache
def found(name):
    return setting(name).infer(MANY_SAMPLES if name == "uniform" else CONFIG)


@functools.cache
def found_by_least_squares():
    """Of the learned setting; one chunk holds more receivers than there are."""
    given = with_memory(setting("learned"), receiver_chunk=50)
    return given.infer(
        dataclasses.replace(
            CONFIG, algorithm="integer_least_squares", num_steps=4, num_samples=0
        )
    )


def with_memory(setting, **options):
    """The same tasks and parameters, searched with other options of memory."""
    other = copy.copy(setting)
    other.model = dataclasses.replace(setting.model, memory=MemoryConfig(**options))
    return other


@pytest.mark.parametrize(
    "name, search",
    [
        ("uniform", lambda: found("uniform")),
        ("learned", lambda: found("learned")),
        ("learned", found_by_least_squares),
    ],
)
def test_structures_equal_enumeration(name, search):
    edges, nodes, energies = receiver_optima(setting(name))
    result = search()
    np.testing.assert_array_equal(result.structures.edge_modules, edges)
    np.testing.assert_array_equal(result.structures.node_modules, nodes)
    np.testing.assert_allclose(result.energies, energies, rtol=1e-4)


def test_few_assignments_are_all_tried():
    """Of three edges there are 27; a chain of as many steps misses some."""
    edges, _, energies = receiver_optima(setting("uniform"))
    config = dataclasses.replace(CONFIG, num_steps=27, num_chains=1, num_samples=0)
    result = setting("uniform").infer(config)
    np.testing.assert_array_equal(result.structures.edge_modules, edges)
    np.testing.assert_allclose(result.energies, energies, rtol=1e-4)


def mean_square(reference, states, edges, receiver):
    """Of the errors of one receiver, in units of what is expected, to first order.

    Large changes are compressed.
    """

    def expanded(change):
        return np.sign(change) * np.expm1(np.abs(change))

    states, squares = np.asarray(states, np.float64), []
    node_modules = np.zeros(len(states), int)
    for now, then in itertools.pairwise(np.swapaxes(states, 0, 1)):
        mean, log_scale = reference.prediction(now, edges, node_modules, receiver)
        target = reference.target(now[receiver], then[receiver])
        error = (expanded(mean) - expanded(target)) / np.exp(np.abs(target))
        squares.append((error / np.exp(log_scale)) ** 2)
    return np.mean(squares)


def test_receivers_that_stand_out_are_searched_again():
    """One of every batch, the worst explained; it ends at the best of its edges."""
    given, mask = setting("uniform"), setting("uniform").edge_mask()
    best, nodes, _ = receiver_optima(given)
    drawn = np.where(mask, np.random.default_rng(0).integers(0, 3, mask.shape), 0)
    start = TaskStructures(drawn.astype(np.int32), np.zeros(nodes.shape, np.int32))
    config = InferenceConfig(num_steps=0, more_steps=150, num_samples=0)
    found = given.infer(config, start)
    in_chunks = with_memory(given, receiver_chunk=2).infer(config, start)
    np.testing.assert_array_equal(found.edges, in_chunks.edges)
    misfits = np.zeros(nodes.shape)
    for task, states in enumerate(given.tasks.states):
        for node in range(len(states)):
            edges = drawn[task, : len(states), : len(states)]
            misfits[task, node] = mean_square(given.reference, states, edges, node)
    # Who has no edges has nothing to find.
    misfits = np.where(mask.any(axis=2), misfits, -1.0)
    for tasks in ([0, 1], [2, 3], [4]):
        task, node = np.unravel_index(misfits[tasks].argmax(), misfits[tasks].shape)
        drawn[tasks[task], node] = best[tasks[task], node]
    np.testing.assert_array_equal(found.edges, np.where(mask, drawn, -1))


def test_one_program_serves_more_systems_and_uniform_moves():
    given, expected = setting("learned"), found("learned")
    num_programs = search_batches._cache_size()
    rows = [*range(len(SIZES)), 3, 1]
    more = infer(
        jax.random.key(1),
        given.model,
        given.params,
        given.states[rows],
        all_batches(np.array(SIZES)[rows], 2),
        None,
        dataclasses.replace(CONFIG, learned=False),
    )
    assert search_batches._cache_size() == num_programs
    np.testing.assert_allclose(more.energies, expected.energies[rows], rtol=1e-4)
    same = np.array_equal(more.edges[: len(SIZES)], expected.edges)
    assert same and np.array_equal(more.edges[-2:], expected.edges[[3, 1]])


@pytest.mark.parametrize("name", ["uniform", "learned"])
def test_probabilities_and_logits_live_on_edges(name):
    result, mask = found(name), setting(name).edge_mask()
    totals = np.sum(result.probabilities, axis=-1)
    np.testing.assert_allclose(totals[mask], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(result.probabilities)[~mask], 0.0)
    logits = np.asarray(result.proposal_logits)
    np.testing.assert_array_equal(logits[~mask], 0.0)
    assert logits[mask].any() == (name == "learned")


def test_trace_of_best_energies():
    trace = np.asarray(found("uniform").best_energies)
    assert trace.shape == (len(SIZES), CONFIG.num_steps)
    assert (np.diff(trace, axis=1) <= 1e-4 * np.abs(trace[:, 1:])).all()
    # The result is the best of all chains, the trace that of the first.
    assert (trace[:, -1] >= np.asarray(found("uniform").energies) - 1e-3).all()
    assert (trace[[0, 2, 3, 4], 0] > trace[[0, 2, 3, 4], -1]).any()


def test_proposals_are_counted_by_system():
    """One per receiver, step and chain; least squares all of its candidates."""
    chains, sizes = CONFIG.num_chains, np.array(SIZES)
    expected = sizes * CONFIG.num_steps * chains
    np.testing.assert_array_equal(found("uniform").num_proposals, expected)
    result = found_by_least_squares()
    # Two node modules with all rows of edges of the largest system.
    np.testing.assert_array_equal(result.num_proposals, sizes * 4 * chains * 2 * 2**3)
    assert result.best_energies.shape == (len(SIZES), 4)


def test_warm_start_at_the_optimum_stays_there(monkeypatch):
    """All batches are traced at once: it takes seconds, as long as to compile them."""
    given, result, calls = setting("uniform"), found("uniform"), []
    edge_logits = RelationalNetwork.edge_logits

    def counted(*arguments, **options):
        calls.append(arguments)
        return edge_logits(*arguments, **options)

    monkeypatch.setattr(RelationalNetwork, "edge_logits", counted)
    config = dataclasses.replace(CONFIG, num_steps=10, num_samples=0)
    again = given.infer(config, start=result.structures, seed=1)
    assert len(calls) == 1
    jax.tree.map(np.testing.assert_array_equal, again.structures, result.structures)
    np.testing.assert_array_equal(again.energies, result.energies)
    np.testing.assert_array_equal(again.probabilities, 0.0)


def test_probabilities_are_boltzmann_marginals():
    """A flat model: several structures are likely at once.

    The standard error of 8,000 correlated samples stays below 0.02.
    """
    given = Setting(small_model(num_relations=3), scale=0.5)
    temperature = 1.5
    warm = dataclasses.replace(MANY_SAMPLES, sample_temperature=temperature)
    found = np.asarray(given.infer(warm).probabilities)
    widest = 1.0
    for task, states in enumerate(given.tasks.states):
        for receiver in range(len(states)):
            listed = given.reference.receiver_energies(states, receiver)
            energies = np.array(list(listed.values()))
            weights = scipy.special.softmax(-energies / temperature)
            others = [s for s in range(len(states)) if s != receiver]
            for slot, sender in enumerate(others):
                modules = np.array([assignment[slot] for assignment in listed])
                expected = [weights[modules == module].sum() for module in range(3)]
                widest = min(widest, max(expected))
                np.testing.assert_allclose(
                    found[task, receiver, sender], expected, atol=0.08
                )
    assert widest < 0.5  # some edge is undecided


def all_structures(size, relations=2):
    """All matrices `[receivers, senders]` of a system, zero on the diagonal."""
    receivers, senders = np.nonzero(~np.eye(size, dtype=bool))
    for modules in itertools.product(range(relations), repeat=len(receivers)):
        edges = np.zeros((size, size), int)
        edges[receivers, senders] = modules
        yield edges


def test_rollouts_equal_brute_force():
    """Receivers are coupled by what they do to each other later."""
    sizes = (3, 2, 1)
    options = search_options(form="rollout", horizon=3)
    given = Setting(small_model(search=options), sizes)
    config = InferenceConfig(num_steps=300, num_chains=4, num_samples=0)
    result = given.infer(config)
    for task, states in enumerate(given.tasks.states):
        size, structures = len(states), list(all_structures(len(states)))
        energies = [
            given.reference.energies(states, edges, np.zeros(size, int), horizon=3)
            for edges in structures
        ]
        energies = np.sum(energies, axis=1)
        np.testing.assert_array_equal(
            result.structures.edge_modules[task, :size, :size],
            structures[np.argmin(energies)],
        )
        np.testing.assert_allclose(result.energies[task], min(energies), rtol=1e-3)


def test_chunks_of_receivers_find_what_all_at_once_find():
    """Batches hold up to 7 nodes, which chunks of 3 do not divide.

    Nor do they keep messages. The same steps from the first on, so that they do not
    agree by having converged.
    """
    given = with_memory(setting("learned"), receiver_chunk=3, messages="recompute")
    one, other = given.infer(), found("learned")
    for field in ("structures", "probabilities"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(one, field), getattr(other, field)
        )
    for field in ("energies", "proposal_logits", "best_energies"):
        np.testing.assert_allclose(
            getattr(one, field), getattr(other, field), rtol=1e-4, atol=1e-3
        )
    trace = np.asarray(other.best_energies)
    assert (trace[:, 0] > trace[:, -1]).sum() >= 3


def some_edges(sizes, seed=0):
    """A random part of the edges of every system, of unequal numbers per receiver."""
    rng = np.random.default_rng(seed)
    edges = []
    for size in sizes:
        senders, receivers = supergraphs.fully_connected(size)
        chosen = rng.random(len(senders)) < 0.6
        edges.append((senders[chosen], receivers[chosen]))
    return edges


def test_lists_of_all_edges_find_what_the_default_finds():
    edges = [supergraphs.fully_connected(size) for size in SIZES]
    listed = Setting(setting("learned").model, edges=edges)
    jax.tree.map(np.testing.assert_array_equal, listed.infer(), found("learned"))


@pytest.mark.parametrize(
    "options, num_samples",
    [
        ({}, 20),
        ({"prior": "symmetric", "prior_weight": 1e4, "messages": "recompute"}, 0),
    ],
)
def test_sparse_candidates_equal_enumeration(options, num_samples):
    """Module 0 sends nothing, so the reference leaves the other edges out by it."""
    edges = [supergraphs.fully_connected(SIZES[0]), *some_edges(SIZES)[1:]]
    model = small_model(null_relation=True, search=search_options(**options))
    given = Setting(model, edges=edges)
    config = dataclasses.replace(CONFIG, num_steps=400, num_samples=num_samples)
    result = given.infer(config)
    totals = np.sum(result.probabilities, axis=-1)
    for task, (states, size) in enumerate(zip(given.tasks.states, SIZES, strict=True)):
        senders, receivers = edges[task]
        is_candidate = np.zeros((max(SIZES), max(SIZES)), bool)
        is_candidate[receivers, senders] = True
        share = is_candidate if num_samples else np.zeros_like(is_candidate)
        np.testing.assert_allclose(totals[task], share, atol=1e-5)
        found = np.asarray(result.structures.edge_modules)[task]
        assert not found[~is_candidate].any()
        both = is_candidate[:size, :size] & is_candidate[:size, :size].T
        best = np.inf
        for modules in itertools.product(range(2), repeat=len(senders)):
            matrix = np.zeros((size, size), int)
            matrix[receivers, senders] = modules
            local = given.reference.energies(states, matrix, np.zeros(size, int))
            differs = both & (matrix != matrix.T)
            total = local.sum() + options.get("prior_weight", 0.0) * np.sum(
                np.triu(differs)
            )
            if total < best:
                best, expected = total, matrix
        np.testing.assert_array_equal(found[:size, :size], expected)
        np.testing.assert_allclose(result.energies[task], best, rtol=1e-3)
        if "prior" in options:
            np.testing.assert_array_equal(expected[both], expected.T[both])


def test_energies_of_any_start_equal_reevaluation_under_any_names():
    """Without a proposal, the energy is that of the start on its candidate edges.

    It stays when nodes, edges and structure are renamed.
    """
    sizes = (4, 3)
    edges, rng = some_edges(sizes), np.random.default_rng(5)
    # Module 0 sends nothing, so the reference leaves the other edges out by it.
    model = small_model(encoder="mlp", num_relations=3, null_relation=True)
    config = InferenceConfig(num_steps=0, num_chains=1, num_samples=0)
    given = Setting(model, sizes, edges=edges)
    start = rng.integers(0, 3, (2, 4, 4))
    orders = [rng.permutation(size) for size in sizes]
    renamed_edges, states, renamed = [], given.states.copy(), start.copy()
    for task, order in enumerate(orders):
        size, position = len(order), np.argsort(order)
        renamed_edges.append(tuple(position[ends] for ends in edges[task]))
        states[task, :size] = given.states[task, order]
        renamed[task, :size, :size] = start[task][np.ix_(order, order)]
    other = Setting(model, sizes, edges=renamed_edges)
    other.states = states
    results = []
    for one, modules in ((given, start), (other, renamed)):
        nodes = jnp.zeros((2, 4), jnp.int32)
        results.append(one.infer(config, TaskStructures(jnp.int32(modules), nodes)))
    np.testing.assert_allclose(results[1].energies, results[0].energies, rtol=1e-4)
    for task, order in enumerate(orders):
        size, rows = len(order), np.ix_(order, order)
        np.testing.assert_allclose(
            results[1].proposal_logits[task, :size, :size],
            np.asarray(results[0].proposal_logits)[task][rows],
            rtol=1e-3,
            atol=1e-4,
        )
        senders, receivers = edges[task]
        kept = np.zeros((4, 4), int)
        kept[receivers, senders] = start[task, receivers, senders]
        np.testing.assert_array_equal(results[0].structures.edge_modules[task], kept)
        expected = given.reference.energies(
            given.tasks.states[task], kept, np.zeros(size, int)
        )
        np.testing.assert_allclose(results[0].energies[task], sum(expected), rtol=1e-4)
    assert np.ptp(np.asarray(results[0].proposal_logits)) > 0.1


def test_receivers_that_a_prior_couples_cannot_be_chosen():
    model = small_model(search=search_options(prior="symmetric"))
    with pytest.raises(ValueError, match="receivers: found a selection, expected None"):
        build_problems(model, None, None, None, None, receivers=jnp.arange(2))
    with pytest.raises(ValueError, match="receiver_chunk: found -1"):
        MemoryConfig(receiver_chunk=-1)
    for search, algorithm, message in [
        (
            {"form": "rollout"},
            "integer_least_squares",
            "energy.residuals: found None, expected",
        ),
        ({"form": "rollout"}, "straight_through", "energy.relaxed: found None"),
        ({"prior": "symmetric"}, "enumeration", "found one that couples receivers"),
    ]:
        model = small_model(search=search_options(**search))
        with pytest.raises(ValueError, match=message):
            build_algorithm(model, algorithm)
    with pytest.raises(ValueError, match="search: found 'anneal', expected one of"):
        InferenceConfig(algorithm="anneal")
    with pytest.raises(ValueError, match="messages: found 'keep', expected one of"):
        MemoryConfig(messages="keep")
