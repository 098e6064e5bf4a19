"""Distributions over structures in which every edge and node is independent.

The policy of REINFORCE, the approximation of mean-field, and random restarts.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from modmeta.search import base, proposals


class Logits(NamedTuple):
    """Logits of the modules.

    Attributes:
      edges: `[R, D, K]`.
      nodes: `[R, M]`; with M = 1 node modules are not drawn but left as they are.
    """

    edges: jax.Array
    nodes: jax.Array


def initial(
    candidates: base.Candidates, uniform_fraction: float, num_node_modules: int = 1
) -> Logits:
    """Learned probabilities of edges blended with uniform ones; uniform for nodes."""
    edges = proposals.edge_log_probabilities(candidates, uniform_fraction)
    return Logits(edges, jnp.zeros((edges.shape[0], num_node_modules)))


def draw(
    rng_key: jax.Array,
    logits: Logits,
    structure: base.Structure,
    slot_mask: jax.Array,
) -> base.Structure:
    """Draws a structure; consumes the key. Masked slots are those of `structure`."""
    key_edges, key_nodes = jax.random.split(rng_key)
    edges = jax.random.categorical(key_edges, logits.edges).astype(jnp.int32)
    edges = jnp.where(slot_mask, edges, structure.edge_modules)
    nodes = structure.node_modules
    if logits.nodes.shape[1] > 1:
        nodes = jax.random.categorical(key_nodes, logits.nodes).astype(jnp.int32)
    return base.Structure(edges, nodes)


def log_probabilities(
    logits: Logits, structure: base.Structure, slot_mask: jax.Array
) -> jax.Array:
    """Log-probability `[R]` of every receiver's modules, masked slots excepted."""

    def chosen(logits, modules):
        values = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(values, modules[..., None], axis=-1)[..., 0]

    edges = chosen(logits.edges, structure.edge_modules)
    total = jnp.sum(jnp.where(slot_mask, edges, 0.0), axis=1)
    if logits.nodes.shape[1] > 1:
        total = total + chosen(logits.nodes, structure.node_modules)
    return total


def updated(logits: Logits, updates: optax.Updates) -> Logits:
    """The logits after a step of an optimiser."""
    return cast(Logits, optax.apply_updates(logits, updates))


def entropy(logits: Logits, slot_mask: jax.Array) -> jax.Array:
    """Entropy `()` of the distribution in nats, masked slots excepted."""

    def of(logits):
        values = jax.nn.log_softmax(logits)
        return -jnp.sum(jnp.exp(values) * values, axis=-1)

    return jnp.sum(jnp.where(slot_mask, of(logits.edges), 0.0)) + jnp.sum(
        of(logits.nodes)
    )
