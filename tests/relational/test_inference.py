"""Inferred structures against a list of all structures, by `tests.reference`.

Energies of the small random models differ by many nats, so that the optimum is unique
and a short annealing run finds it with near certainty; keys are fixed.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from modmeta import graphs
from modmeta.relational import batching, inference
from modmeta.relational.bouncegrad import TaskStructures
from modmeta.relational.inference import InferenceConfig
from modmeta.relational.model import SearchConfig
from tests.fixtures import Batch, small_model, small_params
from tests.reference import Reference

SIZES = (3, 1, 4, 2, 3)
pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = InferenceConfig(num_steps=150, num_chains=4, num_samples=20)


class Setting:
    """Tasks of several sizes, in batches of two, and a random model."""

    def __init__(self, model, sizes=SIZES, *, frames=4, scale=1.0):
        self.model, self.sizes = model, sizes
        self.tasks = Batch(sizes, frames=frames)
        params = small_params(model, self.tasks.supergraph, frames)
        self.params = params._replace(
            modules=jax.tree.map(lambda leaf: scale * leaf, params.modules)
        )
        self.reference = Reference(model, self.params)
        self.batches = batching.all_batches(sizes, 2)
        # Padded nodes must never be read.
        self.states = np.full(
            (len(sizes), max(sizes), *self.tasks.states[0].shape[1:]),
            np.nan,
            np.float32,
        )
        for task, states in enumerate(self.tasks.states):
            self.states[task, : len(states)] = states

    def infer(self, config=CONFIG, start=None, seed=0):
        return inference.infer(
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
    if name == "learned":
        return Setting(small_model(encoder="mlp+denoiser"))
    return Setting(small_model(num_node_modules=2), sizes=(3, 2, 3))


@functools.cache
def found(name):
    samples = 0 if name == "node modules" else CONFIG.num_samples
    return setting(name).infer(dataclasses.replace(CONFIG, num_samples=samples))


@pytest.mark.parametrize("name", ["uniform", "learned", "node modules"])
def test_structures_equal_enumeration(name):
    edges, nodes, energies = receiver_optima(setting(name))
    result = found(name)
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


def test_trace_of_best_energies():
    trace = np.asarray(found("uniform").best_energies)
    assert trace.shape == (len(SIZES), CONFIG.num_steps)
    assert (np.diff(trace, axis=1) <= 1e-4 * np.abs(trace[:, 1:])).all()
    # The result is the best of all chains, the trace that of the first.
    assert (trace[:, -1] >= np.asarray(found("uniform").energies) - 1e-3).all()
    assert (trace[[0, 2, 3, 4], 0] > trace[[0, 2, 3, 4], -1]).any()


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
        ({"prior": "symmetric", "prior_weight": 5.0}, 1, 5.0),
        ({"energy": "rollout", "horizon": 3}, 3, 0.0),
    ],
)
def test_coupled_receivers_equal_brute_force(options, horizon, weight):
    sizes = (3, 2, 1)
    given = Setting(small_model(search=SearchConfig(**options)), sizes)
    samples = 10 if weight == 5.0 else 0
    config = InferenceConfig(num_steps=300, num_chains=4, num_samples=samples)
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
    if samples:
        totals = np.sum(result.probabilities, axis=-1)
        np.testing.assert_allclose(totals, given.edge_mask(), atol=1e-5)


def test_num_proposals():
    config = InferenceConfig(num_steps=7, num_chains=3)
    assert inference.num_proposals(small_model(), config, 5) == 5 * 7 * 3
    coupled = small_model(search=SearchConfig(prior="symmetric"))
    assert inference.num_proposals(coupled, config, 5) == 7 * 3


@pytest.mark.parametrize("num_tasks, batch_size", [(12, 4), (10, 4), (3, 8)])
def test_task_sampler_epochs(num_tasks, batch_size):
    sizes = np.random.default_rng(0).integers(1, 6, num_tasks)
    sampler = batching.TaskSampler(sizes, batch_size, seed=1)
    width = min(batch_size, num_tasks)
    per_epoch = num_tasks // width
    orders = []
    for epoch in range(4):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = np.concatenate([sampler.tasks(step) for step in steps])
        assert len(np.unique(rows)) == len(rows) == per_epoch * width
        if num_tasks % width == 0:
            assert sorted(rows) == list(range(num_tasks))
        orders.append(tuple(rows))
    assert len(set(orders)) > 1


def test_task_sampler_is_a_function_of_seed_and_step():
    sizes = [3, 5, 2, 4, 1, 3, 2]
    first = batching.TaskSampler(sizes, 3, seed=1)
    order = [first.tasks(step).tolist() for step in range(6)]
    second = batching.TaskSampler(sizes, 3, seed=1)
    assert [second.tasks(s).tolist() for s in (5, 0, 3)] == [
        order[i] for i in (5, 0, 3)
    ]
    other = batching.TaskSampler(sizes, 3, seed=2)
    assert [other.tasks(step).tolist() for step in range(6)] != order

    batches = first.batches(2, 3)
    assert batches.tasks.tolist() == order[2:5]
    for index in range(3):
        expected = graphs.build_supergraph(
            [sizes[task] for task in order[2 + index]], first.budget
        )
        jax.tree.map(
            lambda stacked, one, at=index: np.testing.assert_array_equal(
                stacked[at], one
            ),
            batches.supergraph,
            expected,
        )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_all_batches_hold_every_task_once(batch_size):
    batches = batching.all_batches(SIZES, batch_size)
    seen = []
    for tasks, mask in zip(batches.tasks, batches.supergraph.system_mask, strict=True):
        for task, num_nodes in zip(tasks, mask.sum(axis=1), strict=True):
            if num_nodes:
                assert num_nodes == SIZES[task]
                seen.append(int(task))
    assert seen == list(range(len(SIZES)))
