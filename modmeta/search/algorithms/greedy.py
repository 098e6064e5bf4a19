"""Greedy coordinate descent with random restarts (iterated conditional modes).

A step looks at one receiver, in turn, evaluates every change of one of its modules and
takes the best if it lowers the energy (Besag 1986, with the best single change in place
of the first). When a whole round changes nothing, the next step restarts from a random
structure. Under a prior that ties pairs of edges together most structures are local
minima of single changes, and only the restarts help.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import base, checks, evaluation, factorised


class GreedyMemory(NamedTuple):
    """Where the descent is.

    Attributes:
      receiver: `()` int32, receiver to look at next.
      num_idle: `()` int32, receivers in a row at which nothing improved.
    """

    receiver: jax.Array
    num_idle: jax.Array


def greedy(
    *, uniform_fraction: float = 1.0, num_node_modules: int = 1
) -> base.SearchAlgorithm:
    """Greedy descent as `SearchAlgorithm(init, step)`; the temperature is ignored.

    A step costs D (K - 1) + M - 1 proposals at one receiver, a restart one proposal at
    all receivers.

    Args:
      uniform_fraction: Restarts are drawn from the learned probabilities of the
        edges, blended with this share of the uniform ones.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a number is out of its range.
    """
    checks.at_least(1, num_node_modules=num_node_modules)
    checks.share(uniform_fraction=uniform_fraction)

    def init(structure, energy, candidates):
        zero = jnp.zeros((), jnp.int32)
        state = base.init(structure, energy, candidates)
        return state._replace(memory=GreedyMemory(zero, zero))

    def restart(rng_key, state, energy, candidates):
        logits = factorised.initial(candidates, uniform_fraction, num_node_modules)
        structure = factorised.draw(
            rng_key, logits, state.structure, candidates.slot_mask
        )
        proposed = evaluation.evaluate_fully(energy, structure)
        num_receivers = state.local_energies.shape[0]
        is_accepted = jnp.isfinite(proposed.energy)
        num_idle = jnp.where(is_accepted, 0, state.memory.num_idle)
        memory = GreedyMemory(state.memory.receiver, num_idle)
        return proposed, is_accepted, memory, 1, num_receivers

    def descend(state, energy, candidates):
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        receiver, num_idle = state.memory
        row, node_module = evaluation.take(state.structure, receiver)
        # Changes in cyclic order: of every slot, then of the node.
        slots = np.repeat(np.arange(num_slots), num_modules - 1)
        shifts = np.tile(np.arange(1, num_modules), num_slots)
        changed = (row[slots] + shifts) % num_modules
        rows = jnp.broadcast_to(row, (len(slots), num_slots))
        rows = rows.at[np.arange(len(slots)), slots].set(changed)
        node_shifts = np.arange(1, num_node_modules, dtype=np.int32)
        num_changes = len(slots) + len(node_shifts)
        rows = jnp.concatenate(
            [rows, jnp.broadcast_to(row, (len(node_shifts), num_slots))]
        )
        nodes = jnp.concatenate(
            [
                jnp.broadcast_to(node_module, (len(slots),)),
                (node_module + node_shifts) % num_node_modules,
            ]
        )
        is_possible = jnp.concatenate(
            [
                candidates.slot_mask[receiver, slots],
                jnp.ones((len(node_shifts),), bool),
            ]
        )
        receivers = evaluation.touched_receivers(energy, receiver[None], num_receivers)

        def evaluate(row, node_module):
            return evaluation.evaluate_row(
                energy, state, receiver, receivers, row, node_module
            )

        values = jax.vmap(evaluate)(rows, nodes)
        values = values._replace(energy=jnp.where(is_possible, values.energy, jnp.inf))
        proposed = evaluation.lowest(values)
        is_accepted = evaluation.is_better(proposed.energy, state.energy)
        memory = GreedyMemory(
            (receiver + 1) % num_receivers, jnp.where(is_accepted, 0, num_idle + 1)
        )
        cost = (num_changes, num_changes * receivers.shape[0])
        return proposed, is_accepted, memory, *cost

    def step(rng_key, state, energy, candidates, temperature):
        del temperature
        is_stuck = state.memory.num_idle >= state.local_energies.shape[0]
        proposed, is_accepted, memory, num_proposals, num_node_updates = jax.lax.cond(
            is_stuck,
            lambda: restart(rng_key, state, energy, candidates),
            lambda: descend(state, energy, candidates),
        )
        new_state = evaluation.advance(
            state,
            evaluation.select(is_accepted, proposed, evaluation.present(state)),
            num_proposals=num_proposals,
            num_node_updates=num_node_updates,
            memory=memory,
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
