"""A tiny problem whose energies are a table, for all that a search may need."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import base, registry, run, schedules

NUM_STEPS = 40
NUM_CHAINS = 4
_BAD_ENERGIES = (np.nan, np.inf, -np.inf)
_PRIOR_WEIGHT = 0.7


def temperature(step: jax.Array) -> jax.Array:
    """Of every step of the chains."""
    return schedules.geometric_temperature(2.0, 0.3, NUM_STEPS)(step)


def chain_key(row: int) -> jax.Array:
    """Of the chain on one of the tables."""
    return jax.random.fold_in(jax.random.key(0), row)


class TableProblem:
    """Three receivers with two slots, three modules; one slot and one receiver padded.

    Attributes:
      structures: `[S, R, D]` all structures; masked slots as at the start.
      tables: `[B, R, K ** D]` energies: usual ones, one for every bad energy, zeros.
      masks: `[B, R, D]` slots of each of them; the last has no edges.
    """

    def __init__(self, spec: registry.SearchSpec):
        rng = np.random.default_rng(0)
        self.needs = spec.needs
        mask = np.array([[True, True], [False, True], [False, False]])
        # Slot 0 of receiver 0 and slot 1 of receiver 1 are each other's opposite.
        self.candidates = base.Candidates(
            slot_mask=jnp.asarray(mask),
            edge_logits=jnp.asarray(rng.normal(size=(3, 2, 3)), jnp.float32),
            reverse_slots=jnp.array([[1, 2], [2, 0], [2, 2]], jnp.int32),
            sender_receivers=jnp.array([[1, 2], [0, 0], [0, 0]], jnp.int32),
        )
        self.mask = mask
        table = rng.normal(size=(3, 9)).astype(np.float32)
        table[2] = 0.0  # the padded receiver
        # The start, and some others of the first receiver.
        is_bad = np.zeros((3, 9), bool)
        is_bad[0, [0, 4, 5]] = True
        bad = [np.where(is_bad, value, table) for value in _BAD_ENERGIES]
        tables = [table] * NUM_CHAINS + bad + [np.zeros_like(table)]
        self.tables = np.stack(tables).astype(np.float32)
        self.masks = np.stack([mask] * (len(tables) - 1) + [np.zeros_like(mask)])
        digits = np.indices((3, 3, 3)).reshape(3, -1).T
        self.structures = np.zeros((27, 3, 2), np.int32)
        self.structures[:, mask] = digits
        self.start = base.Structure(
            jnp.asarray(self.structures[0]), jnp.zeros(3, jnp.int32)
        )

    @property
    def has_prior(self) -> bool:
        """Whether a prior ties two receivers together."""
        return not self.needs.independent_receivers

    def energy(
        self, table: jax.Array | np.ndarray, observe: Callable = lambda *_: None
    ) -> base.Energy:
        """An energy that offers what is needed and no more.

        `observe(kind, argument)` is called wherever something is evaluated.
        """
        table = jnp.asarray(table)

        def local(structure, receivers):
            observe("receivers", (receivers, structure))
            modules = structure.edge_modules * self.mask
            codes = 3 * modules[:, 0] + modules[:, 1]
            return table[receivers, codes[receivers]]

        def prior(structure):
            edges = structure.edge_modules
            return _PRIOR_WEIGHT * (edges[0, 0] != edges[1, 1]).astype(jnp.float32)

        def of_receiver(weights, receiver):
            first = jnp.eye(3)[0]
            weights = jnp.where(
                jnp.asarray(self.mask)[receiver, :, None], weights, first
            )
            values = table[receiver].reshape(3, 3)
            return weights[0] @ values @ weights[1]

        def relaxed(edge_weights, node_modules):
            observe("receivers", (node_modules, jax.lax.stop_gradient(edge_weights)))
            local = jax.vmap(of_receiver)(edge_weights, jnp.arange(3))
            agree = jnp.sum(edge_weights[0, 0] * edge_weights[1, 1])
            return jnp.sum(local) + _PRIOR_WEIGHT * (1.0 - agree) * self.has_prior

        def residuals(edge_weights, node_module, receiver):
            del node_module
            observe("weights", jax.lax.stop_gradient(edge_weights))
            return of_receiver(edge_weights, receiver)[None] - jnp.min(table[receiver])

        return base.Energy(
            local,
            prior=prior if self.has_prior else base.no_prior,
            relaxed=relaxed if self.needs.relaxed else None,
            residuals=residuals if self.needs.residuals else None,
        )

    def totals(self, table: np.ndarray) -> np.ndarray:
        """Energy `[S]` of all structures, by hand."""
        codes = 3 * self.structures[..., 0] + self.structures[..., 1]
        totals = table[np.arange(3), codes].sum(axis=1)
        if self.has_prior:
            disagree = self.structures[:, 0, 0] != self.structures[:, 1, 1]
            totals = totals + _PRIOR_WEIGHT * disagree
        return totals

    def index(self, edge_modules: jax.Array) -> np.ndarray:
        """Positions in `structures` of `[..., R, D]`."""
        digits = np.asarray(edge_modules)[..., self.mask]
        return digits @ np.array([9, 3, 1])

    def run(self, algorithm, rng_key, energy, candidates, num_steps=NUM_STEPS):
        """All states and diagnostics of one chain."""
        return run.run_search(
            rng_key,
            algorithm.init(self.start, energy, candidates),
            algorithm,
            energy,
            candidates,
            temperature,
            num_steps,
            transform=lambda state, info: (state, info),
        )[1]

    def run_batch(self, algorithm):
        """One chain for every table, of which every step is a call of its own."""

        @jax.jit
        @jax.vmap
        def start(table, mask):
            candidates = self.candidates._replace(slot_mask=mask)
            return algorithm.init(self.start, self.energy(table), candidates)

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, None, 0, 0, 0))
        def advance(rng_key, index, state, table, mask):
            candidates = self.candidates._replace(slot_mask=mask)
            key = jax.random.fold_in(rng_key, index)
            return algorithm.step(
                key, state, self.energy(table), candidates, temperature(index)
            )

        keys = jnp.stack([chain_key(row) for row in range(len(self.tables))])
        state, visited = start(self.tables, self.masks), []
        for index in range(NUM_STEPS):
            state, info = advance(keys, np.int32(index), state, self.tables, self.masks)
            visited.append(jax.device_get((state, info)))
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *visited)
