"""Predicted memory against the buffers that the compiler assigns.

The passes that tests leave out come after the buffers are assigned.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest

from modmeta.graphs import supergraphs
from modmeta.relational.inference import infer, memory
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.tasks.batches import TaskBatch, all_batches
from modmeta.relational.training import bouncegrad
from modmeta.relational.training.bouncegrad import BounceGradConfig
from tests.fixtures import SPEC, search_options, small_model, small_params

CONFIG = InferenceConfig(num_steps=4, num_chains=3, num_samples=0)


def wide_model(node_update="mlp", encoder="none", path="start", **search):
    return small_model(
        encoder=encoder,
        search=search_options(**search),
        path=path,
        compress=path == "start",
        edge_sizes=(32, 32),
        message_size=32,
        node_sizes=(32, 32),
        node_update=node_update,
        activation="relu",
    )


def arguments(model, num_nodes, *, num_systems=1, frames=10, config=CONFIG):
    sizes = [num_nodes] * num_systems
    batches = all_batches(sizes, num_systems)
    one = jax.tree.map(lambda leaf: leaf[0], batches.supergraph)
    shape = (num_systems, num_nodes, frames, len(SPEC.names))
    states = np.zeros(shape, np.float32)
    params = small_params(model, one, frames)
    return jax.random.key(0), model, params, states, batches, None, config


@pytest.mark.parametrize(
    "search, options",
    [
        (
            {"node_update": "additive", "path": "interpolated"},
            {"algorithm": "integer_least_squares"},
        ),
        ({"prior": "symmetric", "messages": "recompute"}, {}),
        (
            {"encoder": "evidence", "node_update": "additive", "receiver_chunk": 1},
            {},
        ),
        ({"node_update": "additive", "path": "two_body", "receiver_chunk": 5}, {}),
    ],
)
def test_prediction_is_near_what_the_compiler_assigns(search, options):
    model = wide_model(**search)
    config = dataclasses.replace(CONFIG, **options)
    given = arguments(model, 24, config=config)
    key, model, params, states, batches, start, config = given
    searches = next(infer.grouped(key, states, batches, start, None))
    lowered = infer.search_batches.lower(model, params, searches, np.True_, config)
    assigned = lowered.compile().memory_analysis()
    budget = memory.budget_of(given[4].supergraph)
    need = memory.predict_bytes(model, budget, 10, config)
    assert 0.7 < need.total / assigned.temp_size_in_bytes < 1.6


def test_budget_is_read_off_the_shapes():
    budget = supergraphs.PaddingBudget(12, 40, 3, 5, 4)
    supergraph = supergraphs.build_supergraph([5, 4], budget)
    assert memory.budget_of(supergraph) == budget
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), supergraph)
    assert memory.budget_of(stacked) == budget


def test_machine_has_memory():
    assert memory.available_bytes() > 2**28


def never_compiled(*_, **__):
    raise AssertionError("the search should have been refused by now")


@pytest.mark.parametrize(
    "search, num_systems, advice",
    [
        ({}, 1, "set receiver_chunk to at most"),
        ({"prior": "symmetric"}, 1, "set messages to 'recompute'"),
        ({"prior": "symmetric"}, 2, "take fewer systems per batch"),
        ({"form": "rollout"}, 1, "limit candidate edges by num_neighbors or radius"),
    ],
)
def test_search_that_does_not_fit_is_refused(monkeypatch, search, num_systems, advice):
    model = wide_model(**search)
    given = arguments(model, 30, num_systems=num_systems)
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    monkeypatch.setattr(RelationalNetwork, "edge_logits", never_compiled)
    with pytest.raises(MemoryError, match="memory: found 0.000879 GiB") as error:
        infer.infer(*given)
    budget = memory.budget_of(given[4].supergraph)
    need = memory.predict_bytes(model, budget, 10, CONFIG)
    assert f"expected at least {need.total / 2**30:.3g} GiB" in str(error.value)
    assert advice in str(error.value)


def test_advice_is_good_enough_and_the_best(monkeypatch):
    model = wide_model()
    given = arguments(model, 30)
    budget = memory.budget_of(given[4].supergraph)
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * 2**20)
    with pytest.raises(MemoryError) as error:
        memory.check(model, budget, 10, CONFIG)
    chunk = int(re.search(r"receiver_chunk to at most (\d+)", str(error.value))[1])
    memory.check(model, budget, 10, CONFIG, receiver_chunk=chunk)
    with pytest.raises(MemoryError):
        memory.check(model, budget, 10, CONFIG, receiver_chunk=chunk + 1)


def test_training_that_does_not_fit_is_refused(monkeypatch):
    model = wide_model()
    _, _, params, states, batches, *_ = arguments(model, 30)
    algorithm = bouncegrad.bouncegrad(model, BounceGradConfig().resolved(30))
    state = algorithm.init(jax.random.key(0), params, 1, 30)
    batch = TaskBatch(*jax.tree.map(lambda leaf: leaf[0], tuple(batches)))
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    with pytest.raises(MemoryError, match="memory: found"):
        jax.eval_shape(algorithm.step, state, states, batch)


def test_need_grows_with_candidates_and_chunk_alone():
    """With k candidates per receiver, a thousand nodes need ten times a hundred."""
    model = wide_model()

    def total(num_nodes, degree, chunk=0):
        budget = supergraphs.PaddingBudget(
            num_nodes + 1, num_nodes * degree, 1, num_nodes, degree
        )
        return memory.predict_bytes(
            model, budget, 10, CONFIG, num_chains=2, receiver_chunk=chunk
        )

    assert total(999, 20).total == 10 * total(99, 20).total
    assert total(999, 20, 50).messages == total(99, 20, 50).messages
    assert total(99, 98).messages == 98 * total(99, 1).messages
