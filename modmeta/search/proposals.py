"""Moves through the space of structures, uniform or guided by learned probabilities.

Every builder returns a `ProposalFunction` with the exact log-ratio of its move, so
that any of them, and any `mixture` of them, samples the same distribution.

A move ignores the learned probabilities with probability u = `uniform_fraction`, as a
whole: had every edge its share of chance, all the edges of a large system would hardly
ever be drawn right at once. Any u > 0 keeps every structure reachable whatever the
learned probabilities are (Alet et al. 2019, section 4, use u = 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from modmeta.search import base, checks, draws, writes


def edge_log_probabilities(
    candidates: base.Candidates, uniform_fraction: float
) -> jax.Array:
    """Log of (1 - u) p + u / K for the learned probabilities p, `[R, D, K]`."""
    num_modules = candidates.edge_logits.shape[-1]
    if uniform_fraction == 1.0:
        return jnp.full_like(candidates.edge_logits, -jnp.log(float(num_modules)))
    log_probabilities = jax.nn.log_softmax(candidates.edge_logits, axis=-1)
    if uniform_fraction == 0.0:
        return log_probabilities
    return jnp.logaddexp(
        jnp.log1p(-uniform_fraction) + log_probabilities,
        jnp.log(uniform_fraction / num_modules),
    )


def _drawn_log_probabilities(
    uniform: jax.Array, candidates: base.Candidates, uniform_fraction: float
) -> jax.Array:
    """Log-probabilities `[R, D, K]` that a move follows: learned ones, or uniform.

    Which ones does not depend on the structure, so that each kind keeps its own
    log-ratio: see `mixture`.
    """
    if uniform_fraction in (0.0, 1.0):
        return edge_log_probabilities(candidates, uniform_fraction)
    learned, even = (edge_log_probabilities(candidates, u) for u in (0.0, 1.0))
    return jnp.where(uniform < uniform_fraction, even, learned)


def _chosen(log_probabilities: jax.Array, modules: jax.Array) -> jax.Array:
    return jnp.take_along_axis(log_probabilities, modules[..., None], axis=-1)[..., 0]


def flip_edge(*, uniform_fraction: float = 1.0) -> base.ProposalFunction:
    """Changes the module of one edge.

    The pair (edge, new module) is drawn from the probabilities of all pairs but the
    present ones, normalised over all edges (the edge flip of the reference).

    Args:
      uniform_fraction: Share of the moves that ignore the logits.

    Raises:
      ValueError: If that is no share.
    """
    checks.share(uniform_fraction=uniform_fraction)

    def propose(rng_key, structure, candidates):
        num_modules = candidates.edge_logits.shape[-1]
        shape = candidates.edge_logits.shape
        kind, choice = draws.uniforms(rng_key, (), (math.prod(shape),))
        log_probabilities = _drawn_log_probabilities(kind, candidates, uniform_fraction)

        def flip_weights(edge_modules):
            present = jax.nn.one_hot(edge_modules, num_modules, dtype=bool)
            allowed = candidates.slot_mask[..., None] & ~present
            return jnp.where(allowed, log_probabilities, -jnp.inf)

        forward = flip_weights(structure.edge_modules)
        chosen = draws.categorical(choice, forward.reshape(-1))
        receiver, slot, module = jnp.unravel_index(chosen, forward.shape)
        before = structure.edge_modules[receiver, slot]
        has_edges = jnp.any(candidates.slot_mask)
        edge_modules = writes.put(
            structure.edge_modules,
            (receiver, slot),
            jnp.where(has_edges, module.astype(jnp.int32), before),
        )
        backward = flip_weights(edge_modules)
        log_forward = forward[receiver, slot, module] - jax.nn.logsumexp(forward)
        log_backward = backward[receiver, slot, before] - jax.nn.logsumexp(backward)
        return base.Proposal(
            structure=base.Structure(edge_modules, structure.node_modules),
            receivers=receiver[None],
            log_ratio=jnp.where(has_edges, log_backward - log_forward, 0.0),
        )

    return propose


def redraw_node(*, uniform_fraction: float = 1.0) -> base.ProposalFunction:
    """Redraws the modules of all incoming edges of one node, independently.

    The node is drawn uniformly among those with incoming edges. The proposal may
    equal the present structure, as in the reference.

    Args:
      uniform_fraction: Share of the moves that ignore the logits.

    Raises:
      ValueError: If that is no share.
    """
    checks.share(uniform_fraction=uniform_fraction)

    def propose(rng_key, structure, candidates):
        num_receivers, *row = candidates.edge_logits.shape
        kind, node, modules = draws.uniforms(rng_key, (), (num_receivers,), tuple(row))
        log_probabilities = _drawn_log_probabilities(kind, candidates, uniform_fraction)
        receiver = draws.categorical(
            node, draws.allowed(jnp.any(candidates.slot_mask, axis=-1))
        )
        mask = candidates.slot_mask[receiver]
        drawn = draws.categorical(modules, log_probabilities[receiver])
        before = structure.edge_modules[receiver]
        drawn = jnp.where(mask, drawn.astype(jnp.int32), before)
        change = _chosen(log_probabilities[receiver], before) - _chosen(
            log_probabilities[receiver], drawn
        )
        edge_modules = writes.put(structure.edge_modules, (receiver,), drawn)
        return base.Proposal(
            structure=base.Structure(edge_modules, structure.node_modules),
            receivers=receiver[None],
            log_ratio=jnp.sum(jnp.where(mask, change, 0.0)),
        )

    return propose


def rename_modules() -> base.ProposalFunction:
    """Permutes the modules of all incoming edges of one node, as a whole.

    Where something of the node makes up for it, such as an unknown factor of all that
    it hears, edges that have one wrong name together are right to each other, and any
    of them alone would be worse with its own name. The permutation is drawn uniformly,
    and as often back, whatever the learned probabilities are.
    """

    def propose(rng_key, structure, candidates):
        num_modules = candidates.edge_logits.shape[-1]
        has_edges = jnp.any(candidates.slot_mask, axis=-1)
        node, order = draws.uniforms(rng_key, has_edges.shape, (num_modules,))
        receiver = draws.categorical(node, draws.allowed(has_edges))
        names = jnp.argsort(order).astype(jnp.int32)
        before = structure.edge_modules[receiver]
        renamed = jnp.where(candidates.slot_mask[receiver], names[before], before)
        edge_modules = writes.put(structure.edge_modules, (receiver,), renamed)
        return base.Proposal(
            structure=base.Structure(edge_modules, structure.node_modules),
            receivers=receiver[None],
            log_ratio=jnp.zeros(()),
        )

    return propose


def flip_pair(*, uniform_fraction: float = 1.0) -> base.ProposalFunction:
    """Redraws the common module of an edge and its opposite, if they agree.

    With a prior that favours symmetric structures this move crosses what single flips
    cannot; pairs that disagree are left to single flips, so mix the two. Needs
    `candidates.reverse_slots` and `candidates.sender_receivers`.

    Args:
      uniform_fraction: Share of the moves that ignore the logits.

    Raises:
      ValueError: If that is no share.
    """
    checks.share(uniform_fraction=uniform_fraction)

    def propose(rng_key, structure, candidates):
        if candidates.reverse_slots is None or candidates.sender_receivers is None:
            raise ValueError(
                "candidates: found no reverse_slots or sender_receivers, expected both "
                "(flip_pair)"
            )
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        kind, edge, choice = draws.uniforms(
            rng_key, (), (num_receivers * num_slots,), (num_modules,)
        )
        log_probabilities = _drawn_log_probabilities(kind, candidates, uniform_fraction)
        has_reverse = candidates.slot_mask & (candidates.reverse_slots < num_slots)
        chosen = draws.categorical(edge, draws.allowed(has_reverse.reshape(-1)))
        receiver, slot = jnp.unravel_index(chosen, has_reverse.shape)
        other = candidates.sender_receivers[receiver, slot]
        other_slot = jnp.minimum(
            candidates.reverse_slots[receiver, slot], num_slots - 1
        )
        before = structure.edge_modules[receiver, slot]
        agreed = structure.edge_modules[other, other_slot] == before
        # Both edges vote for the module of a pair.
        pair = jax.nn.log_softmax(
            0.5
            * (log_probabilities[receiver, slot] + log_probabilities[other, other_slot])
        )
        drawn = draws.categorical(choice, pair).astype(jnp.int32)
        usable = jnp.any(has_reverse)
        moves = usable & agreed
        edge_modules = structure.edge_modules
        after = jnp.where(moves, drawn, before)
        edge_modules = writes.put(edge_modules, (receiver, slot), after)
        after = jnp.where(moves, drawn, edge_modules[other, other_slot])
        edge_modules = writes.put(edge_modules, (other, other_slot), after)
        return base.Proposal(
            structure=base.Structure(edge_modules, structure.node_modules),
            receivers=jnp.stack([receiver, jnp.where(usable, other, receiver)]),
            log_ratio=jnp.where(moves, pair[before] - pair[drawn], 0.0),
        )

    return propose


def redraw_node_module(*, num_node_modules: int) -> base.ProposalFunction:
    """Redraws the module of one node uniformly.

    Args:
      num_node_modules: Size of the bank of node modules.

    Raises:
      ValueError: If it is empty.
    """
    checks.at_least(1, num_node_modules=num_node_modules)

    def propose(rng_key, structure, candidates):
        has_edges = jnp.any(candidates.slot_mask, axis=-1)
        node, module = draws.uniforms(rng_key, has_edges.shape, (num_node_modules,))
        receiver = draws.categorical(node, draws.allowed(has_edges))
        drawn = draws.categorical(module, jnp.zeros(num_node_modules)).astype(jnp.int32)
        node_modules = writes.put(structure.node_modules, (receiver,), drawn)
        return base.Proposal(
            structure=base.Structure(structure.edge_modules, node_modules),
            receivers=receiver[None],
            log_ratio=jnp.zeros(()),
        )

    return propose


def mixture(
    proposals: Sequence[base.ProposalFunction], weights: Sequence[float]
) -> base.ProposalFunction:
    """Draws one of several moves at every step.

    The choice does not depend on the structure, so every move may keep its own
    log-ratio and the mixture still leaves the Boltzmann distribution invariant.

    Args:
      proposals: Moves to choose from.
      weights: Their probabilities up to a constant.

    Raises:
      ValueError: If the lengths differ, there is no move, or a weight is negative.
    """
    if not proposals or len(proposals) != len(weights):
        raise ValueError(
            f"mixture: found {len(proposals)} moves and {len(weights)} weights, "
            "expected as many weights as moves, at least one of them"
        )
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"weights: found {list(weights)}, expected none below 0, some above"
        )
    if len(proposals) == 1:
        return proposals[0]
    log_weights = jnp.log(jnp.asarray(weights, jnp.float32))

    def propose(rng_key, structure, candidates):
        key_choice, key_move = jax.random.split(rng_key)
        drawn = [p(key_move, structure, candidates) for p in proposals]
        width = max(proposal.receivers.shape[0] for proposal in drawn)
        drawn = [
            proposal._replace(
                receivers=jnp.pad(
                    proposal.receivers,
                    (0, width - proposal.receivers.shape[0]),
                    mode="edge",
                )
            )
            for proposal in drawn
        ]
        choice = draws.categorical(
            jax.random.uniform(key_choice, log_weights.shape), log_weights
        )
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[choice], *drawn)

    return propose
