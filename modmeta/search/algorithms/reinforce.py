"""REINFORCE: a policy over structures that learns from the energies of its samples.

The policy is an independent categorical distribution per edge, started at the learned
proposals. It descends the variational free energy E_q[energy] - T H(q), whose minimum
over all distributions is the Boltzmann distribution, by the score-function gradient
(Williams 1992). A receiver's modules are credited with its own energy and the prior
alone, where the energy is local, against a moving average of the same; the gradient of
the entropy H is exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modmeta.search import base, checks, evaluation, factorised


class PolicyMemory(NamedTuple):
    """The policy and its optimiser.

    Attributes:
      logits: The policy.
      optimizer: State of the optimiser.
      baseline: `[R]` moving average of the costs that receivers are credited with.
    """

    logits: factorised.Logits
    optimizer: Any
    baseline: jax.Array


def credited_costs(
    energy: base.Energy, local_energies: jax.Array, total: jax.Array
) -> jax.Array:
    """What each receiver's modules are to blame for, `[..., R]`.

    Its own energy and the prior if the energy is local, else the total.

    Args:
      energy: The energy.
      local_energies: `[..., R]`.
      total: `[...]` with the prior.
    """
    if not energy.is_local:
        return jnp.broadcast_to(total[..., None], local_energies.shape)
    if energy.prior is base.no_prior:
        return local_energies
    prior = total - jnp.sum(local_energies, axis=-1)
    return local_energies + prior[..., None]


def free_energy_gradient(
    logits: factorised.Logits,
    structures: base.Structure,
    costs: jax.Array,
    baseline: jax.Array,
    slot_mask: jax.Array,
    temperature: jax.Array,
) -> factorised.Logits:
    """Unbiased estimate of the gradient of E_q[energy] - T H(q).

    Args:
      logits: The policy q.
      structures: S draws from it, leaves `[S, ...]`.
      costs: `[S, R]`, see `credited_costs`.
      baseline: `[R]`, must not depend on the draws.
      slot_mask: `[R, D]` true at slots that hold an edge.
      temperature: T, in the unit of the energy.

    Returns:
      The gradient, shaped as the logits.
    """

    def surrogate(logits):
        scores = jax.vmap(
            lambda structure: factorised.log_probabilities(logits, structure, slot_mask)
        )(structures)
        credit = jnp.mean(jnp.sum((costs - baseline[None]) * scores, axis=1))
        return credit - temperature * factorised.entropy(logits, slot_mask)

    return jax.grad(surrogate)(logits)


def reinforce(
    *,
    num_samples: int = 8,
    learning_rate: float = 0.1,
    baseline_decay: float = 0.9,
    uniform_fraction: float = 0.5,
    num_node_modules: int = 1,
) -> base.SearchAlgorithm:
    """REINFORCE as `SearchAlgorithm(init, step)`.

    The state's present structure is the last draw from the policy that had a finite
    energy. A step costs `num_samples` proposals at all receivers. A cost that is not
    finite counts as the worst finite one of its step.

    Args:
      num_samples: Draws from the policy per step.
      learning_rate: Of Adam on the logits.
      baseline_decay: Of the moving average of every receiver's costs.
      uniform_fraction: The policy starts at the learned probabilities of the edges,
        blended with this share of the uniform ones.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a number is out of its range.
    """
    checks.at_least(1, num_samples=num_samples, num_node_modules=num_node_modules)
    checks.share(with_one=False, baseline_decay=baseline_decay)
    checks.share(uniform_fraction=uniform_fraction)
    optimizer = optax.adam(learning_rate)

    def init(structure, energy, candidates):
        state = base.init(structure, energy, candidates)
        logits = factorised.initial(candidates, uniform_fraction, num_node_modules)
        costs = credited_costs(energy, state.local_energies, state.energy)
        baseline = jnp.where(jnp.isfinite(costs), costs, 0.0)
        memory = PolicyMemory(logits, optimizer.init(logits), baseline)
        return state._replace(memory=memory)

    def step(rng_key, state, energy, candidates, temperature):
        memory = state.memory

        def sample(key):
            structure = factorised.draw(
                key, memory.logits, state.structure, candidates.slot_mask
            )
            return evaluation.evaluate_fully(energy, structure)

        samples = jax.vmap(sample)(jax.random.split(rng_key, num_samples))
        costs = credited_costs(energy, samples.local_energies, samples.energy)
        has_costs = jnp.any(jnp.isfinite(costs), axis=0)
        costs = evaluation.bounded(costs)
        # Without a finite cost there is nothing to learn: the baseline cancels it.
        costs = jnp.where(has_costs[None], costs, memory.baseline[None])
        gradient = free_energy_gradient(
            memory.logits,
            samples.structure,
            costs,
            memory.baseline,
            candidates.slot_mask,
            temperature,
        )
        updates, optimizer_state = optimizer.update(gradient, memory.optimizer)
        baseline = baseline_decay * memory.baseline
        baseline = baseline + (1.0 - baseline_decay) * jnp.mean(costs, axis=0)
        proposed = evaluation.take(samples, 0)
        is_accepted = jnp.isfinite(proposed.energy)
        new_state = evaluation.advance(
            state,
            evaluation.select(is_accepted, proposed, evaluation.present(state)),
            best=evaluation.lowest(samples),
            num_proposals=num_samples,
            num_node_updates=num_samples * costs.shape[1],
            memory=PolicyMemory(
                factorised.updated(memory.logits, updates), optimizer_state, baseline
            ),
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
