"""What receivers tell each other of edges that a prior ties together.

Two receivers see the relation between two entities: one the edge, one its opposite.
Each keeps, for every edge and module, the best assignment of all its edges that it
knows with this module there. How much worse one module is than another, less what was
heard of it, is what the opposite edge is told, as far as the prior makes them agree.
This is how detectors that list what antennas may have sent exchange what they know with
a code (Hochwald and ten Brink 2003), and min-sum message passing on a graph with loops
(Kschischang et al. 2001).

Letters: R receivers, D slots, K edge modules, U assignments of one receiver.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import base, evaluation, writes

# Nats: more than any evidence, and so few that differences keep digits.
_CERTAIN = 1e6
# In place of energies that are not known or not finite, so that differences are.
UNKNOWN = 1e30


class Opposites(NamedTuple):
    """The opposite edge of every slot.

    Attributes:
      is_pair: `[R, D]` bool, whether there is one.
      receivers: `[R, D]` receiver that it enters; some one where there is none.
      slots: `[R, D]` its slot there.
    """

    is_pair: jax.Array
    receivers: jax.Array
    slots: jax.Array


def opposites(candidates: base.Candidates) -> Opposites:
    """The opposite edges of candidates.

    Raises:
      ValueError: If the candidates have no tables of them.
    """
    if candidates.reverse_slots is None or candidates.sender_receivers is None:
        raise ValueError(
            "candidates: found no reverse_slots or sender_receivers, expected both "
            "to find opposite edges"
        )
    num_slots = candidates.slot_mask.shape[1]
    return Opposites(
        candidates.slot_mask & (candidates.reverse_slots < num_slots),
        candidates.sender_receivers,
        jnp.minimum(candidates.reverse_slots, num_slots - 1),
    )


class Assignments(NamedTuple):
    """Assignments of the edges of receivers.

    Attributes:
      rows: `[..., D]` modules of the edges.
      node_modules: `[...]` modules of the receivers.
      energies: `[...]` of the receivers, without prior; `UNKNOWN` where not known.
    """

    rows: jax.Array
    node_modules: jax.Array
    energies: jax.Array


class Opinions(NamedTuple):
    """What receivers know of their edges, and what they were told.

    Attributes:
      told: `[R, D, K]` nats that a module costs by what the opposite edge knows.
      kept: Leaves `[R, D, K, ...]`, the best known assignments with a module on a slot.
    """

    told: jax.Array
    kept: Assignments


def unknown(structure: base.Structure, num_modules: int) -> Opinions:
    """Nothing known and nothing told."""
    edge_modules, node_modules = structure
    shape = (*edge_modules.shape, num_modules)
    kept = Assignments(
        rows=jnp.broadcast_to(edge_modules[:, None, None], (*shape, shape[1])),
        node_modules=jnp.broadcast_to(node_modules[:, None, None], shape),
        energies=jnp.full(shape, UNKNOWN),
    )
    return Opinions(jnp.zeros(shape), kept)


def heard(probabilities: jax.Array, told: jax.Array) -> jax.Array:
    """A prior for decoding the edges of a receiver, after what it was told, `[D, K]`.

    Two modules of probabilities p and 1 - p cost half of p / (1 - p) less its inverse
    there (`decoding`); with odds of exp(arsinh(u)) that is u nats.
    """
    return jax.nn.softmax(jnp.log(probabilities) - jnp.arcsinh(told), axis=-1)


def single_changes(row: jax.Array, mask: jax.Array, num_modules: int) -> jax.Array:
    """Assignments that differ from a row `[D]` at one real slot, `[D (K - 1), D]`."""
    slots = np.repeat(np.arange(len(row)), num_modules - 1)
    shifts = np.tile(np.arange(1, num_modules, dtype=np.int32), len(row))
    is_changed = (slots[:, None] == np.arange(len(row))[None]) & mask[None]
    changed = (row[None] + shifts[:, None]) % num_modules
    return jnp.where(is_changed, changed, row[None])


def pair_costs(
    energy: base.Energy,
    structure: base.Structure,
    at: Opposites,
    receiver: jax.Array,
    num_modules: int,
) -> jax.Array:
    """What the prior charges for modules of an edge and of its opposite, `[D, K, K]`.

    All other edges are as in the structure: exact for priors that add up over pairs.
    """
    modules = jnp.arange(num_modules)

    def of_slot(slot):
        opposite = at.receivers[receiver, slot], at.slots[receiver, slot]

        def cost(own, other):
            edges = writes.put(structure.edge_modules, (receiver, slot), own)
            edges = writes.put(edges, opposite, other)
            return energy.prior(structure._replace(edge_modules=edges))

        costs = jax.vmap(jax.vmap(cost, (None, 0)), (0, None))(modules, modules)
        return jnp.nan_to_num(costs - jnp.min(costs), nan=0.0, posinf=_CERTAIN)

    # Slot after slot: a structure for each of them at once would be large.
    return jax.lax.map(of_slot, jnp.arange(structure.edge_modules.shape[1]))


def consider(
    opinions: Opinions,
    at: Opposites,
    receiver: jax.Array,
    found: Assignments,
    costs: jax.Array,
) -> tuple[Opinions, Assignments, jax.Array]:
    """A receiver looks at assignments, keeps the best, and tells its senders.

    Args:
      opinions: Of all receivers.
      at: The opposite edges.
      receiver: `()`.
      found: Its assignments, leaves `[n, ...]`.
      costs: See `pair_costs`.

    Returns:
      The opinions after that; the assignments found and those kept before, leaves
      `[U, ...]`; and `[U]` their energies with what the receiver had been told.
    """
    told, is_pair = opinions.told[receiver], at.is_pair[receiver]
    num_slots, num_modules = told.shape
    before = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]),
        evaluation.take(opinions.kept, receiver),
    )
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), found, before)
    is_there = every.rows[..., None] == jnp.arange(num_modules)[None, None]
    is_heard = is_there & is_pair[None, :, None]
    added = jnp.sum(jnp.where(is_heard, told[None], 0.0), axis=(1, 2))
    believed = every.energies + added
    of_module = jnp.where(is_there, believed[:, None, None], UNKNOWN)
    best, lowest = jnp.argmin(of_module, axis=0), jnp.min(of_module, axis=0)
    kept = evaluation.take(every, best)
    energies = jnp.where(lowest < UNKNOWN, kept.energies, UNKNOWN)
    kept = kept._replace(energies=energies)

    own = lowest - told
    own = jnp.minimum(own - jnp.min(own, axis=-1, keepdims=True), _CERTAIN)
    new = jnp.min(own[..., None] + costs, axis=1)
    new = new - jnp.min(new, axis=-1, keepdims=True)
    # Of every slot of all receivers, which edge of this one is its opposite.
    places = (at.receivers[receiver], at.slots[receiver])
    places = jnp.where(is_pair, places[0] * num_slots + places[1], -1)
    is_told = places[None] == jnp.arange(at.slots.size)[:, None]
    after = jnp.where(
        jnp.any(is_told, axis=1)[:, None],
        new[jnp.argmax(is_told, axis=1)],
        opinions.told.reshape(-1, num_modules),
    ).reshape(opinions.told.shape)
    opinions = Opinions(
        told=after,
        kept=jax.tree.map(
            lambda leaf, new: writes.put(leaf, (receiver,), new), opinions.kept, kept
        ),
    )
    return opinions, every, believed
