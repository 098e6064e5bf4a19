"""Tiny problems whose energies of all structures are listed in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import search
from modmeta.relational.energies.priors import relaxed_symmetric_prior, symmetric_prior
from modmeta.search import proposals
from tests.fixtures import TinyProblem

PRIOR_WEIGHT = 2.5


def table_energy(table, candidates, *, prior=False):
    """The energy of a table `[R, M, K ** D]`; the first slot is the lowest digit."""
    num_receivers, num_slots, base = candidates.edge_logits.shape
    powers = base ** np.arange(num_slots)

    def local(structure, receivers):
        slots = structure.edge_modules * candidates.slot_mask
        codes = jnp.sum(slots * powers[None], axis=1)
        return table[receivers, structure.node_modules[receivers], codes[receivers]]

    def expectation(edge_weights, node_modules, table):
        """That of independent edges."""
        mask = candidates.slot_mask[..., None]
        weights = jnp.where(mask, edge_weights, jnp.eye(base)[0][None, None])
        joint = jnp.ones((num_receivers, 1))
        for slot in range(num_slots):
            joint = weights[:, slot, :, None] * joint[:, None, :]
            joint = joint.reshape(num_receivers, -1)
        return jnp.sum(joint * table[jnp.arange(num_receivers), node_modules])

    def relaxed(edge_weights, node_modules):
        total = expectation(edge_weights, node_modules, table)
        if prior:
            total += relaxed_symmetric_prior(candidates, PRIOR_WEIGHT)(edge_weights)
        return total

    def residuals(edge_weights, node_module, receiver):
        """One of them: how far the expectation is above the lowest energy."""
        weights = jnp.zeros((num_receivers, num_slots, base)).at[receiver]
        alone = jnp.zeros_like(table).at[receiver].set(table[receiver])
        modules = jnp.full((num_receivers,), node_module)
        expected = expectation(weights.set(edge_weights), modules, alone)
        return (expected - jnp.min(table[receiver]))[None]

    energy = search.Energy(local, relaxed=relaxed, residuals=residuals)
    if prior:
        energy = energy._replace(prior=symmetric_prior(candidates, PRIOR_WEIGHT))
    return energy


class TableEnergy:
    """Random energies of every receiver, and those of all structures by hand.

    Attributes:
      table: `[R, M, K ** D]` energies of the receivers.
      energy: For the search.
      totals: `[S, M ** R]` energy of every structure and choice of node modules.
    """

    def __init__(
        self,
        problem,
        *,
        prior=False,
        num_node_modules=1,
        seed=0,
        scale=1.0,
        bad=None,
        is_bad=None,
    ):
        self.problem, self.num_node_modules = problem, num_node_modules
        mask = np.asarray(problem.candidates.slot_mask)
        num_receivers, num_slots = mask.shape
        base = problem.num_modules
        rng = np.random.default_rng(seed)
        shape = (num_receivers, num_node_modules, base**num_slots)
        self.table = scale * rng.normal(size=shape).astype(np.float32)
        self.table[~mask.any(axis=1)] = 0.0  # padded receivers
        if is_bad is not None:
            self.table[is_bad] = bad
        self.energy = table_energy(
            jnp.asarray(self.table), problem.candidates, prior=prior
        )
        nodes = list(itertools.product(range(num_node_modules), repeat=num_receivers))
        self.nodes = np.array(nodes, np.int32)
        self.totals = np.zeros((len(problem.structures), len(nodes)))
        for row, structure in enumerate(problem.structures):
            for column, modules in enumerate(nodes):
                for receiver in range(num_receivers):
                    code = sum(
                        structure[receiver, slot] * base**slot
                        for slot in range(num_slots)
                        if mask[receiver, slot]
                    )
                    value = self.table[receiver, modules[receiver], code]
                    self.totals[row, column] += value
                if prior:
                    self.totals[row, column] += PRIOR_WEIGHT * sum(
                        0.5 * (structure[slot] != structure[opposite])
                        for slot, opposite in problem.pairs()
                    )

    def boltzmann(self, temperature):
        weights = np.exp(-(self.totals - self.totals.min()) / temperature)
        return (weights / weights.sum()).ravel()

    def structure(self, index):
        """Structures of flat indices into `totals`."""
        row, column = np.unravel_index(index, self.totals.shape)
        return search.Structure(
            jnp.asarray(self.problem.structures[row]), jnp.asarray(self.nodes[column])
        )

    def index(self, structure):
        row = self.problem.index(structure.edge_modules)
        column = 0
        for modules in np.moveaxis(np.asarray(structure.node_modules), -1, 0):
            column = column * self.num_node_modules + modules
        return np.ravel_multi_index((row, column), self.totals.shape)

    def marginals(self, temperature):
        """Probabilities `[R, D, K]` of every edge's module, zero at masked slots."""
        found = np.zeros(self.problem.candidates.edge_logits.shape)
        probabilities = self.boltzmann(temperature).reshape(self.totals.shape)
        for structure, probability in zip(
            self.problem.structures, probabilities.sum(axis=1), strict=True
        ):
            for slot in self.problem.slots:
                found[slot][structure[slot]] += probability
        return found


