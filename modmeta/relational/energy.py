"""Energies of structures: the message cache, free roll-outs, and structural priors.

With observed frames as input, the likelihood of a structure is a sum over receivers,
and a receiver's term needs the sum of its incoming messages alone. The messages of all
K modules on all edges do not depend on the structure, so they are computed once per
parameter value, as they enter the node module (`ModuleBank.projected_messages`), and
kept; a proposal then costs the node updates of the receivers it touches. Where they do
not fit, the cache holds a chunk of the receivers, or there is none:
`modmeta.relational.recompute`.

Letters: N nodes of the super-graph, D slots, K edge modules, M node modules, T frames
that are predicted, F features, Y predicted features, H size of a message as it enters
a node module; S systems of R nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.relational.modules import ModuleBank, ModuleParams, select_module
from modmeta.relational.preprocessing import (
    Preprocessing,
    decode_targets,
    encode_targets,
)
from modmeta.supergraphs import SuperGraph


class MessageCache(NamedTuple):
    """Everything that energies of structures need, at one value of the parameters.

    Attributes:
      messages: `[N, D, K, M, T, H]` projected messages, zero at masked slots.
      embedded: `[N, M, T, H]` embedded own states.
      targets: `[N, T, Y]` encoded targets.
      node_mask: `[N]` true at real nodes.
    """

    messages: jax.Array
    embedded: jax.Array
    targets: jax.Array
    node_mask: jax.Array


def zero_padded_nodes(
    node_mask: jax.Array, *states: jax.Array
) -> tuple[jax.Array, ...]:
    """Zeros at padded nodes: their NaN times a mask of 0 would still be NaN."""
    return tuple(jnp.where(node_mask[:, None, None], s, 0.0) for s in states)


def build_cache(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    supergraph: SuperGraph,
    states: jax.Array,
    next_states: jax.Array,
    receivers: jax.Array | None = None,
) -> MessageCache:
    """Computes the messages of all modules on all edges of a super-graph.

    Args:
      bank: The bank.
      params: Its parameters.
      preprocessing: Fitted constants.
      supergraph: Connectivity of the batch.
      states: `[N, T, F]` normalised input frames.
      next_states: `[N, T, F]` the frames that follow them.
      receivers: `[C]` nodes whose incoming messages are wanted; None for all N.

    Returns:
      The cache, with C in place of N if receivers are given.
    """
    states, next_states = zero_padded_nodes(supergraph.node_mask, states, next_states)
    rows = slice(None) if receivers is None else receivers
    own = states[rows]
    messages = bank.projected_messages(
        params, preprocessing, states[supergraph.slot_senders[rows]], own[:, None]
    )
    is_real = supergraph.slot_mask[rows][:, :, None, None, None, None]
    return MessageCache(
        messages=jnp.where(is_real, messages, 0.0),
        embedded=jnp.moveaxis(bank.embed(params, own), 0, 1),
        targets=encode_targets(preprocessing, bank.layout, own, next_states[rows]),
        node_mask=supergraph.node_mask[rows],
    )


def cached_energies(
    bank: ModuleBank,
    params: ModuleParams,
    cache: MessageCache,
    structure: search.Structure,
    receivers: jax.Array,
) -> jax.Array:
    """Energies of some receivers under a structure, one node update each.

    Args:
      bank: The bank.
      params: Its parameters, those of the cache.
      cache: Messages of the problem.
      structure: Modules of all N receivers of the problem.
      receivers: `[r]` receivers to evaluate.

    Returns:
      `[r]`, zero at padded receivers.
    """
    _, num_slots, num_modules = cache.messages.shape[:3]
    flat = cache.messages.reshape(-1, *cache.messages.shape[3:])
    slots = receivers[:, None] * num_slots + jnp.arange(num_slots)[None, :]
    rows = slots * num_modules + structure.edge_modules[receivers]
    hidden = jnp.sum(flat[rows], axis=1) + cache.embedded[receivers]
    outputs = bank.update(params, jnp.moveaxis(hidden, 1, 0))
    outputs = select_module(outputs, structure.node_modules[receivers])
    energies = bank.frame_energies(params, outputs, cache.targets[receivers])
    return jnp.where(cache.node_mask[receivers], jnp.sum(energies, axis=-1), 0.0)


def relaxed_energies(
    bank: ModuleBank,
    params: ModuleParams,
    cache: MessageCache,
    edge_weights: jax.Array,
    node_modules: jax.Array,
) -> jax.Array:
    """Energies of all receivers under soft assignments of their edges.

    A receiver sums the messages of all modules, weighted: with one-hot weights this is
    `cached_energies`, and it is differentiable in the weights.

    Args:
      bank: The bank.
      params: Its parameters, those of the cache.
      cache: Messages of the problem.
      edge_weights: `[N, D, K]`.
      node_modules: `[N]`.

    Returns:
      `[N]`, zero at padded receivers.
    """
    hidden = jnp.einsum("ndk,ndkmth->mnth", edge_weights, cache.messages)
    hidden = hidden + jnp.moveaxis(cache.embedded, 1, 0)
    outputs = select_module(bank.update(params, hidden), node_modules)
    energies = bank.frame_energies(params, outputs, cache.targets)
    return jnp.where(cache.node_mask, jnp.sum(energies, axis=-1), 0.0)


def cached_residuals(
    bank: ModuleBank,
    params: ModuleParams,
    cache: MessageCache,
    edge_weights: jax.Array,
    node_module: jax.Array,
    receiver: jax.Array,
) -> jax.Array:
    """Residuals of one receiver under soft assignments, see `ModuleBank.residuals`.

    Args:
      bank: The bank.
      params: Its parameters, those of the cache.
      cache: Messages of the problem.
      edge_weights: `[D, K]`.
      node_module: `()`.
      receiver: `()`.

    Returns:
      `[T * Y]`, zero at a padded receiver.
    """
    hidden = jnp.einsum("dk,dkmth->mth", edge_weights, cache.messages[receiver])
    outputs = bank.update(params, hidden + cache.embedded[receiver])[node_module]
    residuals = bank.residuals(params, outputs, cache.targets[receiver])
    return jnp.where(cache.node_mask[receiver], residuals, 0.0).reshape(-1)


def assignment_energies(
    bank: ModuleBank,
    params: ModuleParams,
    cache: MessageCache,
    structure: search.Structure,
    assignments: jax.Array,
) -> jax.Array:
    """Energies of every receiver under every one of A assignments of its slots.

    One matrix product forms all sums of messages: the fast, differentiable form of
    `modmeta.search.enumerate_receivers`.

    Args:
      bank: The bank.
      params: Its parameters, those of the cache.
      cache: Messages of N receivers.
      structure: Gives the node modules `[N]`.
      assignments: `[A, D]`.

    Returns:
      `[N, A]`.
    """
    one_hot = jax.nn.one_hot(assignments, cache.messages.shape[2])
    hidden = jnp.einsum("adk,ndkmth->mnath", one_hot, cache.messages)
    hidden = hidden + jnp.moveaxis(cache.embedded, 1, 0)[:, :, None]
    outputs = select_module(bank.update(params, hidden), structure.node_modules)
    energies = bank.frame_energies(params, outputs, cache.targets[:, None])
    energies = jnp.sum(energies, axis=-1)
    return jnp.where(cache.node_mask[:, None], energies, 0.0)


def assignment_weights(
    bank: ModuleBank,
    params: ModuleParams,
    cache: MessageCache,
    supergraph: SuperGraph,
    structure: search.Structure,
    assignments: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    """Boltzmann weights `[N, A]` of every assignment of every receiver.

    Assignments that differ in masked slots alone share one weight.
    """
    energies = assignment_energies(bank, params, cache, structure, assignments)
    is_set = assignments[None] > 0
    is_redundant = jnp.any(is_set & ~supergraph.slot_mask[:, None], axis=-1)
    energies = jnp.where(is_redundant, jnp.inf, energies)
    return jax.nn.softmax(-energies / temperature, axis=-1)


def structure_energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    supergraph: SuperGraph,
    structure: search.Structure,
    states: jax.Array,
    next_states: jax.Array,
) -> jax.Array:
    """One-step energies `[N]` of all nodes from the composed network, uncached.

    The differentiable path: only the messages of the chosen modules reach the loss.
    Arguments as for `build_cache`, with a structure of all N nodes.
    """
    states, next_states = zero_padded_nodes(supergraph.node_mask, states, next_states)
    outputs = bank.outputs(
        params,
        preprocessing,
        structure,
        states,
        supergraph.slot_senders,
        supergraph.slot_mask,
    )
    targets = encode_targets(preprocessing, bank.layout, states, next_states)
    energies = bank.frame_energies(params, outputs, targets)
    return jnp.where(supergraph.node_mask, jnp.sum(energies, axis=-1), 0.0)


def rollout_energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    structure: search.Structure,
    states: jax.Array,
    slot_senders: jax.Array,
    slot_mask: jax.Array,
    node_mask: jax.Array,
    *,
    horizon: int = 10,
) -> jax.Array:
    """Energies under free roll-outs of several steps (reference code, A.1).

    Frames 0, horizon, 2 horizon, ... each start a roll-out of `horizon` steps in
    parallel; every predicted frame is scored given the *predicted* frame before it,
    so that horizon 1 is the one-step energy. With the squared error, no compression
    and the static baseline this is the published loss up to its normaliser.

    Args:
      bank: The bank.
      params: Its parameters.
      preprocessing: Fitted constants.
      structure: Module of every slot `[N, D]` and node `[N]`.
      states: `[N, T + 1, F]` normalised frames.
      slot_senders: `[N, D]` node behind every slot.
      slot_mask: `[N, D]` true at real slots.
      node_mask: `[N]` true at real nodes.
      horizon: Steps per roll-out.

    Returns:
      `[N]`, zero at padded nodes.
    """
    (states,) = zero_padded_nodes(node_mask, states)
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
        outputs = bank.outputs(
            params, preprocessing, structure, current, slot_senders, slot_mask
        )
        targets = encode_targets(preprocessing, bank.layout, current, following)
        energies = bank.frame_energies(params, outputs, targets)
        mean, _ = bank.predict(params, outputs)
        predicted = decode_targets(preprocessing, bank.layout, current, mean)
        return predicted, jnp.sum(jnp.where(observed, energies, 0.0), axis=-1)

    start = padded[:, :-1:horizon]
    steps = (jnp.moveaxis(truth, 2, 0), jnp.moveaxis(is_observed, 1, 0))
    _, energies = jax.lax.scan(body, start, steps)
    return jnp.where(node_mask, jnp.sum(energies, axis=0), 0.0)


def symmetric_prior(
    candidates: search.Candidates, weight: float
) -> Callable[[search.Structure], jax.Array]:
    """A prior that charges `weight` nats for every pair whose two edges differ.

    Args:
      candidates: Slots of one system, with the tables of opposite edges.
      weight: Nats per disagreeing pair; a large weight makes the graph undirected.

    Returns:
      `structure -> ()`.
    """
    is_pair, slots = _opposite_edges(candidates)

    def prior(structure: search.Structure) -> jax.Array:
        opposite = structure.edge_modules[candidates.sender_receivers, slots]
        differs = is_pair & (opposite != structure.edge_modules)
        return 0.5 * weight * jnp.sum(differs)

    return prior


def relaxed_symmetric_prior(
    candidates: search.Candidates, weight: float
) -> Callable[[jax.Array], jax.Array]:
    """`symmetric_prior` of soft assignments: `edge_weights [R, D, K] -> ()`.

    Its expectation if edges are drawn independently with these probabilities.
    """
    is_pair, slots = _opposite_edges(candidates)

    def prior(edge_weights: jax.Array) -> jax.Array:
        opposite = edge_weights[candidates.sender_receivers, slots]
        agreement = jnp.sum(edge_weights * opposite, axis=-1)
        return 0.5 * weight * jnp.sum(jnp.where(is_pair, 1.0 - agreement, 0.0))

    return prior


def _opposite_edges(candidates: search.Candidates) -> tuple[jax.Array, jax.Array]:
    """Whether a slot's edge has an opposite, and its slot at the sender: `[R, D]`."""
    num_slots = candidates.slot_mask.shape[1]
    is_pair = candidates.slot_mask & (candidates.reverse_slots < num_slots)
    return is_pair, jnp.minimum(candidates.reverse_slots, num_slots - 1)


