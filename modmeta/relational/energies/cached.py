"""Energies of structures from a message cache.

With observed frames as input, the likelihood of a structure is a sum over receivers,
and a receiver's term needs the sum of its incoming messages alone. The messages of all
K modules on all edges do not depend on the structure, so they are computed once per
parameter value, as they enter the node module (`BoundBank.projected_messages`), and
kept; a proposal then costs the node updates of the receivers it touches. Where they do
not fit, the cache holds a chunk of the receivers, or there is none:
`modmeta.relational.energies.recomputed`.

Letters: N nodes of the super-graph or of a problem, D slots, K edge modules, M node
modules, T windows whose changes are predicted, Y predicted features, H size of a
message as it enters a node module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.modules.bound_bank import BoundBank, select_module
from modmeta.relational.modules.observations import Observations


class MessageCache(NamedTuple):
    """Everything that energies of structures need, at one value of the parameters.

    Attributes:
      messages: `[N, D, K, M, T, H]` projected messages, zero at masked slots.
      embedded: `[N, M, T, H]` embedded own states.
      targets: `[N, T, Y]` encoded targets.
      node_mask: `[N]` true at real nodes.
      weights: `[N, T]` what a change counts; None where all count 1.
      unit_changes: `[N, T, Y]`, see `Observations`.
    """

    messages: jax.Array
    embedded: jax.Array
    targets: jax.Array
    node_mask: jax.Array
    weights: jax.Array | None = None
    unit_changes: jax.Array | None = None

    def observed(self, receivers: Any = slice(None)) -> tuple[Any, dict[str, Any]]:
        """Targets `[..., T, Y]` of receivers `[...]`, and how they are counted."""
        found = jax.tree.map(
            lambda leaf: leaf[receivers],
            (self.targets, self.weights, self.unit_changes),
        )
        return found[0], {"weights": found[1], "unit_changes": found[2]}


def build_cache(
    modules: BoundBank,
    supergraph: SuperGraph,
    observed: Observations,
    receivers: jax.Array | None = None,
) -> MessageCache:
    """Computes the messages of all modules on all edges of a super-graph.

    Args:
      modules: The bank with its arrays.
      supergraph: Connectivity of the batch.
      observed: Observations of all nodes.
      receivers: `[C]` nodes whose incoming messages are wanted; None for all N.

    Returns:
      The cache, with C in place of N if receivers are given.
    """
    rows = slice(None) if receivers is None else receivers
    own = observed.take(rows)
    senders = observed.take(supergraph.slot_senders[rows])
    messages = modules.projected_messages(
        senders.motion, jax.tree.map(lambda leaf: leaf[:, None], own.motion)
    )
    is_real = supergraph.slot_mask[rows][:, :, None, None, None, None]
    messages = jnp.where(is_real, messages, 0.0)
    embedded = jnp.moveaxis(modules.embed(own.motion), 0, 1)
    return MessageCache(
        messages=modules.collect(messages, own.windows),
        embedded=modules.collect(embedded, own.windows),
        targets=own.targets,
        node_mask=supergraph.node_mask[rows],
        weights=own.weights,
        unit_changes=own.unit_changes,
    )


@struct.dataclass
class CachedEnergies:
    """`ReceiverEnergies` of a problem whose messages are kept.

    Attributes:
      modules: The bank with its arrays, those of the cache.
      cache: Messages of the N receivers of the problem.
    """

    modules: BoundBank
    cache: MessageCache

    def local(self, structure: search.Structure, receivers: jax.Array) -> jax.Array:
        """Energies `[r]` of some receivers, see `ReceiverEnergies`."""
        cache = self.cache
        _, num_slots, num_modules = cache.messages.shape[:3]
        flat = cache.messages.reshape(-1, *cache.messages.shape[3:])
        slots = receivers[:, None] * num_slots + jnp.arange(num_slots)[None, :]
        rows = slots * num_modules + structure.edge_modules[receivers]
        hidden = jnp.sum(flat[rows], axis=1) + cache.embedded[receivers]
        outputs = self.modules.update(jnp.moveaxis(hidden, 1, 0))
        outputs = select_module(outputs, structure.node_modules[receivers])
        targets, counted = cache.observed(receivers)
        energies = self.modules.frame_energies(outputs, targets, **counted)
        return jnp.where(cache.node_mask[receivers], jnp.sum(energies, axis=-1), 0.0)

    def relaxed(self, edge_weights: jax.Array, node_modules: jax.Array) -> jax.Array:
        """Energies `[N]` under soft assignments, see `ReceiverEnergies`."""
        cache = self.cache
        hidden = jnp.einsum("ndk,ndkmth->mnth", edge_weights, cache.messages)
        hidden = hidden + jnp.moveaxis(cache.embedded, 1, 0)
        outputs = select_module(self.modules.update(hidden), node_modules)
        targets, counted = cache.observed()
        energies = self.modules.frame_energies(outputs, targets, **counted)
        return jnp.where(cache.node_mask, jnp.sum(energies, axis=-1), 0.0)

    def residuals(
        self, edge_weights: jax.Array, node_module: jax.Array, receiver: jax.Array
    ) -> jax.Array:
        """Residuals `[T * Y]` of one receiver, see `ReceiverEnergies`."""
        cache = self.cache
        hidden = jnp.einsum("dk,dkmth->mth", edge_weights, cache.messages[receiver])
        outputs = self.modules.update(hidden + cache.embedded[receiver])[node_module]
        targets, counted = cache.observed(receiver)
        residuals = self.modules.residuals(outputs, targets, **counted)
        return jnp.where(cache.node_mask[receiver], residuals, 0.0).reshape(-1)

    def of_assignments(
        self,
        assignments: jax.Array,
        node_modules: jax.Array,
        mean_power: float = 0.0,
        is_even: bool | jax.Array = False,
    ) -> jax.Array:
        """Energies of every receiver under every one of A assignments of its slots.

        One matrix product forms all sums of messages: the fast, differentiable form
        of `modmeta.search.enumerate_receivers`.

        Args:
          assignments: `[A, D]`.
          node_modules: `[N]`.
          mean_power: See `BoundBank.frame_energies`.
          is_even: See there.

        Returns:
          `[N, A]`.
        """
        cache = self.cache
        one_hot = jax.nn.one_hot(assignments, cache.messages.shape[2])
        hidden = jnp.einsum("adk,ndkmth->mnath", one_hot, cache.messages)
        hidden = hidden + jnp.moveaxis(cache.embedded, 1, 0)[:, :, None]
        outputs = select_module(self.modules.update(hidden), node_modules)
        targets, counted = jax.tree.map(lambda leaf: leaf[:, None], cache.observed())
        energies = self.modules.frame_energies(
            outputs, targets, mean_power, is_even=is_even, **counted
        )
        energies = jnp.sum(energies, axis=-1)
        return jnp.where(cache.node_mask[:, None], energies, 0.0)

    def assignment_weights(
        self,
        assignments: jax.Array,
        node_modules: jax.Array,
        slot_mask: jax.Array,
        temperature: jax.Array,
    ) -> jax.Array:
        """Boltzmann weights of every assignment of every receiver.

        Assignments that differ in masked slots alone share one weight.

        Args:
          assignments: `[A, D]`.
          node_modules: `[N]`.
          slot_mask: `[N, D]` true at real slots.
          temperature: `()` nats.

        Returns:
          `[N, A]`.
        """
        energies = self.of_assignments(assignments, node_modules)
        is_set = assignments[None] > 0
        is_redundant = jnp.any(is_set & ~slot_mask[:, None], axis=-1)
        energies = jnp.where(is_redundant, jnp.inf, energies)
        return jax.nn.softmax(-energies / temperature, axis=-1)
