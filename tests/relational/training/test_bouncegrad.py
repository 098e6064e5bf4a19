"""One step of BounceGrad against loops, `jax.grad` of plain energies, and brute force.

The gradient is read from Adam's first moment after one step, which is a tenth of it,
so that what is checked is what the modules are really moved by.
"""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from modmeta import search
from modmeta.relational.energies import composed
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.observations import observe
from modmeta.relational.tasks import batches
from modmeta.relational.tasks.batches import TaskSampler, stack_batches
from modmeta.relational.tasks.states import gather_states
from modmeta.relational.tasks.structures import (
    TaskStructures,
    gather_structure,
    scatter_structure,
)
from modmeta.relational.training import bouncegrad
from modmeta.relational.training.bouncegrad import BounceGradConfig
from modmeta.relational.training.losses import split_frames
from tests.fixtures import SPEC, Batch, search_options, small_model, small_params

SIZES = (3, 1, 4, 2, 3, 2)
CONFIG = BounceGradConfig(
    num_steps=12,
    batch_size=3,
    search_steps=3,
    gradient_frames=0,
    held_out=False,
    mean_power=0.0,
    clip_norm=1e9,
)


class Setting:
    """A small run over tasks of several sizes; padded nodes hold NaN."""

    def __init__(self, config=CONFIG, sizes=SIZES, *, frames=6, **options):
        self.config, self.sizes = config, sizes
        self.model = small_model(**{"encoder": "mlp+denoiser", **options})
        self.tasks = Batch(sizes, frames=frames)
        self.sampler = TaskSampler(sizes, config.batch_size, seed=0)
        graph = jax.tree.map(lambda leaf: leaf[0], self.sampler.batches(0, 1))
        self.params = small_params(self.model, graph.supergraph, frames)
        self.states = np.full(
            (len(sizes), max(sizes), frames, len(SPEC.names)), np.nan, np.float32
        )
        for task, states in enumerate(self.tasks.states):
            self.states[task, : len(states)] = states
        self.algorithm = bouncegrad.bouncegrad(self.model, config)
        self.num_traces = 0

        @jax.jit
        def step(*args):
            self.num_traces += 1
            return self.algorithm.step(*args)

        self.step = step

    def init(self):
        return self.algorithm.init(
            jax.random.key(3), self.params, len(self.sizes), max(self.sizes)
        )

    def batch(self, step):
        return jax.tree.map(lambda leaf: leaf[0], self.sampler.batches(step, 1))

    def run(self, num_steps):
        """States before and after every step, and the metrics."""
        states, metrics = [self.init()], []
        for step in range(num_steps):
            state, record = self.step(states[-1], self.states, self.batch(step))
            states.append(state)
            metrics.append(jax.device_get(record))
        return states, metrics

    def energies(self, modules, batch, structure, *weighting):
        """Energies `[N]` of a batch under any structure, all frames, no cache."""
        graph = batch.supergraph
        states = gather_states(self.states, batch.tasks, graph)
        bound = BoundBank(self.model.bank, modules, self.params.preprocessing)
        observed = observe(bound, graph, states)
        return composed.structure_energies(
            bound, graph, structure, observed, *weighting
        )

    def assert_first_gradient(self, loss, state):
        """Compares the gradient of `modules -> loss` with what Adam was given."""
        gradient = jax.jit(jax.grad(loss))(self.params.modules)
        expected = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
        moment = optax.tree_utils.tree_get(state.optimizer, "mu")
        scale = np.abs(expected).max()
        assert scale > 1e-3
        np.testing.assert_allclose(
            10.0 * moment, expected, rtol=2e-3, atol=1e-4 * scale
        )


@functools.cache
def default_run():
    """Two epochs over tasks of mixed sizes."""
    given = Setting()
    return given, *given.run(4)


def random_structures(num_tasks, size, seed=0):
    rng = np.random.default_rng(seed)
    return TaskStructures(
        rng.integers(0, 2, (num_tasks, size, size)).astype(np.int32),
        rng.integers(0, 2, (num_tasks, size)).astype(np.int32),
    )


def edge_mask(sizes, tasks):
    """True at the edges of some tasks, `[tasks, nodes, nodes]`."""
    mask = np.zeros((len(sizes), max(sizes), max(sizes)), bool)
    for task in tasks:
        mask[task, : sizes[task], : sizes[task]] = ~np.eye(sizes[task], dtype=bool)
    return mask


