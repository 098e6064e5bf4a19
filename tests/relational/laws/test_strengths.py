"""Strengths of edges against closed forms and SciPy; laws are set by hand."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from modmeta.relational import ModuleConfig, as_dataset
from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.laws import bounded, strengths
from modmeta.relational.modules.laws import units_of
from tests.relational.test_api import random_walks
from tests.relational.test_results import VERDICT, half_symmetric, result_of

INTERVAL = 0.1


def test_least_squares_with_bounds():
    """Against SciPy, with columns that pull to both sides and one that is free."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(5, 20, 2))
    goal = np.einsum("c,cwy->wy", [0.7, 0.0, 2.0, -1.0, -0.5], columns)
    goal += 0.1 * rng.normal(size=goal.shape)
    precision = rng.uniform(0.5, 2.0, goal.shape) * (rng.random(goal.shape) > 0.2)
    prior = np.array([0.0, 0.0, 0.0, 0.0, 3.0])
    root = np.sqrt(precision)
    rows = np.concatenate([(columns * root).reshape(5, -1).T, np.diag(np.sqrt(prior))])
    wanted = np.concatenate([(goal * root).ravel(), np.zeros(5)])
    bounds = ([0, 0, 0, 0, -np.inf], np.inf)
    expected = scipy.optimize.lsq_linear(rows, wanted, bounds, tol=1e-12).x
    given = map(jnp.asarray, (columns, goal, precision, prior))
    values, deviations, trust = jax.jit(bounded.least_squares, static_argnums=4)(
        *given, 4
    )
    np.testing.assert_allclose(values, expected, atol=1e-4)
    inverse = np.linalg.inv(rows.T @ rows)
    np.testing.assert_allclose(deviations, np.sqrt(np.diag(inverse)), rtol=1e-3)
    assert values[3] == 0.0 and np.all(trust == 1.0)


def test_bounds_at_many_columns_that_are_nearly_alike():
    """The least squares of SciPy's active sets, as far as single precision tells."""
    solve = jax.jit(bounded.least_squares, static_argnums=4)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(1, 40, 2))
        columns = common + 0.05 * rng.normal(size=(8, 40, 2))
        truth = np.maximum(rng.normal(size=8), 0.0)
        goal = np.einsum("c,cwy->wy", truth, columns)
        goal += 0.01 * rng.normal(size=goal.shape)
        given = (columns, goal, np.ones_like(goal), np.zeros(8))
        values, _, _ = solve(*map(jnp.asarray, given), 8)
        expected, _ = scipy.optimize.nnls(columns.reshape(8, -1).T, goal.ravel())
        np.testing.assert_allclose(values, expected, atol=5e-3)


def test_which_law_is_multiplied():
    """Laws 1 and 2 differ by a factor, 3 points elsewhere, 0 says nothing."""
    law = np.array([[1e-4, 0.0], [1.0, 0.0], [3.0, 0.0], [-1.0, 0.2]])
    edges = np.array([[[-1, 0, 1], [2, -1, 3], [0, 1, -1]]])
    probabilities = np.zeros((1, 3, 3, 4))
    probabilities[0, 0, 1] = [0.8, 0.0, 0.0, 0.2]
    found = strengths.laws_of(edges, probabilities, law @ law.T)
    # Of the silent edge without samples, the most frequent other relation is 1.
    np.testing.assert_array_equal(found, [[[-1, 3, 2], [2, -1, 3], [2, 2, -1]]])


def spring_result(truth, exponent=1.0):
    """Bodies joined by springs of any strength, moved by an exact integrator.

    Relation 1 is the law of a spring of strength 0.5, or of another power of the
    distance, relation 0 says nothing.
    """
    num_tasks, num_nodes = truth.shape[:2]
    rng = np.random.default_rng(1)
    # The linear system of all bodies: x'' = A x, solved by its eigenvectors.
    matrix = truth - np.eye(num_nodes) * truth.sum(axis=2)[:, None]
    values, vectors = np.linalg.eigh(matrix)
    x0, v0 = rng.normal(size=(2, num_tasks, num_nodes, 2))
    times = INTERVAL * np.arange(20)
    rate = np.sqrt(np.maximum(-values, 1e-12))[:, None, :, None]
    phase = rate * times[:, None, None]
    a0, b0 = (np.einsum("tnk,tnc->tkc", vectors, x)[:, None] for x in (x0, v0))
    x = a0 * np.cos(phase) + b0 * np.sin(phase) / rate
    v = b0 * np.cos(phase) - a0 * rate * np.sin(phase)
    states = np.concatenate(
        [np.einsum("tnk,tfkc->tfnc", vectors, part) for part in (x, v)], axis=-1
    )
    dataset = TrajectoryDataset(
        states=states,
        features=FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3)),
        frame_interval=INTERVAL,
    )
    edges = np.where(truth > 0.3, 1, 0)
    edges[:, np.arange(num_nodes), np.arange(num_nodes)] = -1
    modules = ModuleConfig(
        law="central", span=1, edge_sizes=(4,), node_sizes=(4,), entities="alike"
    )
    result = result_of(dataset, edges, modules)
    params = by_hand(result.model, result.params, exponent)
    discovery = dataclasses.replace(result.discovery, params=params)
    return dataclasses.replace(result, discovery=discovery)


