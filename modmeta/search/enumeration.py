"""Exact search over all assignments of one receiver's incoming edges.

With a local energy and no prior that couples receivers, the minimum of a structure
is the minimum of every receiver, and the Boltzmann distribution is a product over
receivers: enumerating K^D assignments per receiver is then an oracle. It ends near
K^D = 10^5; the annealing kernel does not. `exhaustive_search` is the same as a search
of many steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import base, evaluation

MAX_ASSIGNMENTS = 1 << 17


class Enumeration(NamedTuple):
    """All assignments of every receiver and their energies.

    Attributes:
      assignments: `[A, D]` int32, the same for every receiver.
      energies: `[R, A]`; infinite where an assignment differs from another one in
        masked slots alone.
    """

    assignments: jax.Array
    energies: jax.Array


def check_count(num_slots: int, num_modules: int, num_node_modules: int = 1) -> int:
    """The number of assignments of modules to slots, and of a module to the node.

    Raises:
      ValueError: If there are more than `MAX_ASSIGNMENTS`.
    """
    count = num_modules**num_slots * num_node_modules
    if count > MAX_ASSIGNMENTS:
        raise ValueError(
            f"enumeration: {num_modules} modules on {num_slots} slots are {count} "
            f"assignments per receiver, expected at most {MAX_ASSIGNMENTS}; use the "
            "annealing search"
        )
    return count


def all_assignments(num_slots: int, num_modules: int) -> np.ndarray:
    """All assignments of modules to slots, `[num_modules ** num_slots, num_slots]`.

    Raises:
      ValueError: If there are more than `MAX_ASSIGNMENTS`.
    """
    count = check_count(num_slots, num_modules)
    powers = num_modules ** np.arange(num_slots - 1, -1, -1)
    return (np.arange(count)[:, None] // powers % num_modules).astype(np.int32)


def enumerate_receivers(
    energy: base.Energy,
    candidates: base.Candidates,
    node_modules: jax.Array,
    *,
    chunk_size: int = 256,
) -> Enumeration:
    """Evaluates every assignment of the incoming edges of every receiver.

    Args:
      energy: A local energy; its prior is ignored.
      candidates: Slots and number of modules.
      node_modules: `[R]` module of every node, held fixed.
      chunk_size: Assignments evaluated at once; bounds the memory.

    Returns:
      Assignments and energies.

    Raises:
      ValueError: If the energy is not local or there are too many assignments.
    """
    if not energy.is_local:
        raise ValueError("enumeration: found a roll-out energy, expected a local one")
    num_receivers, num_slots, num_modules = candidates.edge_logits.shape
    assignments = jnp.asarray(all_assignments(num_slots, num_modules))

    def evaluate(assignment):
        edge_modules = jnp.broadcast_to(assignment, (num_receivers, num_slots))
        structure = base.Structure(edge_modules, node_modules)
        values = energy.local(structure, jnp.arange(num_receivers))
        redundant = jnp.any((edge_modules > 0) & ~candidates.slot_mask, axis=-1)
        return jnp.where(redundant, jnp.inf, values)

    energies = jax.lax.map(
        evaluate, assignments, batch_size=min(chunk_size, assignments.shape[0])
    )
    return Enumeration(assignments, energies.T)


def best_structure(
    enumeration: Enumeration, node_modules: jax.Array
) -> tuple[base.Structure, jax.Array]:
    """The structure of lowest energy and the energies `[R]` of its receivers."""
    best = jnp.argmin(enumeration.energies, axis=-1)
    structure = base.Structure(enumeration.assignments[best], node_modules)
    return structure, jnp.min(enumeration.energies, axis=-1)


def edge_marginals(
    enumeration: Enumeration, num_modules: int, temperature: float = 1.0
) -> jax.Array:
    """Exact probabilities `[R, D, K]` of every edge's module at a temperature."""
    weights = jax.nn.softmax(-enumeration.energies / temperature, axis=-1)
    one_hot = jax.nn.one_hot(enumeration.assignments, num_modules)
    return jnp.einsum("ra,adk->rdk", weights, one_hot)


def exhaustive_search(
    *, chunk_size: int = 64, num_node_modules: int = 1
) -> base.SearchAlgorithm:
    """Enumeration as `SearchAlgorithm(init, step)`; the temperature is ignored.

    Every step gives the next `chunk_size` assignments to all receivers at once and
    keeps the best one of each receiver. After `ceil(K ** D * M / chunk_size)` steps the
    present structure is the optimum; the search then goes round again. An assignment
    counts as one proposal, the last step's repeated ones included. The state's memory
    is the number `()` of the next assignment.

    Args:
      chunk_size: Assignments per step.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a size is below 1; at `init` and `step`, if the energy is not
        local, has a prior, or there are too many assignments.
    """
    for name, value in [
        ("chunk_size", chunk_size),
        ("num_node_modules", num_node_modules),
    ]:
        if value < 1:
            raise ValueError(f"{name}: found {value}, expected at least 1")

    def count(energy, candidates):
        if not energy.is_local or energy.prior is not base.no_prior:
            raise ValueError(
                "energy: found one that couples receivers (a prior or roll-outs), "
                "expected a local one without prior"
            )
        _, num_slots, num_modules = candidates.edge_logits.shape
        return check_count(num_slots, num_modules, num_node_modules)

    def init(structure, energy, candidates):
        count(energy, candidates)
        state = base.init(structure, energy, candidates)
        return state._replace(memory=jnp.zeros((), jnp.int32))

    def step(rng_key, state, energy, candidates, temperature):
        del rng_key, temperature
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        num_assignments = count(energy, candidates)
        indices = (state.memory + jnp.arange(chunk_size)) % num_assignments
        powers = num_modules ** np.arange(num_slots - 1, -1, -1)

        def evaluate(index):
            row = index // num_node_modules // powers % num_modules
            edge_modules = jnp.where(
                candidates.slot_mask, row[None], state.structure.edge_modules
            )
            node_modules = state.structure.node_modules
            if num_node_modules > 1:
                node_modules = jnp.full_like(node_modules, index % num_node_modules)
            structure = base.Structure(edge_modules, node_modules)
            return structure, energy.local(structure, jnp.arange(num_receivers))

        structures, energies = jax.vmap(evaluate)(indices)
        energies = jnp.where(jnp.isfinite(energies), energies, jnp.inf)
        winner = jnp.argmin(energies, axis=0)
        receivers = jnp.arange(num_receivers)
        found = jnp.min(energies, axis=0)
        improves = evaluation.is_better(found, state.local_energies)
        structure, local_energies = jax.tree.map(
            lambda new, old: jnp.where(
                improves.reshape(-1, *(1,) * (old.ndim - 1)), new, old
            ),
            (evaluation.take(structures, (winner, receivers)), found),
            (state.structure, state.local_energies),
        )
        proposed = evaluation.Evaluated(
            structure, local_energies, jnp.sum(local_energies)
        )
        is_accepted = evaluation.is_better(proposed.energy, state.energy)
        new_state = evaluation.advance(
            state,
            proposed,
            num_proposals=chunk_size,
            num_node_updates=chunk_size * num_receivers,
            memory=(state.memory + chunk_size) % num_assignments,
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