@pytest.mark.parametrize("tasks", [(4, 0, 2), (1, 3, 5), (2,)])
def test_gather_and_scatter(tasks):
    sizes = np.array(SIZES)
    batch = stack_batches(
        [np.array(tasks)], sizes, batches.supergraphs.padding_budget(sizes, 3)
    )
    batch = jax.tree.map(lambda leaf: leaf[0], batch)
    graph, before = batch.supergraph, random_structures(len(SIZES), 4)
    device = jax.tree.map(jnp.asarray, before)
    structure = gather_structure(device, batch.tasks, graph)

    node = 0
    for task in tasks:
        for receiver in range(SIZES[task]):
            others = [s for s in range(SIZES[task]) if s != receiver]
            found = structure.edge_modules[node, : len(others)]
            np.testing.assert_array_equal(
                found, before.edge_modules[task, receiver, others]
            )
            assert structure.node_modules[node] == before.node_modules[task, receiver]
            node += 1
    assert node == graph.node_mask.sum()
    np.testing.assert_array_equal(structure.edge_modules[~graph.slot_mask], 0)

    back = scatter_structure(device, batch.tasks, graph, structure)
    jax.tree.map(np.testing.assert_array_equal, back, before)

    # Another structure: it arrives, and nothing else changes.
    new = search.Structure(1 - structure.edge_modules, 1 - structure.node_modules)
    after = scatter_structure(device, batch.tasks, graph, new)
    is_edge = edge_mask(SIZES, tasks)
    np.testing.assert_array_equal(
        after.edge_modules,
        np.where(is_edge, 1 - before.edge_modules, before.edge_modules),
    )
    is_node = is_edge.any(axis=-1)
    is_node[[task for task in tasks if SIZES[task] == 1], 0] = True
    np.testing.assert_array_equal(
        after.node_modules,
        np.where(is_node, 1 - before.node_modules, before.node_modules),
    )


def test_steps_of_mixed_sizes_compile_once_and_touch_their_tasks_alone():
    given, states, metrics = default_run()
    assert given.num_traces == 1
    sizes = {tuple(given.sizes[t] for t in given.sampler.tasks(s)) for s in range(4)}
    assert len(sizes) > 1
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        changed = np.not_equal(
            before.structures.edge_modules, after.structures.edge_modules
        )
        assert not changed[~edge_mask(SIZES, given.sampler.tasks(step))].any()
        assert int(after.step) == step + 1
    first, last = states[0].structures, states[-1].structures
    assert not np.array_equal(first.edge_modules, last.edge_modules)
    for record in metrics:
        assert all(np.isfinite(value) for value in record.values())
        assert 0.0 <= record["acceptance"] <= 1.0
    # NaN in padded nodes has not come through; everything has moved.
    chex.assert_tree_all_finite(states[-1].params)
    for name in ("modules", "proposal"):
        first, last = getattr(states[0].params, name), getattr(states[-1].params, name)
        for one, other in zip(
            jax.tree.leaves(first), jax.tree.leaves(last), strict=True
        ):
            assert not np.array_equal(one, other)
    jax.tree.map(
        np.testing.assert_array_equal,
        states[0].params.preprocessing,
        states[-1].params.preprocessing,
    )


def test_structures_that_were_found_are_held_at_first():
    """For three of twelve steps; those that were drawn are not held."""
    given, states, _ = default_run()
    num_tasks, size = len(given.sizes), max(given.sizes)
    start = states[0].structures
    state = given.algorithm.init(
        jax.random.key(3), given.params, num_tasks, size, start
    )
    assert int(state.num_held) == 3 and int(states[0].num_held) == 0
    args = (given.states, given.batch(0))
    for held, is_kept in ((state, True), (state._replace(num_held=0), False)):
        held = held._replace(num_held=jnp.int32(held.num_held))
        found, metrics = given.step(held, *args)
        same = np.array_equal(found.structures.edge_modules, start.edge_modules)
        assert same == is_kept
        assert metrics["gradient_norm"] > 0.0
    assert given.num_traces == 1


def test_chosen_gradient():
    given, states, metrics = default_run()
    batch = given.batch(0)
    structure = gather_structure(states[1].structures, batch.tasks, batch.supergraph)
    scored = sum(given.sizes[task] for task in batch.tasks) * 5

    def loss(modules):
        return jnp.sum(given.energies(modules, batch, structure)) / scored

    expected = jax.jit(loss)(given.params.modules)
    np.testing.assert_allclose(metrics[0]["loss"], expected, 1e-4)
    given.assert_first_gradient(loss, states[1])
    # What tells of a gradient that is not finite, which no loss shows yet.
    moment = optax.tree_utils.tree_get(states[1].optimizer, "mu")
    np.testing.assert_allclose(
        metrics[0]["gradient_norm"], 10.0 * np.linalg.norm(moment), rtol=1e-4
    )