def by_hand(model, params, exponent):
    """Powers of the distance: log d passes through, as silu(x) - silu(-x) is x."""
    # No law is near its limit, and nothing acts on a body alone.
    constants = params.preprocessing
    constants = constants._replace(target_limit=1e6 * constants.target_limit)
    laws = model.bank.laws
    unit = units_of(laws.law, constants, 1).acceleration
    edge, node = jax.tree.map(
        jnp.zeros_like, (params.modules.edge, params.modules.node)
    )
    first, last = edge["rate_network"]["layer_0"], edge["rate_network"]["layer_1"]
    first["kernel"] = first["kernel"].at[:, 0, 0].set(1.0).at[:, 0, 1].set(-1.0)
    last["kernel"] = last["kernel"].at[:, 0, 0].set(exponent)
    last["kernel"] = last["kernel"].at[:, 1, 0].set(-exponent)
    # Distances are in spreads of positions, times in frames.
    factor = 0.5 * INTERVAL**2 / unit
    last["bias"] = last["bias"].at[1, 1].set(factor)
    modules = params.modules._replace(edge=edge, node=node)
    return params._replace(modules=modules, preprocessing=constants)


def test_laws_on_no_edge_are_not_multiplied():
    """Unless edges have no law that acts: then it is asked how much of another."""
    law = np.outer([1.5, 0.0, 1.0], [1.0, 2.0])
    edges = np.array([[[-1, 2], [1, -1]]])
    probabilities = np.eye(3)[np.maximum(edges, 0)]
    found = strengths.laws_of(edges, probabilities, law @ law.T)
    np.testing.assert_array_equal(found, [[[-1, 2], [2, -1]]])
    nothing = np.where(edges >= 0, 1, -1)
    found = strengths.laws_of(nothing, np.eye(3)[np.maximum(nothing, 0)], law @ law.T)
    np.testing.assert_array_equal(found, [[[-1, 0], [0, -1]]])


def test_strengths_of_springs(tmp_path, monkeypatch):
    """Of any strength, in a file that another program reads."""
    rng = np.random.default_rng(0)
    upper = np.triu(rng.uniform(0.0, 1.0, (6, 3, 3)), 1)
    truth = upper + upper.swapaxes(1, 2)
    result = spring_result(truth)
    found = result.strengths()
    is_edge = result.edges >= 0
    np.testing.assert_array_equal(np.isnan(found.values), ~is_edge)
    np.testing.assert_array_equal(found.relations, np.where(is_edge, 1, -1))
    np.testing.assert_allclose(0.5 * found.values[is_edge], truth[is_edge], atol=2e-3)
    assert np.all(found.errors[is_edge] > 0.0)
    np.testing.assert_array_equal(result.rank_pairs("strengths"), found.values)
    result.to_csv(tmp_path / "edges.csv", strengths=True)
    with open(tmp_path / "edges.csv") as file:
        lines = list(csv.DictReader(file))
    frame = result.to_dataframe(strengths=True)
    assert len(lines) == len(frame) == is_edge.sum()
    for name, values in (("strength", found.values), ("strength_error", found.errors)):
        np.testing.assert_allclose(frame[name], values.swapaxes(1, 2)[is_edge])
        written = [float(line[name]) for line in lines]
        np.testing.assert_allclose(written, frame[name], rtol=1e-6)
    result.to_csv(tmp_path / "edges.csv")
    assert "strength" not in (tmp_path / "edges.csv").read_text()
    # A law that is shown twice as strong, as entities' factors have it, is taken half.
    monkeypatch.setattr(strengths, "median_factor", lambda *_: 2.0)
    half = result.strengths()
    np.testing.assert_allclose(2.0 * half.values, found.values)
    np.testing.assert_allclose(2.0 * half.errors, found.errors)
    # Laws that explain nothing say nothing of strengths.
    verdict = VERDICT._replace(supported=False, num_relations=0)
    discovery = dataclasses.replace(result.discovery, verdict=verdict)
    open_ones = dataclasses.replace(result, discovery=discovery).strengths()
    assert np.isinf(open_ones.errors[is_edge]).all()
    assert np.isnan(open_ones.errors[~is_edge]).all()


def test_a_law_that_is_too_flat_bends_to_strengths():
    """The law of a spring, learned as another power of the distance."""
    rng = np.random.default_rng(0)
    upper = np.triu(rng.uniform(0.0, 1.0, (6, 3, 3)), 1)
    truth = upper + upper.swapaxes(1, 2)
    result = spring_result(truth, exponent=0.7)
    is_edge = result.edges >= 0
    found = result.strengths().values[is_edge]
    scale = found @ truth[is_edge] / (found @ found)
    np.testing.assert_allclose(scale * found, truth[is_edge], atol=5e-3)


def test_strengths_without_sums_are_refused():
    result = result_of(as_dataset(random_walks(), lags=1), half_symmetric())
    with pytest.raises(ValueError, match="found path 'start' with node_update 'mlp'"):
        result.strengths()
