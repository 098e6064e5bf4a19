"""Integer least squares against lists of all assignments, and planted structures."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import search
from modmeta.search import decoding


class LinearProblem:
    """One receiver whose residuals are linear in its edges, with smooth columns.

    Attributes:
      design: `[P, D, K]`.
      offset: `[P]`.
      planted: `[D]` modules that leave nothing but the noise.
      logits: `[D, K]` of learned proposals.
      probabilities: `[D, K]` some prior.
    """

    def __init__(self, num_slots, num_modules, num_residuals, *, seed, noise=1.0):
        rng = np.random.default_rng(seed)
        # Sums of a few waves: columns are nearly linear combinations of each other.
        time = np.linspace(0.0, 1.0, num_residuals)[:, None]
        waves = np.cos(np.pi * time * np.arange(1, num_slots + 1))
        decay = np.arange(1.0, num_slots + 1) ** -3.0
        mix = rng.normal(size=(num_slots, num_slots * num_modules)) * decay[:, None]
        self.design = 200.0 * (waves @ mix).reshape(-1, num_slots, num_modules)
        self.planted = rng.integers(num_modules, size=num_slots)
        slots = np.arange(num_slots)
        self.offset = self.design[:, slots, self.planted].sum(axis=1)
        self.offset = self.offset + noise * rng.normal(size=num_residuals)
        self.logits = np.zeros((num_slots, num_modules))
        self.probabilities = rng.dirichlet(3.0 * np.ones(num_modules), size=num_slots)

    def half_squares(self, rows):
        """`[n]` for assignments `[n, D]`, in float64."""
        slots = np.arange(self.design.shape[1])
        sums = self.design[:, slots[None], rows].sum(axis=-1)
        return 0.5 * np.square(sums - self.offset[:, None]).sum(axis=0)

    def pearson(self, rows):
        """Half of the prior's sum of squares, by the definition of the statistic."""
        weights = np.eye(self.design.shape[2])[rows]
        terms = np.square(weights - self.probabilities) / self.probabilities
        return 0.5 * terms.sum(axis=(1, 2))

    def one_step(self, **options):
        """The best structure `[D]` after one step from all zeros."""
        given = (self.design, self.offset, self.logits)
        state = one_step(*map(jnp.float32, given), tuple(options.items()))
        return np.asarray(state.best_structure.edge_modules[0])


def linear_energy(design, offset):
    def residuals(weights, node_module, receiver):
        del node_module, receiver
        return jnp.einsum("pdk,dk->p", design, weights) - offset

    def local(structure, receivers):
        weights = jax.nn.one_hot(structure.edge_modules, design.shape[2])[receivers]
        values = jax.vmap(lambda w: residuals(w, 0, 0))(weights)
        return 0.5 * jnp.sum(jnp.square(values), axis=1)

    return search.Energy(local, residuals=residuals)


@functools.partial(jax.jit, static_argnums=3)
def one_step(design, offset, logits, options):
    algorithm = search.build_search("integer_least_squares", **dict(options))
    energy = linear_energy(design, offset)
    candidates = search.Candidates(jnp.ones((1, len(logits)), bool), logits[None])
    zeros = jnp.zeros((1, len(logits)), jnp.int32)
    state = algorithm.init(search.Structure(zeros, zeros[:, 0]), energy, candidates)
    key = jax.random.key(0)
    return algorithm.step(key, state, energy, candidates, jnp.float32(1.0))[0]


def every_row(num_slots, num_modules):
    return np.array(list(itertools.product(range(num_modules), repeat=num_slots)))


def decode(problem, beam_size, slot_mask=None, seed=0):
    num_slots = problem.design.shape[1]
    mask = np.ones(num_slots, bool) if slot_mask is None else slot_mask
    model = decoding.LinearModel(
        design=jnp.float32(problem.design * mask[:, None]),
        offset=jnp.float32(problem.offset),
        probabilities=jnp.float32(problem.probabilities),
        slot_mask=jnp.asarray(mask),
    )
    return np.asarray(_decode(jax.random.key(seed), model, beam_size))


@functools.partial(jax.jit, static_argnums=2)
def _decode(rng_key, model, beam_size):
    return decoding.decode(rng_key, model, beam_size, beam_size, 1.0)


