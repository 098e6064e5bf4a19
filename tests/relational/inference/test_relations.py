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
from modmeta.relational.inference.infer import grouped, infer, search_batches
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.structures import TaskStructures, random_structure
from tests.fixtures import Batch, search_options, small_model, small_params
from tests.reference import Reference

SIZES = (3, 1, 4, 2, 3)
CONFIG = InferenceConfig(num_steps=150, num_chains=4, num_samples=20)


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
def found(name, algorithm=CONFIG.algorithm, num_steps=CONFIG.num_steps):
    return setting(name).infer(
        dataclasses.replace(
            CONFIG,
            algorithm=algorithm,
            num_steps=num_steps,
        )
    )


@pytest.mark.parametrize("search", [(), ("integer_least_squares", 4)])
@pytest.mark.parametrize("name", ["uniform", "learned"])
def test_structures_equal_enumeration(name, search):
    edges, nodes, energies = receiver_optima(setting(name))
    result = found(name, *search)
    np.testing.assert_array_equal(result.structures.edge_modules, edges)
    np.testing.assert_array_equal(result.structures.node_modules, nodes)
    np.testing.assert_allclose(result.energies, energies, rtol=1e-4)


@pytest.mark.parametrize("name", ["uniform", "learned"])
def test_probabilities_and_logits_live_on_edges(name):
    result, mask = found(name), setting(name).edge_mask()
    totals = np.sum(result.probabilities, axis=-1)
    np.testing.assert_allclose(totals[mask], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(result.probabilities)[~mask], 0.0)
    logits = np.asarray(result.proposal_logits)
    np.testing.assert_array_equal(logits[~mask], 0.0)
    assert logits[mask].any() == (name == "learned")


def test_batches_are_traced_once(monkeypatch):
    """Tracing a search takes seconds, as long as compiling it from the cache."""
    given, calls, edge_logits = setting("uniform"), [], RelationalNetwork.edge_logits

    def counted(*arguments, **options):
        calls.append(arguments)
        return edge_logits(*arguments, **options)

    monkeypatch.setattr(RelationalNetwork, "edge_logits", counted)
    config = dataclasses.replace(CONFIG, num_steps=3)
    key = jax.random.key(0)
    first = next(grouped(key, given.states, given.batches, None, None))
    search_batches.trace(given.model, given.params, first, np.bool_(True), config)
    assert len(calls) == 1


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
    result = found("uniform", "integer_least_squares", 4)
    # Batches of two: three modules on the slots of the largest system.
    np.testing.assert_array_equal(result.num_proposals, sizes * 4 * chains * 16)
    assert result.best_energies.shape == (len(SIZES), 4)


def test_warm_start_at_the_optimum_stays_there():
    given, result = setting("uniform"), found("uniform")
    config = dataclasses.replace(CONFIG, num_steps=10, num_samples=0)
    again = given.infer(config, start=result.structures, seed=1)
    jax.tree.map(np.testing.assert_array_equal, again.structures, result.structures)
    np.testing.assert_array_equal(again.energies, result.energies)
    np.testing.assert_array_equal(again.probabilities, 0.0)


def test_energies_equal_reevaluation_of_any_start():
    """Without a proposal, the energy is that of the start."""
    given = setting("uniform")
    rng = np.random.default_rng(3)
    edges = rng.integers(0, 3, given.edge_mask().shape)
    start = TaskStructures(jnp.int32(edges), jnp.zeros(edges.shape[:2], jnp.int32))
    config = InferenceConfig(num_steps=0, num_chains=1, num_samples=0)
    result = given.infer(config, start=start)
    expected = [
        given.reference.energies(states, edges[task], np.zeros(len(states), int)).sum()
        for task, states in enumerate(given.tasks.states)
    ]
    np.testing.assert_allclose(result.energies, expected, rtol=1e-4)
    mask = given.edge_mask()
    np.testing.assert_array_equal(
        result.structures.edge_modules, np.where(mask, edges, 0)
    )