def receiver_problems(tree: Any) -> Any:
    """Splits leaves `[N, ...]` into N problems of one receiver, `[N, 1, ...]`.

    Without a prior that couples them, receivers are independent given the cache, and
    all of them move at once: N chains in place of one.
    """
    return jax.tree.map(lambda leaf: leaf[:, None], tree)


def system_problems(supergraph: SuperGraph, tree: Any) -> Any:
    """Splits leaves `[N, ...]` into systems, `[S, R, ...]`; padding is repeated."""
    return jax.tree.map(lambda leaf: leaf[supergraph.system_nodes], tree)


def receiver_candidates(
    supergraph: SuperGraph, edge_logits: jax.Array, receivers: jax.Array | None = None
) -> search.Candidates:
    """Candidates of `receiver_problems`: leaves `[N, 1, D, ...]`, or `[C, 1, ...]`."""
    candidates = search.Candidates(supergraph.slot_mask, edge_logits)
    if receivers is not None:
        candidates = jax.tree.map(lambda leaf: leaf[receivers], candidates)
    return receiver_problems(candidates)


def system_candidates(
    supergraph: SuperGraph, edge_logits: jax.Array
) -> search.Candidates:
    """Candidates of `system_problems`: leaves `[S, R, D, ...]`."""
    candidates = system_problems(
        supergraph,
        search.Candidates(
            supergraph.slot_mask,
            edge_logits,
            supergraph.reverse_slots,
            supergraph.slot_entities,
        ),
    )
    mask = candidates.slot_mask & supergraph.system_mask[..., None]
    return candidates._replace(
        slot_mask=mask,
        sender_receivers=jnp.where(mask, candidates.sender_receivers, 0),
    )