@pytest.mark.parametrize("num_slots, num_modules", [(7, 2), (4, 3), (1, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_of_all_assignments_sorts_them(num_slots, num_modules, seed):
    problem = LinearProblem(num_slots, num_modules, 30, seed=seed)
    everything = every_row(num_slots, num_modules)
    found = decode(problem, 10_000, seed=seed)
    assert sorted(map(tuple, found)) == sorted(map(tuple, everything))
    costs = problem.half_squares(found) + problem.pearson(found)
    assert (np.diff(costs) >= -1e-4 * (1.0 + np.abs(costs[1:]))).all()


@pytest.mark.parametrize("beam_size", [1, 5, 40])
def test_a_narrow_beam_keeps_the_best_where_edges_do_not_interact(beam_size):
    """Where costs add up over slots, the best beginnings begin the best assignments."""
    problem = LinearProblem(6, 3, 18, seed=5)
    problem.design[:] = np.eye(18).reshape(18, 6, 3) * problem.design[0]
    everything = every_row(6, 3)
    costs = problem.half_squares(everything) + problem.pearson(everything)
    found = decode(problem, beam_size)
    assert len({tuple(row) for row in found}) == beam_size
    kept = problem.half_squares(found) + problem.pearson(found)
    np.testing.assert_allclose(kept, np.sort(costs)[:beam_size], rtol=1e-4)


def test_masked_slots_are_not_decided():
    problem = LinearProblem(6, 3, 30, seed=3)
    mask = np.array([True, False, True, True, False, True])
    found = decode(problem, 3**4, slot_mask=mask)
    assert (found[:, ~mask] == 0).all()
    assert len({tuple(row) for row in found}) == 3**4
    problem.design = problem.design * mask[:, None]
    costs = problem.half_squares(found) + problem.pearson(found)
    assert (np.diff(costs) >= -1e-4 * (1.0 + np.abs(costs[1:]))).all()


def test_prior_decides_where_residuals_do_not():
    problem = LinearProblem(12, 3, 30, seed=4)
    problem.design[:], problem.offset[:] = 0.0, 0.0
    found = decode(problem, 8)[0]
    np.testing.assert_array_equal(found, problem.probabilities.argmax(axis=1))


@pytest.mark.parametrize("num_slots, num_modules", [(10, 2), (6, 3)])
def test_one_step_finds_the_optimum(num_slots, num_modules):
    everything = every_row(num_slots, num_modules)
    for seed in range(5):
        problem = LinearProblem(num_slots, num_modules, 40, seed=seed, noise=20.0)
        best = everything[np.argmin(problem.half_squares(everything))]
        found = problem.one_step(uniform_fraction=1.0)
        np.testing.assert_array_equal(found, best)


def planted(seed):
    """Forty edges, 10^12 structures: the planted one is the optimum to be found."""
    return LinearProblem(40, 2, 60, seed=seed, noise=0.3)


def test_a_wide_beam_finds_what_rounding_does_not():
    num_found = {"default": 0, "rounding": 0}
    options = {"default": {}, "rounding": {"beam_size": 1}}
    for seed, name in itertools.product(range(10), num_found):
        problem = planted(seed)
        found = problem.one_step(num_candidates=1, **options[name])
        num_found[name] += np.array_equal(found, problem.planted)
    assert num_found["default"] >= 8
    assert num_found["rounding"] <= 2


def test_learned_probabilities_are_worth_a_wider_beam():
    """A prior that is right on nine edges of ten, in place of a uniform one."""
    num_found = {"uniform": 0, "learned": 0}
    for seed, name in itertools.product(range(10), num_found):
        problem = planted(seed)
        if name == "learned":
            is_right = np.random.default_rng(seed).random(40) < 0.9
            guess = np.where(is_right, problem.planted, 1 - problem.planted)
            problem.logits = np.log(0.05 + 0.9 * np.eye(2)[guess])
        found = problem.one_step(beam_size=8, num_candidates=8, uniform_fraction=0.1)
        num_found[name] += np.array_equal(found, problem.planted)
    assert num_found["learned"] >= num_found["uniform"] + 3


def test_steps_count_what_they_cost():
    problem = LinearProblem(5, 3, 20, seed=0)
    given = (problem.design, problem.offset, problem.logits)
    state = one_step(*map(jnp.float32, given), (("num_candidates", 7),))
    # The start, seven candidates, fifteen derivatives.
    assert (state.num_proposals, state.num_node_updates) == (7, 1 + 7 + 15)
    modules = np.asarray(state.structure.edge_modules[0])
    np.testing.assert_array_equal(state.memory.centers[0], np.eye(3)[modules])
    counts = np.bincount(modules, minlength=3)
    np.testing.assert_allclose(state.memory.shares[0], (counts + 1) / 8, rtol=1e-6)
