"""Energies without a message cache: messages are computed where a proposal needs them.

For systems whose messages do not fit into memory and whose receivers a prior couples,
so that they cannot be searched chunk by chunk either. Letters as in
`modmeta.relational.energies.cached`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.frames import ObservedFrames, ReceiverSlots
from modmeta.relational.modules.preprocessing import Preprocessing


def recomputed_energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    structure: search.Structure,
    receivers: jax.Array,
) -> jax.Array:
    """`energy.cached_energies` without the cache.

    Args:
      bank: The bank.
      params: Its parameters.
      preprocessing: Fitted constants.
      frames: Frames of all nodes of the super-graph.
      slots: The R receivers of the problem.
      structure: Modules of the R receivers.
      receivers: `[r]` receivers to evaluate.

    Returns:
      `[r]`, zero at padded receivers.
    """
    chosen = jax.nn.one_hot(
        structure.edge_modules[receivers], bank.config.num_relations
    )
    return _energies(
        bank,
        params,
        preprocessing,
        frames,
        jax.tree.map(lambda leaf: leaf[receivers], slots),
        chosen,
        structure.node_modules[receivers],
    )


def relaxed_energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
    node_modules: jax.Array,
) -> jax.Array:
    """`energy.relaxed_energies` without the cache, differentiable in the weights.

    Args:
      bank: The bank.
      params: Its parameters.
      preprocessing: Fitted constants.
      frames: Frames of all nodes of the super-graph.
      slots: The R receivers of the problem.
      edge_weights: `[R, D, K]`.
      node_modules: `[R]`.

    Returns:
      `[R]`, zero at padded receivers.
    """
    return _energies(
        bank, params, preprocessing, frames, slots, edge_weights, node_modules
    )


def residuals(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
    node_module: jax.Array,
    receiver: jax.Array,
) -> jax.Array:
    """`energy.cached_residuals` without the cache.

    Args:
      bank: The bank.
      params: Its parameters.
      preprocessing: Fitted constants.
      frames: Frames of all nodes.
      slots: The R receivers of the problem.
      edge_weights: `[D, K]`.
      node_module: `()`.
      receiver: `()`.

    Returns:
      `[T * Y]`, zero at a padded receiver.
    """
    slots = jax.tree.map(lambda leaf: leaf[receiver], slots)
    outputs = _outputs(
        bank, params, preprocessing, frames, slots, edge_weights, node_module
    )
    found = bank.residuals(params, outputs, frames.targets[slots.nodes])
    return jnp.where(slots.node_mask, found, 0.0).reshape(-1)


def _outputs(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
    node_module: jax.Array,
) -> jax.Array:
    """Outputs `[T, outputs]` of a receiver with slots `[D]` and weights `[D, K]`."""
    own = frames.states[slots.nodes]
    messages = bank.projected_messages(
        params, preprocessing, frames.states[slots.senders], own[None]
    )
    weights = edge_weights * slots.slot_mask[:, None]
    summed = jnp.einsum("dk,dkmth->mth", weights, messages)
    return bank.update(params, summed + bank.embed(params, own))[node_module]


def _energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
    node_modules: jax.Array,
) -> jax.Array:
    """Energies `[r]` of receivers with slots `[r, D]` and weights `[r, D, K]`.

    One receiver after the other: however many there are, the messages to a single one
    are held, in the gradient too.
    """

    @jax.checkpoint
    def one_receiver(item):
        slots, weights, module = item
        outputs = _outputs(bank, params, preprocessing, frames, slots, weights, module)
        energies = bank.frame_energies(params, outputs, frames.targets[slots.nodes])
        return jnp.where(slots.node_mask, jnp.sum(energies), 0.0)

    return jax.lax.map(one_receiver, (slots, edge_weights, node_modules))