def test_probabilities_are_boltzmann_marginals():
    """One observed step of a flat model: several structures are likely at once.

    The standard error of 8,000 correlated samples stays below 0.02.
    """
    given = Setting(small_model(), frames=2, scale=0.4)
    config = InferenceConfig(num_steps=20, num_chains=8, num_samples=1000)
    found = np.asarray(given.infer(config).probabilities)
    widest = 1.0
    for task, states in enumerate(given.tasks.states):
        for receiver in range(len(states)):
            listed = given.reference.receiver_energies(states, receiver)
            weights = scipy.special.softmax(-np.array(list(listed.values())))
            others = [s for s in range(len(states)) if s != receiver]
            for slot, sender in enumerate(others):
                modules = np.array([assignment[slot] for assignment in listed])
                expected = weights[modules == 1].sum()
                widest = min(widest, max(expected, 1 - expected))
                np.testing.assert_allclose(
                    found[task, receiver, sender, 1], expected, atol=0.08
                )
    assert widest < 0.7  # some edge is undecided


def all_structures(size, relations=2):
    """All matrices `[receivers, senders]` of a system, zero on the diagonal."""
    receivers, senders = np.nonzero(~np.eye(size, dtype=bool))
    for modules in itertools.product(range(relations), repeat=len(receivers)):
        edges = np.zeros((size, size), int)
        edges[receivers, senders] = modules
        yield edges


@pytest.mark.parametrize(
    "options, horizon, weight",
    [
        ({"prior": "symmetric", "prior_weight": 1e4}, 1, 1e4),
        ({"form": "rollout", "horizon": 3}, 3, 0.0),
    ],
)
def test_coupled_receivers_equal_brute_force(options, horizon, weight):
    sizes = (3, 2, 1)
    given = Setting(small_model(search=search_options(**options)), sizes)
    config = InferenceConfig(num_steps=300, num_chains=4, num_samples=0)
    result = given.infer(config)
    for task, states in enumerate(given.tasks.states):
        energies, structures = [], list(all_structures(len(states)))
        for edges in structures:
            local = given.reference.energies(
                states, edges, np.zeros(len(states), int), horizon=horizon
            )
            energies.append(local.sum() + weight * np.sum(np.triu(edges != edges.T)))
        best = structures[np.argmin(energies)]
        size = len(states)
        np.testing.assert_array_equal(
            result.structures.edge_modules[task, :size, :size], best
        )
        np.testing.assert_allclose(result.energies[task], min(energies), rtol=1e-3)
        if weight == 1e4:
            np.testing.assert_array_equal(best, best.T)


def assert_same_inference(found, expected):
    """Equal structures; floats up to the order of their sums."""
    for field in ("structures", "probabilities"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(found, field),
            getattr(expected, field),
        )
    for field in ("energies", "proposal_logits", "best_energies"):
        np.testing.assert_allclose(
            getattr(found, field), getattr(expected, field), rtol=1e-4, atol=1e-3
        )


# A handful of proposals: the searches would not agree by having converged.
SHORT = InferenceConfig(num_steps=5, num_chains=2, num_samples=7)


@functools.cache
def found_at_once():
    return setting("learned").infer(SHORT)


@pytest.mark.parametrize(
    "memory",
    [
        MemoryConfig(receiver_chunk=3),
        MemoryConfig(receiver_chunk=50, messages="recompute"),
    ],
)
def test_chunks_of_receivers_find_what_all_at_once_find(memory):
    """Batches hold up to 7 nodes: a chunk that does not divide them, one too large."""
    given = copy.copy(setting("learned"))
    given.model = dataclasses.replace(given.model, memory=memory)
    assert_same_inference(given.infer(SHORT), found_at_once())


def coupled_pair(**options):
    """A model that keeps messages and the same one that does not."""
    options = {"prior": "symmetric", "prior_weight": 2.0, **options}
    return [
        small_model(
            num_relations=3,
            num_node_modules=2,
            search=search_options(messages=messages, **options),
        )
        for messages in ("cache", "recompute")
    ]


