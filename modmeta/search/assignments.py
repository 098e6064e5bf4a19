"""All assignments of one receiver's incoming edges: an oracle for small problems.

With a local energy and no prior that couples receivers, the minimum of a structure
is the minimum of every receiver, and the Boltzmann distribution is a product over
receivers: enumerating K^D assignments per receiver is then an oracle. It ends near
K^D = 10^5; the annealing kernel does not. `search.enumeration` is the same as a search
of many steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import base

# Energies of one receiver fill half a megabyte then, and a list of them is made within
# a second; one edge more with many modules would take minutes and gigabytes.
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


def count_assignments(
    num_slots: int, num_modules: int, num_node_modules: int = 1
) -> int:
    """The number of assignments of modules to slots, and of a module to the node.

    Raises:
      ValueError: If there are more than `MAX_ASSIGNMENTS`.
    """
    count = num_modules**num_slots * num_node_modules
    if count > MAX_ASSIGNMENTS:
        raise ValueError(
            f"enumeration: found {count} assignments per receiver ({num_modules} "
            f"modules on {num_slots} slots), expected at most {MAX_ASSIGNMENTS}; "
            "take another search"
        )
    return count


def all_assignments(num_slots: int, num_modules: int) -> np.ndarray:
    """All assignments of modules to slots, `[num_modules ** num_slots, num_slots]`.

    Raises:
      ValueError: If there are more than `MAX_ASSIGNMENTS`.
    """
    count = count_assignments(num_slots, num_modules)
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