def flip(uniform_fraction):
    return proposals.flip_edge(uniform_fraction=uniform_fraction)


def redraw(uniform_fraction):
    return proposals.redraw_node(uniform_fraction=uniform_fraction)


def coupled(uniform_fraction):
    """The moves that the symmetric prior needs, mixed."""
    return proposals.mixture(
        [
            flip(uniform_fraction),
            proposals.flip_pair(uniform_fraction=uniform_fraction),
        ],
        [1.0, 1.0],
    )


def everything(uniform_fraction):
    return proposals.mixture(
        [coupled(uniform_fraction), redraw(uniform_fraction)], [2.0, 1.0]
    )


@functools.cache
def skewed_problem(name):
    """Learned proposals that know nothing of the energy and are sure of it."""
    return TinyProblem(name, logit_scale=2.0, seed=3)


class PairProblem(TinyProblem):
    """Two nodes with both edges, padded to the shapes of the ragged problem."""

    SENDERS = {"pair": [[1, None], [0, None], [None, None], [None, None]]}


def run_chains(algorithm, truth, start, num_steps, temperature, *, seed=0):
    """Runs one chain for every start, an index into the totals; the last states.

    Args:
      temperature: A number, or a function of the step.
    """
    candidates = truth.problem.candidates
    schedule = temperature if callable(temperature) else lambda _: temperature

    @jax.jit
    @jax.vmap
    def run(key, structure):
        return search.run_search(
            key,
            algorithm.init(structure, truth.energy, candidates),
            algorithm,
            truth.energy,
            candidates,
            lambda step: jnp.float32(schedule(step)),
            num_steps,
        )[0]

    keys = jax.random.split(jax.random.key(seed), len(start))
    return run(keys, truth.structure(start))


def exact_draws(probabilities, num_draws, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice(len(probabilities), num_draws, p=probabilities)


def total_variation(visits, probabilities):
    return 0.5 * np.abs(visits / visits.sum() - probabilities).sum()


def total_variation_limit(probabilities, num_draws, false_alarm):
    """What the distance of independent draws exceeds with at most this probability.

    Its mean is at most the sum of the standard deviations of the shares, halved; one
    draw changes it by at most 1 / num_draws (McDiarmid's inequality).
    """
    deviations = np.sqrt(probabilities * (1.0 - probabilities) / num_draws)
    margin = np.sqrt(np.log(1.0 / false_alarm) / (2.0 * num_draws))
    return 0.5 * deviations.sum() + margin


def compare(found, expected):
    """Integers must be equal, energies up to rounding."""
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        if jnp.issubdtype(one.dtype, jnp.integer):
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
