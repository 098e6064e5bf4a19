"""What the modules themselves say of every edge, without a search.

The residuals of a receiver are nearly linear in its edges (`BoundBank.residuals`), so
least squares over edges of any weight tells which of them stand out, and how surely.
The proposal head learns from the search how far that can be believed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.observations import (
    observe,
    receiver_slots,
    weighted_residuals,
)
from modmeta.relational.modules.preprocessing import compressed
from modmeta.search import decoding

Residuals = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# Receivers whose messages are held at once.
CHUNK = 64


def num_evidence_features(num_relations: int) -> int:
    """Features per edge for K modules."""
    return 4 * num_relations + 1


def evidence_order(order: np.ndarray) -> np.ndarray:
    """Features of `edge_evidence` with the modules in another order `[K]`, as indices.

    They are four numbers of every module, then one of the edge.
    """
    size = len(order)
    return np.concatenate([order + block * size for block in range(4)] + [[4 * size]])


def edge_evidence(
    modules: BoundBank,
    supergraph: SuperGraph,
    states: Frames | jax.Array,
    residuals: Residuals | None = None,
) -> jax.Array:
    """Features of the least-squares weights of the modules on every edge.

    Of several node modules, the one that leaves least counts.

    Args:
      modules: The bank with its arrays.
      supergraph: Connectivity of the batch.
      states: `[N, T, F]` normalised frames, or `Frames` with leaves `[N, T, ...]`.
      residuals: Where messages are kept, `ReceiverEnergies.residuals` of all N nodes;
        None computes the messages of one receiver after the other.

    Returns:
      `[N, D, num_evidence_features(K)]`: means, logarithms of standard deviations,
      distances from the uniform weights in one and two powers of the standard
      deviation, and the logarithm of the misfit; zeros at masked slots.
    """
    config = modules.bank.config
    num_modules = config.num_relations
    num_slots = supergraph.slot_mask.shape[1]
    slots = receiver_slots(supergraph)
    uniform = jnp.full((num_slots, num_modules), 1.0 / num_modules)
    if residuals is None:
        observed = observe(modules, supergraph, states)

        def residuals(edge_weights, node_module, receiver):
            own = jax.tree.map(lambda leaf: leaf[receiver], slots)
            return weighted_residuals(modules, observed, own, edge_weights, node_module)

    def one_receiver(receiver):
        mask = slots.slot_mask[receiver]

        def under(node_module):
            def of_weights(weights):
                return residuals(weights, node_module, receiver)

            model = decoding.linear_model(of_weights, uniform, uniform, mask)
            return decoding.posterior(model)

        found = jax.vmap(under)(jnp.arange(config.num_node_modules))
        best = jax.tree.map(lambda leaf: leaf[jnp.argmin(found.misfit)], found)
        return jnp.where(mask[:, None], _features(best, uniform), 0.0)

    # Whole chunks: a shorter last one would be compiled once more by itself.
    num_nodes = len(slots.nodes)
    size = min(CHUNK, num_nodes)
    receivers = jnp.minimum(jnp.arange(-(-num_nodes // size) * size), num_nodes - 1)
    found = jax.lax.map(jax.vmap(one_receiver), receivers.reshape(-1, size))
    return found.reshape(-1, *found.shape[2:])[:num_nodes]


def _features(found: decoding.Posterior, uniform: jax.Array) -> jax.Array:
    distance = found.means - uniform
    deviation = found.deviations * found.misfit
    misfit = jnp.broadcast_to(jnp.log(found.misfit), (len(uniform), 1))
    return jnp.concatenate(
        [
            compressed(found.means),
            jnp.log(found.deviations),
            compressed(distance / deviation),
            compressed(distance / jnp.square(deviation)),
            misfit,
        ],
        axis=-1,
    )
