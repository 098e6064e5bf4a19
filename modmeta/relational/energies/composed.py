"""Energies of the composed network, without a cache: one step, or free roll-outs.

Letters: N nodes of a super-graph or of a problem, D slots, T frames, F features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.motion import still
from modmeta.relational.modules.observations import Observations, zero_padded_nodes


def structure_energies(
    modules: BoundBank,
    supergraph: SuperGraph,
    structure: search.Structure,
    observed: Observations,
    mean_power: float = 0.0,
    is_even: bool | jax.Array = False,
) -> jax.Array:
    """One-step energies of all nodes.

    The differentiable path: only the messages of the chosen modules reach the loss.

    Args:
      modules: The bank with its arrays.
      supergraph: Connectivity of the batch.
      structure: Modules of all N nodes.
      observed: Observations of all nodes.
      mean_power: See `BoundBank.frame_energies`.
      is_even: See there.

    Returns:
      `[N]`, zero at padded nodes.
    """
    outputs = modules.outputs(
        structure,
        observed.motion,
        supergraph.slot_senders,
        supergraph.slot_mask,
        observed.windows,
    )
    energies = modules.frame_energies(
        outputs,
        observed.targets,
        mean_power,
        observed.weights,
        observed.unit_changes,
        is_even,
    )
    return jnp.where(supergraph.node_mask, jnp.sum(energies, axis=-1), 0.0)


@struct.dataclass
class RolloutEnergies:
    """Energies under free roll-outs of several steps (reference code, A.1).

    Frames 0, horizon, 2 horizon, ... each start a roll-out of `horizon` steps in
    parallel; every predicted frame is scored given the *predicted* frame before it,
    so that horizon 1 is the one-step energy. With the squared error, no compression
    and the static baseline this is the published loss up to its normaliser.

    Attributes:
      modules: The bank with its arrays.
      states: `[N, T + 1, F]` normalised frames.
      slot_senders: `[N, D]` node behind every slot.
      slot_mask: `[N, D]` true at real slots.
      node_mask: `[N]` true at real nodes.
      horizon: Steps per roll-out.
    """

    modules: BoundBank
    states: jax.Array
    slot_senders: jax.Array
    slot_mask: jax.Array
    node_mask: jax.Array
    horizon: int = struct.field(pytree_node=False, default=10)

    def all_nodes(self, structure: search.Structure) -> jax.Array:
        """Energies `[N]` of all nodes, zero at padded ones.

        Args:
          structure: Module of every slot `[N, D]` and node `[N]`.
        """
        modules, horizon = self.modules, self.horizon
        (states,) = zero_padded_nodes(self.node_mask, self.states)
        num_nodes, num_frames, num_features = states.shape
        num_segments = -(-(num_frames - 1) // horizon)
        missing = num_segments * horizon - (num_frames - 1)
        padded = jnp.pad(states, ((0, 0), (0, missing), (0, 0)), mode="edge")
        truth = padded[:, 1:].reshape(num_nodes, num_segments, horizon, num_features)
        is_observed = (
            jnp.arange(num_segments * horizon).reshape(num_segments, horizon)
            < num_frames - 1
        )

        def body(current, step):
            following, observed = step
            outputs = modules.outputs(
                structure, still(current), self.slot_senders, self.slot_mask
            )
            energies = modules.frame_energies(
                outputs, modules.encode(current, following)
            )
            mean, _ = modules.predict(outputs)
            predicted = modules.decode(current, mean)
            return predicted, jnp.sum(jnp.where(observed, energies, 0.0), axis=-1)

        start = padded[:, :-1:horizon]
        steps = (jnp.moveaxis(truth, 2, 0), jnp.moveaxis(is_observed, 1, 0))
        _, energies = jax.lax.scan(body, start, steps)
        return jnp.where(self.node_mask, jnp.sum(energies, axis=0), 0.0)

    def local(self, structure: search.Structure, receivers: jax.Array) -> jax.Array:
        """Energies `[r]` of some nodes; all nodes are rolled out for them."""
        return self.all_nodes(structure)[receivers]
