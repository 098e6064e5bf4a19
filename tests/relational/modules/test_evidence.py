"""Evidence of edges against weighted least squares in float64 NumPy."""

import functools

import jax
import numpy as np
import pytest

from modmeta.relational.modules import evidence
from tests.fixtures import Batch, small_model, small_params
from tests.reference import Reference

SIZES = (3, 1, 4)


@functools.partial(jax.jit, static_argnames="model")
def edge_evidence(model, params, supergraph, states):
    return model.network.evidence(params, supergraph, states)


def by_hand(model, params, states, receiver):
    """Means and standard deviations `[D, K]` and misfit of an additive model."""
    reference, num_modules = Reference(model, params), model.num_relations
    states = np.asarray(states, np.float64)
    others = [node for node in range(len(states)) if node != receiver]
    size = len(reference.layout.predicted)
    rows, offsets = [], []
    for frame in range(states.shape[1] - 1):
        now, following = states[:, frame], states[:, frame + 1]
        messages = [
            [reference.message(k, now[s], now[receiver]) for k in range(num_modules)]
            for s in others
        ]
        total = np.mean(messages, axis=1).sum(axis=0)
        own = reference.node_output(0, 0.0 * total, now[receiver])
        _, log_scale = reference.split(own + total)
        target = reference.target(now[receiver], following[receiver])
        change = np.sign(target) * (np.exp(np.abs(target)) - 1.0)
        unit = (1.0 + np.abs(change)) * np.exp(log_scale)
        changes = np.moveaxis(np.array(messages)[..., :size], 2, 0)
        rows.append(changes / unit[:, None, None])
        offsets.append((change - own[:size]) / unit)
    # The last module in place of the first as the one that the others leave.
    design, offset = np.concatenate(rows), np.concatenate(offsets)
    prior = np.sqrt(num_modules) * np.eye(len(others) * num_modules)
    design = np.concatenate([design, prior.reshape(-1, len(others), num_modules)])
    offset = np.append(offset, np.full(len(others) * num_modules, num_modules**-0.5))
    offset = offset - design[..., -1].sum(axis=1)
    free = (design[..., :-1] - design[..., -1:]).reshape(len(offset), -1)
    solution, *_ = np.linalg.lstsq(free, offset, rcond=None)
    covariance = np.linalg.inv(free.T @ free)
    misfit = np.sqrt(np.mean((free @ solution - offset) ** 2))
    means = solution.reshape(len(others), -1)
    means = np.append(means, 1.0 - means.sum(axis=1, keepdims=True), axis=1)
    # What the last weight is of the free ones, as a matrix.
    whole = np.eye(num_modules)[:, :-1] - np.eye(num_modules)[:, -1:]
    deviations = np.empty_like(means)
    for slot in range(len(others)):
        block = slice(slot * (num_modules - 1), (slot + 1) * (num_modules - 1))
        spread = whole @ covariance[block, block] @ whole.T
        deviations[slot] = np.sqrt(np.diag(spread))
    return means, deviations, misfit


@pytest.mark.parametrize("num_relations", [2, 3])
def test_evidence_equals_weighted_least_squares(num_relations):
    model = small_model(encoder="evidence", num_relations=num_relations)
    batch = Batch(SIZES, frames=6, relations=num_relations)
    graph = batch.supergraph
    params = small_params(model, graph, 6)
    found = np.asarray(edge_evidence(model, params, graph, batch.flat_states(1e3)))
    assert found.shape[-1] == evidence.num_evidence_features(num_relations)
    np.testing.assert_array_equal(found[~np.asarray(graph.slot_mask)], 0.0)
    for node in np.flatnonzero(graph.node_mask):
        system, receiver = graph.node_system[node], graph.node_entity[node]
        degree = SIZES[system] - 1
        if not degree:
            continue
        states = batch.states[system]
        means, deviations, misfit = by_hand(model, params, states, receiver)
        features = found[node, :degree]
        four = np.split(features[:, :-1], 4, axis=1)
        np.testing.assert_allclose(four[0], compressed(means), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(four[1], np.log(deviations), rtol=2e-3, atol=2e-3)
        distance, unit = means - 1.0 / num_relations, deviations * misfit
        np.testing.assert_allclose(four[2], compressed(distance / unit), atol=5e-3)
        expected = compressed(distance / unit**2)
        np.testing.assert_allclose(four[3], expected, rtol=5e-3, atol=2e-2)
        np.testing.assert_allclose(features[:, -1], np.log(misfit), atol=2e-3)


def compressed(values):
    return np.sign(values) * np.log(1.0 + np.abs(values))


def test_several_node_modules_leave_the_evidence_of_the_best():
    """With two equal ones, that of either; with a hopeless one, that of the other."""
    batch = Batch(SIZES, frames=6)
    graph, states = batch.supergraph, batch.flat_states()
    model = small_model(encoder="evidence", num_node_modules=2)
    params = small_params(model, graph, 6)

    def with_node(index, scale=1.0):
        def pick(leaf):
            return np.stack([leaf[index], scale * leaf[index]])

        node = jax.tree.map(pick, params.modules.node)
        modules = params.modules._replace(node=node)
        return edge_evidence(model, params._replace(modules=modules), graph, states)

    np.testing.assert_allclose(with_node(0, scale=50.0), with_node(0), rtol=1e-5)
    assert np.abs(with_node(1) - with_node(0)).max() > 0.1


def test_models_without_it_have_none():
    model = small_model(encoder="mlp")
    assert not model.network.reads_evidence
    assert model.network.evidence(None, None, None) is None
