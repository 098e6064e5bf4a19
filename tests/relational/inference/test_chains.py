"""How much warmer samples are than the likelihood, and who is searched again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from modmeta.relational.data.frames import as_frames
from modmeta.relational.inference import chains
from modmeta.relational.inference.chains import excess_temperature
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.problems import build_problems
from tests.fixtures import Batch, small_model, small_params


def temperature(errors, span=1):
    """From errors `[frames]` in units of their scale, windows by their share."""
    products = errors[span:] * errors[:-span]
    sums = np.array([np.sum(errors**2), np.sum(products)]) / span
    sums = jnp.asarray(sums, jnp.float32)
    return float(excess_temperature(*sums, jnp.float32(errors.size), span))


@pytest.mark.parametrize("scale, correlation", [(1.0, 0.6), (3.0, 0.0), (2.0, 0.8)])
def test_it_is_the_variance_of_sums_of_errors(scale, correlation):
    """Of an autoregression, over blocks, in units of independent errors of scale 1.

    Blocks are 400 times as long as errors remember. With 2,000 blocks, a variance has
    a relative standard error of 3 %: 15 % are five of these.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(size=800_000) * scale * np.sqrt(1.0 - correlation**2)
    errors = scipy.signal.lfilter([1.0], [1.0, -correlation], noise)
    blocks = errors.reshape(2000, -1)
    spread = np.var(blocks.sum(axis=1)) / blocks.shape[1]
    np.testing.assert_allclose(temperature(errors), spread, rtol=0.15)


@pytest.mark.parametrize("span", [1, 4])
def test_errors_as_expected_or_smaller_change_nothing(span):
    errors = np.random.default_rng(1).normal(size=100_000)
    np.testing.assert_allclose(temperature(errors, span), 1.0, rtol=0.03)
    assert temperature(0.1 * errors, span) == pytest.approx(1.0, rel=0.03)


def test_receivers_that_stand_out_are_searched_again():
    """Nobody else moves; those end at the best of all their assignments."""
    batch = Batch((4,) * 6, frames=6)
    graph, model = jax.device_put(batch.supergraph), small_model()
    params = small_params(model, graph, 6)
    frames = as_frames(batch.flat_states())
    num_nodes = graph.node_mask.shape[0]
    unknown = jnp.zeros((*graph.slot_mask.shape, 2))
    problems = build_problems(model, params, graph, frames, unknown)
    start = batch.structure()

    def searched(more_steps):
        config = InferenceConfig(
            num_steps=0, more_steps=more_steps, num_chains=1, num_samples=0
        )
        draws = chains.draw(jax.random.key(0), model, graph, start, config)
        return jax.jit(lambda: chains.search_all(problems, draws, config, None))()

    before, after = searched(0), searched(200)
    rows = [np.asarray(found.structure.edge_modules) for found in (before, after)]
    moved = np.flatnonzero(np.any(rows[0] != rows[1], axis=1))
    assert len(moved) == -(-num_nodes // 20) == 2

    def energies(edges):
        structure = start._replace(edge_modules=jnp.asarray(edges))
        return np.asarray(problems.init(structure).local_energies[:, 0])

    every = [
        energies(np.broadcast_to(np.int32(row), rows[0].shape))
        for row in np.ndindex(*(2,) * rows[0].shape[1])
    ]
    np.testing.assert_allclose(
        after.energies[moved], np.min(every, axis=0)[moved], rtol=1e-6
    )
    residuals = problems.residuals
    real = np.flatnonzero(graph.node_mask)
    misfits = [
        np.mean(np.square(residuals(jax.nn.one_hot(rows[0][n], 2), 0, n))) for n in real
    ]
    assert set(moved) == set(real[np.argsort(misfits)[-2:]])
