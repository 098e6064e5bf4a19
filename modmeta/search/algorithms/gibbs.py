"""Gibbs sampling: blocks of edges redrawn from their exact conditional distribution.

A step visits one receiver and redraws its incoming edges, block after block in random
order, each from exp(-energy / T) given everything else, prior included (Geman and Geman
1984; "heat bath" in physics). All values of a block are evaluated together. Nothing is
ever rejected, so learned proposals have no place here: `candidates.edge_logits` is not
used.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import assignments, base, checks, draws, evaluation


def block_values(
    block_size: int, num_modules: int, num_node_modules: int
) -> tuple[np.ndarray, np.ndarray]:
    """All values of a block of slots and a node: edges `[A, block_size]`, nodes `[A]`.

    A is `num_modules ** block_size * num_node_modules`.
    """
    edges = assignments.all_assignments(block_size, num_modules)
    nodes = np.arange(num_node_modules, dtype=np.int32)
    return np.repeat(edges, num_node_modules, axis=0), np.tile(nodes, len(edges))


def gibbs(
    *, block_size: int = 1, sweep: bool = True, num_node_modules: int = 1
) -> base.SearchAlgorithm:
    """Gibbs sampling as `SearchAlgorithm(init, step)`.

    A block costs K ** block_size * M proposals, a step `ceil(D / block_size)` blocks
    if it sweeps. The receiver is drawn uniformly among those with incoming edges;
    masked slots keep their modules. The lowest of all values evaluated counts as best.

    Args:
      block_size: Slots redrawn together.
      sweep: Whether a step redraws all incoming edges of its receiver, or one block.
      num_node_modules: Size M of the bank of node modules; a block then contains the
        receiver's module. 1 leaves node modules as they are.

    Raises:
      ValueError: If a size is below 1; at the first step, if a block is larger than
        the number of slots or has too many values.
    """
    checks.at_least(1, block_size=block_size, num_node_modules=num_node_modules)

    def redraw(key, state, energy, candidates, temperature, receiver, slots):
        """Redraws the slots `[block_size]` of a receiver; D stands for no slot."""
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        edges, nodes = block_values(block_size, num_modules, num_node_modules)
        mask = candidates.slot_mask[receiver, jnp.minimum(slots, num_slots - 1)]
        is_real = (slots < num_slots) & mask
        targets = jnp.where(is_real, slots, num_slots)
        # Values that differ in masked slots alone count once.
        is_redundant = jnp.any((edges > 0) & ~is_real[None], axis=1)
        receivers = evaluation.touched_receivers(energy, receiver[None], num_receivers)

        def evaluate(edge_values, node_module):
            row = state.structure.edge_modules[receiver]
            row = row.at[targets].set(edge_values, mode="drop")
            if num_node_modules == 1:
                node_module = None
            return evaluation.evaluate_row(
                energy, state, receiver, receivers, row, node_module
            )

        values = jax.vmap(evaluate)(jnp.asarray(edges), jnp.asarray(nodes))
        possible = jnp.where(is_redundant, jnp.inf, values.energy)
        chosen = evaluation.draw(
            key,
            values._replace(energy=possible),
            temperature,
            evaluation.present(state),
        )
        return evaluation.advance(
            state,
            chosen,
            best=evaluation.lowest(values),
            num_proposals=len(edges),
            num_node_updates=len(edges) * receivers.shape[0],
        )

    def step(rng_key, state, energy, candidates, temperature):
        _, num_slots, _ = candidates.edge_logits.shape
        if block_size > num_slots:
            raise ValueError(
                f"block_size: found {block_size}, expected at most the number of "
                f"slots, {num_slots}"
            )
        key_receiver, key_order, key_draw = jax.random.split(rng_key, 3)
        has_edges = jnp.any(candidates.slot_mask, axis=1)
        receiver = draws.uniform_index(key_receiver, has_edges)
        # Real slots come first, in random order: the first block always has one.
        rank = jax.random.uniform(key_order, (num_slots,))
        order = jnp.argsort(rank + ~candidates.slot_mask[receiver])
        num_blocks = -(-num_slots // block_size)
        missing = num_blocks * block_size - num_slots
        blocks = jnp.pad(order, (0, missing), constant_values=num_slots)
        blocks = blocks.reshape(num_blocks, block_size)
        if not sweep:
            blocks = blocks[:1]

        def body(new_state, item):
            key, slots = item
            return redraw(
                key, new_state, energy, candidates, temperature, receiver, slots
            ), None

        keys = jax.random.split(key_draw, blocks.shape[0])
        new_state, _ = jax.lax.scan(body, state, (keys, blocks))
        return new_state, evaluation.drawn_info(state, new_state, temperature)

    return base.SearchAlgorithm(base.init, step)
