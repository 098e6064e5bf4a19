"""Energies without a message cache: messages are computed where a proposal needs them.

For systems whose messages do not fit into memory and whose receivers a prior couples,
so that they cannot be searched chunk by chunk either. Letters as in
`modmeta.relational.energies.cached`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from modmeta import search
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.observations import (
    Observations,
    ReceiverSlots,
    weighted_outputs,
    weighted_residuals,
)


@struct.dataclass
class RecomputedEnergies:
    """`ReceiverEnergies` of a problem, messages computed anew.

    Attributes:
      modules: The bank with its arrays.
      observed: Observations of all nodes of the super-graph.
      slots: The R receivers of the problem.
    """

    modules: BoundBank
    observed: Observations
    slots: ReceiverSlots

    def local(self, structure: search.Structure, receivers: jax.Array) -> jax.Array:
        """Energies `[r]` of some receivers, see `ReceiverEnergies`."""
        chosen = jax.nn.one_hot(
            structure.edge_modules[receivers], self.modules.bank.config.num_relations
        )
        slots = jax.tree.map(lambda leaf: leaf[receivers], self.slots)
        return self._energies(slots, chosen, structure.node_modules[receivers])

    def relaxed(self, edge_weights: jax.Array, node_modules: jax.Array) -> jax.Array:
        """Energies `[R]` under soft assignments, see `ReceiverEnergies`."""
        return self._energies(self.slots, edge_weights, node_modules)

    def residuals(
        self, edge_weights: jax.Array, node_module: jax.Array, receiver: jax.Array
    ) -> jax.Array:
        """Residuals `[T * Y]` of one receiver, see `ReceiverEnergies`."""
        slots = jax.tree.map(lambda leaf: leaf[receiver], self.slots)
        return weighted_residuals(
            self.modules, self.observed, slots, edge_weights, node_module
        )

    def _energies(
        self, slots: ReceiverSlots, edge_weights: jax.Array, node_modules: jax.Array
    ) -> jax.Array:
        """Energies `[r]` of receivers with slots `[r, D]` and weights `[r, D, K]`.

        One receiver after the other: however many there are, the messages to a single
        one are held, in the gradient too.
        """

        @jax.checkpoint
        def one_receiver(item):
            slots, weights, module = item
            outputs = weighted_outputs(self.modules, self.observed, slots, weights)
            own = self.observed.take(slots.nodes)
            energies = self.modules.frame_energies(
                outputs[module],
                own.targets,
                weights=own.weights,
                unit_changes=own.unit_changes,
            )
            return jnp.where(slots.node_mask, jnp.sum(energies), 0.0)

        return jax.lax.map(one_receiver, (slots, edge_weights, node_modules))
