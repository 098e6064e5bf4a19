"""A differentiable relaxation: gradients of the energy reach the logits of the edges.

Edges are drawn by the Gumbel-max trick; in the backward pass the draw is replaced by a
softmax of the perturbed logits (Jang et al. 2017 and Maddison et al. 2017: Gumbel-
softmax; hard draws with the soft gradient: their straight-through variant). The logits
descend an estimate of E_q[energy] - T H(q), biased by the relaxation. Whatever is kept
was judged by the energy itself, not by its relaxation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modmeta.search import base, checks, evaluation, factorised

NEEDS = base.EnergyTraits(relaxed=True)


class RelaxationMemory(NamedTuple):
    """The logits and their optimiser.

    Attributes:
      logits: Of the edges; node modules are held fixed.
      optimizer: State of the optimiser.
    """

    logits: factorised.Logits
    optimizer: Any


def straight_through(
    *,
    num_samples: int = 4,
    learning_rate: float = 0.1,
    softmax_temperature: float = 1.0,
    hard: bool = True,
    uniform_fraction: float = 0.5,
) -> base.SearchAlgorithm:
    """Descent through the relaxation as `SearchAlgorithm(init, step)`.

    The state's present structure is the last draw that had a finite energy; node
    modules stay as they are. A step costs `2 * num_samples` proposals at all receivers:
    every draw is evaluated once relaxed and once as a structure. Gradients that are not
    finite are set to zero.

    Args:
      num_samples: Draws per step.
      learning_rate: Of Adam on the logits.
      softmax_temperature: Of the relaxed draws; low values are closer to one-hot and
        have gradients of higher variance.
      hard: Whether the relaxed energy sees one-hot draws (straight-through) or soft
        ones (Gumbel-softmax).
      uniform_fraction: The logits start at the learned probabilities of the edges,
        blended with this share of the uniform ones.

    Raises:
      ValueError: If a number is out of its range; at `init` and `step`, if the energy
        has no relaxation.
    """
    checks.at_least(1, num_samples=num_samples)
    checks.positive(softmax_temperature=softmax_temperature)
    checks.share(uniform_fraction=uniform_fraction)
    optimizer = optax.adam(learning_rate)

    def init(structure, energy, candidates):
        base.check_traits(NEEDS, base.traits_of(energy), "straight_through")
        state = base.init(structure, energy, candidates)
        logits = factorised.initial(candidates, uniform_fraction)
        return state._replace(memory=RelaxationMemory(logits, optimizer.init(logits)))

    def step(rng_key, state, energy, candidates, temperature):
        base.check_traits(NEEDS, base.traits_of(energy), "straight_through")
        memory = state.memory
        shape = candidates.edge_logits.shape
        noise = jax.random.gumbel(rng_key, (num_samples, *shape))

        def relaxed_energy(logits, noise):
            perturbed = logits.edges + noise
            modules = jnp.argmax(perturbed, axis=-1).astype(jnp.int32)
            modules = jnp.where(
                candidates.slot_mask, modules, state.structure.edge_modules
            )
            weights = jax.nn.softmax(perturbed / softmax_temperature)
            one_hot = jax.nn.one_hot(modules, shape[-1])
            if hard:
                weights = weights + jax.lax.stop_gradient(one_hot - weights)
            weights = jnp.where(candidates.slot_mask[..., None], weights, one_hot)
            return energy.relaxed(weights, state.structure.node_modules), modules

        def free_energy(logits):
            energies, modules = jax.vmap(lambda noise: relaxed_energy(logits, noise))(
                noise
            )
            entropy = factorised.entropy(logits, candidates.slot_mask)
            return jnp.mean(energies) - temperature * entropy, modules

        gradient, modules = jax.grad(free_energy, has_aux=True)(memory.logits)
        gradient = jax.tree.map(
            lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0.0), gradient
        )
        updates, optimizer_state = optimizer.update(gradient, memory.optimizer)

        def judge(modules):
            structure = base.Structure(modules, state.structure.node_modules)
            return evaluation.evaluate_fully(energy, structure)

        samples = jax.vmap(judge)(modules)
        proposed = evaluation.take(samples, 0)
        is_accepted = jnp.isfinite(proposed.energy)
        new_state = evaluation.advance(
            state,
            evaluation.select(is_accepted, proposed, evaluation.present(state)),
            best=evaluation.lowest(samples),
            num_proposals=2 * num_samples,
            num_node_updates=2 * num_samples * shape[0],
            memory=RelaxationMemory(
                factorised.updated(memory.logits, updates), optimizer_state
            ),
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
