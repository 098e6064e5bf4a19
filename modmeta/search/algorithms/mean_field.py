"""Mean-field: the independent distribution nearest to the Boltzmann distribution.

Coordinate ascent on E_q[energy] - T H(q), in which the best distribution of one edge
given all others is q(k) proportional to exp(-E[energy | edge has module k] / T) (Saul
et al. 1996). The expectation is taken over all modules of the edge and the receiver's
node, over draws of the receiver's other edges, and at the present structure of the
other receivers, which is itself a draw. Updates are damped, so that draws of several
steps are averaged.

What is exact: where the energy is a sum over edges, q converges to the Boltzmann
distribution itself, whatever is drawn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta.search import base, checks, draws, evaluation, factorised, writes


def mean_field(
    *,
    num_samples: int = 4,
    damping: float = 0.5,
    uniform_fraction: float = 0.5,
    num_node_modules: int = 1,
) -> base.SearchAlgorithm:
    """Mean-field as `SearchAlgorithm(init, step)`.

    A step updates one edge of one receiver, both drawn uniformly (and the receiver's
    node module, if there are several); it costs `num_samples * K * M` proposals at one
    receiver. The state's memory is the `factorised.Logits` of q; the updated receiver
    of its present structure is a draw from q if that has a finite energy. An energy
    that is not finite counts as the worst finite one of its step.

    Args:
      num_samples: Draws of the receiver's other edges per step.
      damping: Share of the old logits in the new ones; 0 for none.
      uniform_fraction: q starts at the learned probabilities of the edges, blended
        with this share of the uniform ones.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a number is out of its range.
    """
    checks.at_least(1, num_samples=num_samples, num_node_modules=num_node_modules)
    checks.share(with_one=False, damping=damping)
    checks.share(uniform_fraction=uniform_fraction)

    def init(structure, energy, candidates):
        state = base.init(structure, energy, candidates)
        logits = factorised.initial(candidates, uniform_fraction, num_node_modules)
        return state._replace(memory=logits)

    def step(rng_key, state, energy, candidates, temperature):
        num_receivers, _, num_modules = candidates.edge_logits.shape
        key_receiver, key_slot, key_rows, key_edge, key_node = jax.random.split(
            rng_key, 5
        )
        mask = candidates.slot_mask
        receiver = draws.uniform_index(key_receiver, jnp.any(mask, axis=1))
        slot = draws.uniform_index(key_slot, mask[receiver])
        is_real = mask[receiver, slot]
        logits = state.memory
        receivers = evaluation.touched_receivers(energy, receiver[None], num_receivers)

        def evaluate(row, module, node_module):
            row = writes.put(row, (slot,), jnp.where(is_real, module, row[slot]))
            if num_node_modules == 1:
                node_module = None
            return evaluation.evaluate_row(
                energy, state, receiver, receivers, row, node_module
            )

        rows = jax.random.categorical(
            key_rows, logits.edges[receiver], shape=(num_samples, mask.shape[1])
        ).astype(jnp.int32)
        present = state.structure.edge_modules[receiver]
        rows = jnp.where(mask[receiver][None], rows, present[None])
        samples, modules, nodes = jnp.meshgrid(
            jnp.arange(num_samples),
            jnp.arange(num_modules, dtype=jnp.int32),
            jnp.arange(num_node_modules, dtype=jnp.int32),
            indexing="ij",
        )
        values = jax.vmap(evaluate)(
            rows[samples.ravel()], modules.ravel(), nodes.ravel()
        )
        # Only differences count; without the common part they keep their digits.
        energies = evaluation.bounded(values.energy)
        energies = jnp.mean(
            (energies - jnp.min(energies)).reshape(samples.shape), axis=0
        )
        edge_weights = jax.nn.softmax(logits.edges[receiver, slot])
        node_weights = jax.nn.softmax(logits.nodes[receiver])

        def damped(old, costs, is_updated):
            new = (
                damping * jax.nn.log_softmax(old)
                - (1.0 - damping) * costs / temperature
            )
            return jnp.where(is_updated, jax.nn.log_softmax(new), old)

        is_informed = jnp.any(jnp.isfinite(values.energy))
        edge_logits = damped(
            logits.edges[receiver, slot], energies @ node_weights, is_informed & is_real
        )
        node_logits = damped(
            logits.nodes[receiver], edge_weights @ energies, is_informed
        )
        logits = factorised.Logits(
            writes.put(logits.edges, (receiver, slot), edge_logits),
            writes.put(logits.nodes, (receiver,), node_logits),
        )
        module = jax.random.categorical(key_edge, edge_logits)
        node_module = jax.random.categorical(key_node, node_logits)
        drawn = module * num_node_modules + node_module  # of the first row
        proposed = evaluation.take(values, drawn)
        is_accepted = jnp.isfinite(proposed.energy)
        new_state = evaluation.advance(
            state,
            evaluation.select(is_accepted, proposed, evaluation.present(state)),
            best=evaluation.lowest(values),
            num_proposals=samples.size,
            num_node_updates=samples.size * receivers.shape[0],
            memory=logits,
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