@functools.partial(jax.jit, static_argnames=("model", "num_steps"))
def long_walk(key, model, params, graph, states, num_steps):
    """Accepts nearly every one of many random moves, several chains at once."""
    logits = jnp.zeros((*graph.slot_mask.shape, model.num_relations))
    problems = build_problems(model, params, graph, states, logits)
    temperatures = jnp.full((problems.mask.shape[0], num_steps), 1e6)

    def chain(key):
        state = problems.init(
            random_structure(key, graph.slot_mask, model.num_relations)
        )
        state, _ = problems.run(key, state, build_algorithm(model), temperatures)
        return state, problems.init(problems.join(state.structure))

    return jax.vmap(chain)(jax.random.split(key, 3))


def test_recomputed_messages_give_the_energies_of_cached_ones():
    kept, recomputed = coupled_pair()
    batch = Batch((3, 1, 4))
    params = small_params(kept, batch.supergraph, 4)
    states = batch.flat_states(np.nan)
    (walked, again), (cached, _) = (
        long_walk(jax.random.key(0), model, params, batch.supergraph, states, 200)
        for model in (recomputed, kept)
    )
    # The same moves, hence the same structure after 200 of them.
    jax.tree.map(np.testing.assert_array_equal, walked.structure, cached.structure)
    np.testing.assert_allclose(walked.energy, cached.energy, rtol=1e-4)
    np.testing.assert_allclose(
        walked.local_energies, cached.local_energies, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(walked.energy, again.energy, rtol=1e-4)
    assert len(np.unique(np.asarray(walked.energy)[:, 2])) == 3


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
    given = setting("uniform")
    edges = [supergraphs.fully_connected(size) for size in SIZES]
    listed = Setting(given.model, edges=edges)
    expected = found("uniform")
    jax.tree.map(np.testing.assert_array_equal, listed.infer(), expected)


@pytest.mark.parametrize("prior", ["none", "symmetric"])
def test_sparse_candidates_equal_enumeration(prior):
    """Module 0 sends nothing, so the reference leaves the other edges out by it."""
    edges = some_edges(SIZES)
    model = small_model(null_relation=True, search=search_options(prior=prior))
    given = Setting(model, edges=edges)
    result = given.infer(dataclasses.replace(CONFIG, num_steps=400))
    totals = np.sum(result.probabilities, axis=-1)
    for task, (states, size) in enumerate(zip(given.tasks.states, SIZES, strict=True)):
        senders, receivers = edges[task]
        is_candidate = np.zeros((max(SIZES), max(SIZES)), bool)
        is_candidate[receivers, senders] = True
        np.testing.assert_allclose(totals[task], is_candidate, atol=1e-5)
        found = np.asarray(result.structures.edge_modules)[task]
        assert not found[~is_candidate].any()
        best = np.inf
        for modules in itertools.product(range(2), repeat=len(senders)):
            matrix = np.zeros((size, size), int)
            matrix[receivers, senders] = modules
            local = given.reference.energies(states, matrix, np.zeros(size, int))
            both = is_candidate[:size, :size] & is_candidate[:size, :size].T
            differs = both & (matrix != matrix.T)
            weight = model.energy.prior_weight if prior == "symmetric" else 0.0
            total = local.sum() + weight * np.sum(np.triu(differs))
            if total < best:
                best, expected = total, matrix
        np.testing.assert_array_equal(found[:size, :size], expected)
        np.testing.assert_allclose(result.energies[task], best, rtol=1e-3)


def test_names_of_nodes_do_not_matter_with_sparse_candidates():
    """The energy of a structure stays when nodes, edges and structure are renamed."""
    sizes = (4, 3)
    edges, rng = some_edges(sizes), np.random.default_rng(5)
    model = small_model(encoder="mlp")
    config = InferenceConfig(num_steps=0, num_chains=1, num_samples=0)
    given = Setting(model, sizes, edges=edges)
    start = rng.integers(0, 2, (2, 4, 4))
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
        rows = np.ix_(order, order)
        np.testing.assert_allclose(
            results[1].proposal_logits[task, : len(order), : len(order)],
            np.asarray(results[0].proposal_logits)[task][rows],
            rtol=1e-3,
            atol=1e-4,
        )
    assert np.ptp(np.asarray(results[0].proposal_logits)) > 0.1


def test_receivers_that_a_prior_couples_cannot_be_chosen():
    model = coupled_pair()[0]
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