def test_variances_weigh_the_gradient_while_structures_are_sought():
    """At 1 nat no change counts more than another for its variance."""
    sizes = (3, 2, 3)
    given = Setting(dataclasses.replace(CONFIG, mean_power=0.5), sizes, encoder="none")
    start, batch = given.init(), given.batch(0)
    for temperature, is_even in ((50.0, False), (1.0, True)):
        schedule = start.schedule._replace(temperature=jnp.float32(temperature))
        state, _ = given.step(start._replace(schedule=schedule), given.states, batch)
        structure = gather_structure(state.structures, batch.tasks, batch.supergraph)

        def loss(modules, is_even=is_even, structure=structure):
            energies = given.energies(modules, batch, structure, 0.5, is_even)
            return jnp.sum(energies) / (5 * sum(sizes))

        given.assert_first_gradient(loss, state)
    assert given.num_traces == 1


def test_mixture_gradient_equals_brute_force():
    """Every receiver on its own, every assignment of its edges one by one."""
    sizes = (3, 2, 3)
    config = dataclasses.replace(
        CONFIG, gradient="mixture", initial_temperature=20.0, search_steps=1
    )
    given = Setting(config, sizes, encoder="none")
    states, metrics = given.run(1)
    batch = given.batch(0)
    graph = batch.supergraph
    degrees = graph.slot_mask.sum(axis=1)
    scored = sum(sizes) * 5

    def listed(modules):
        """Energies `[assignments, N]`; the slots of all receivers alike."""
        assignments = jnp.asarray(list(itertools.product((0, 1), repeat=2)))

        def one(assignment):
            edges = jnp.broadcast_to(assignment, graph.slot_mask.shape)
            nodes = jnp.zeros(len(graph.node_mask), jnp.int32)
            return given.energies(modules, batch, search.Structure(edges, nodes))

        return jax.vmap(one)(assignments)

    energies = np.asarray(jax.jit(listed)(given.params.modules), np.float64)
    weights = np.zeros_like(energies)
    for node in np.flatnonzero(graph.node_mask):
        # Slot 1 of a receiver with one edge is padding: assignments 0 and 2 remain.
        rows = [0, 1, 2, 3] if degrees[node] == 2 else [0, 2]
        relative = energies[rows, node] - energies[rows, node].min()
        boltzmann = np.exp(-relative / 20.0)
        weights[rows, node] = boltzmann / boltzmann.sum()
    assert 0.2 < weights.max(axis=0)[graph.node_mask].min() < 0.9

    def loss(modules):
        return jnp.sum(weights.astype(np.float32) * listed(modules)) / scored

    np.testing.assert_allclose(
        metrics[0]["loss"], np.sum(weights * energies) / scored, rtol=1e-4
    )
    given.assert_first_gradient(loss, states[1])


@functools.cache
def symmetric_run():
    """Six steps with receivers that a prior couples, as warm as moves are accepted."""
    config = dataclasses.replace(
        CONFIG, temperature="acceptance", initial_temperature=2.0
    )
    given = Setting(config, search=search_options(prior="symmetric"), encoder="mlp")
    return given, *given.run(6)


@functools.cache
def rollout_run():
    """Two steps with receivers that roll-outs of two frames couple."""
    search = search_options(form="rollout", horizon=2)
    given = Setting(search=search, encoder="none")
    return given, *given.run(2)


