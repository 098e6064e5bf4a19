"""Batches of tasks: their order, and edges of their own."""

import jax
import numpy as np
import pytest

from modmeta.graphs import supergraphs
from modmeta.relational.tasks.batches import TaskSampler, all_batches

SIZES = (3, 5, 4, 2, 5)


def some_edges(seed=0):
    """A random half of the edges of every task."""
    rng = np.random.default_rng(seed)
    edges = []
    for size in SIZES:
        senders, receivers = supergraphs.fully_connected(size)
        chosen = np.sort(rng.permutation(len(senders))[: -(-len(senders) // 2)])
        edges.append((senders[chosen], receivers[chosen]))
    return edges


def edges_of_batch(batch, index):
    """(task, receiver, sender) of every slot, padding left out."""
    graph = batch.supergraph
    rows, slots = np.nonzero(graph.slot_mask[index])
    tasks = batch.tasks[index][graph.node_system[index][rows]]
    receivers = graph.node_entity[index][rows]
    senders = graph.slot_entities[index][rows, slots]
    return list(zip(tasks.tolist(), receivers.tolist(), senders.tolist(), strict=True))


def expected_edges(tasks, edges):
    return sorted(
        (int(task), int(receiver), int(sender))
        for task in tasks
        for sender, receiver in zip(*edges[task], strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_task_comes_with_its_own_edges(batch_size):
    edges = some_edges()
    batches = all_batches(SIZES, batch_size, edges)
    found = [
        edge
        for index in range(len(batches.tasks))
        for edge in edges_of_batch(batches, index)
    ]
    assert sorted(found) == expected_edges(range(len(SIZES)), edges)


def test_sampler_gives_every_task_its_own_edges():
    edges = some_edges()
    sampler = TaskSampler(SIZES, 3, seed=1, edges=edges)
    batches = sampler.batches(4, 3)
    for index in range(3):
        tasks = sampler.tasks(4 + index)
        np.testing.assert_array_equal(batches.tasks[index], tasks)
        assert sorted(edges_of_batch(batches, index)) == expected_edges(tasks, edges)


def test_lists_of_all_edges_are_the_default():
    edges = [supergraphs.fully_connected(size) for size in SIZES]
    for given, default in (
        (all_batches(SIZES, 2, edges), all_batches(SIZES, 2)),
        (
            TaskSampler(SIZES, 2, 0, edges).batches(0, 3),
            TaskSampler(SIZES, 2, 0).batches(0, 3),
        ),
    ):
        np.testing.assert_array_equal(given.tasks, default.tasks)
        for field in supergraphs.SuperGraph._fields[1:]:
            np.testing.assert_array_equal(
                getattr(given.supergraph, field), getattr(default.supergraph, field)
            )


@pytest.mark.parametrize("num_tasks, batch_size", [(12, 4), (10, 4), (3, 8)])
def test_task_sampler_epochs(num_tasks, batch_size):
    sizes = np.random.default_rng(0).integers(1, 6, num_tasks)
    sampler = TaskSampler(sizes, batch_size, seed=1)
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
    first = TaskSampler(sizes, 3, seed=1)
    order = [first.tasks(step).tolist() for step in range(6)]
    second = TaskSampler(sizes, 3, seed=1)
    assert [second.tasks(s).tolist() for s in (5, 0, 3)] == [
        order[i] for i in (5, 0, 3)
    ]
    other = TaskSampler(sizes, 3, seed=2)
    assert [other.tasks(step).tolist() for step in range(6)] != order

    batches = first.batches(2, 3)
    assert batches.tasks.tolist() == order[2:5]
    for index in range(3):
        expected = supergraphs.build_supergraph(
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
    sizes = (3, 1, 4, 2, 3)
    batches = all_batches(sizes, batch_size)
    seen = []
    for tasks, mask in zip(batches.tasks, batches.supergraph.system_mask, strict=True):
        for task, num_nodes in zip(tasks, mask.sum(axis=1), strict=True):
            if num_nodes:
                assert num_nodes == sizes[task]
                seen.append(int(task))
    assert seen == list(range(len(sizes)))