@pytest.mark.parametrize("run, horizon", [(symmetric_run, 1), (rollout_run, 2)])
def test_coupled_receivers_train(run, horizon):
    given, states, metrics = run()
    for record in metrics:
        assert all(np.isfinite(value) for value in record.values())
    batch = given.batch(0)
    graph = batch.supergraph

    @jax.jit
    def energies():
        rolled = composed.RolloutEnergies(
            given.model.network.modules(given.params),
            gather_states(given.states, batch.tasks, graph),
            graph.slot_senders,
            graph.slot_mask,
            graph.node_mask,
            horizon,
        )
        return rolled.all_nodes(
            gather_structure(states[1].structures, batch.tasks, graph)
        )

    expected = np.sum(energies()) / (graph.node_mask.sum() * 5)
    np.testing.assert_allclose(metrics[0]["loss"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "search_frames, gradient_frames, expected",
    [(0, 16, (32, 16)), (8, 16, (8, 16)), (40, 16, (32, 16)), (0, 47, (24, 24))],
)
def test_held_out_frames_are_disjoint(search_frames, gradient_frames, expected):
    config = BounceGradConfig(
        search_frames=search_frames, gradient_frames=gradient_frames
    )
    seen = []
    for seed in range(20):
        key = jax.random.key(seed)
        for_search, for_gradient = split_frames(key, config, 48)
        assert (len(for_search), len(for_gradient)) == expected
        together = np.concatenate([for_search, for_gradient])
        assert len(np.unique(together)) == len(together)
        assert together.min() >= 0 and together.max() < 48
        seen.append(tuple(np.sort(for_gradient)))
    assert len(set(seen)) == 20


@pytest.mark.parametrize("num_inputs, expected", [(2, (1, 1)), (5, (3, 2))])
def test_short_trajectories_share_their_frames(num_inputs, expected):
    config = BounceGradConfig()
    parts = split_frames(jax.random.key(0), config, num_inputs)
    assert tuple(len(part) for part in parts) == expected


def test_shared_frames():
    config = BounceGradConfig(held_out=False, gradient_frames=3)
    for_search, for_gradient = split_frames(jax.random.key(0), config, 9)
    assert for_search is None  # All frames, which needs no copy.
    assert len(for_gradient) == 3
    config = dataclasses.replace(config, search_frames=4)
    for_search, _ = split_frames(jax.random.key(0), config, 9)
    assert len(np.unique(for_search)) == 4


def test_geometric_temperature():
    """50 nats at first, 1 after 60 % of the steps, even ratios between."""
    schedule = bouncegrad.temperature_schedule(CONFIG)

    @jax.jit
    def temperatures():
        states = [schedule.init()]
        for _ in range(9):
            states.append(schedule.step(states[-1], 0, 0))
        return [state.temperature for state in states]

    expected = [50.0 ** (1 - min(step, 7) / 7) for step in range(10)]
    np.testing.assert_allclose(temperatures(), expected, rtol=1e-5)
    # A run is as warm as that.
    _, _, metrics = default_run()
    found = [record["temperature"] for record in metrics]
    np.testing.assert_allclose(found, expected[:4], rtol=1e-5)


def test_acceptance_temperature():
    """A tenth up or down with every step, towards the target rate."""
    _, _, metrics = symmetric_run()
    found = np.array([record["temperature"] for record in metrics])
    assert found[0] == 2.0
    ratios = found[1:] / found[:-1]
    is_up = np.isclose(ratios, 1.1, rtol=1e-5)
    assert (is_up | np.isclose(ratios, 1 / 1.1, rtol=1e-5)).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": 0}, "num_steps: found 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size: found 0, expected at least 1"),
        ({"search_steps": -1}, "search_steps: found -1, expected at least 0"),
        ({"gradient_frames": -1}, "gradient_frames: found -1"),
        ({"gradient": "all"}, "gradient: found 'all', expected one of"),
        ({"start": "warm"}, "start: found 'warm', expected one of"),
        ({"temperature": "linear"}, "temperature: found 'linear', expected one of"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        BounceGradConfig(**options)


def test_options_that_do_not_go_together():
    config = BounceGradConfig(gradient="mixture")
    for options in ({"prior": "symmetric"}, {"form": "rollout"}):
        model = small_model(search=search_options(**options))
        with pytest.raises(
            ValueError, match="gradient: found 'mixture' .*expected independent"
        ):
            bouncegrad.bouncegrad(model, config)


def test_defaults_follow_the_number_of_entities():
    """Edges of a step stay about the same; proposals grow with senders."""
    usual = BounceGradConfig().resolved(5)
    assert (usual.batch_size, usual.search_steps) == (32, 8)
    assert all(BounceGradConfig().resolved(count) == usual for count in range(1, 9))
    for count in (10, 20, 30, 100):
        config = BounceGradConfig().resolved(count)
        is_single = config.batch_size == 1
        assert is_single or config.batch_size * count * (count - 1) <= 1800
        assert usual.search_steps <= config.search_steps < 2 * count
    given = BounceGradConfig(batch_size=7, search_steps=3)
    assert given.resolved(100) == given
    auto, energy = InferenceConfig(algorithm="auto"), EnergyConfig()
    small = auto.resolved(10, energy, is_additive=True)
    assert small == auto.resolved(30, energy, is_additive=False) == InferenceConfig()
    assert InferenceConfig().resolved(30, energy, is_additive=True) == InferenceConfig()
    large = auto.resolved(30, energy, is_additive=True)
    assert (large.algorithm, large.num_steps) == ("integer_least_squares", 10)
    assert auto.resolved(100, energy, is_additive=True).num_steps == 33
    tied = auto.resolved(5, EnergyConfig(prior="symmetric"), is_additive=True)
    assert (tied.algorithm, tied.num_steps) == ("integer_least_squares", 8)
    with pytest.raises(ValueError, match="options: found .*'auto', expected a search"):
        InferenceConfig(algorithm="auto", options={"beam_size": 8})
