"""BounceGrad: annealing steps on structures alternate with gradient steps on modules.

One compiled step (Alet et al. 2019, sections 3.2 and 4; Alet et al. 2018, Modular
meta-learning): the tasks of a batch resume the structures they had at their last
visit, anneal them for some proposals, then the modules take a gradient step under the
structures found and the proposal head one towards them. No label enters.

Deviations from the reference: proposals are Metropolis-Hastings corrected (an option);
each visit makes several proposals, at every receiver at once where receivers are
independent; the temperature is in nats, because energies are; search and gradient use
random, disjoint subsets of the frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.inference import memory
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules import proposal_head
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import TaskBatch
from modmeta.relational.tasks.states import gather_states
from modmeta.relational.tasks.structures import (
    TaskStructures,
    gather_structure,
    random_structures,
    scatter_structure,
)
from modmeta.relational.training.config import BounceGradConfig
from modmeta.relational.training.losses import gradient_loss, split_frames
from modmeta.search import schedules


class BounceGradState(NamedTuple):
    """Everything that the next step needs; what a checkpoint holds.

    Attributes:
      params: Arrays of the model.
      optimizer: State of the modules' optimiser.
      proposal_optimizer: State of the proposal head's optimiser.
      structures: Structures of the training tasks.
      schedule: State of the temperature schedule.
      rng_key: Key of the run; step i uses `fold_in(rng_key, i)`.
      step: `()` int32, steps taken.
      num_held: `()` int32, steps in which structures stay as they are.
    """

    params: ModelParams
    optimizer: Any
    proposal_optimizer: Any
    structures: TaskStructures
    schedule: schedules.ScheduleState
    rng_key: jax.Array
    step: jax.Array
    num_held: jax.Array


class BounceGrad(NamedTuple):
    """Meta-training as a pair of pure functions.

    Attributes:
      init: `(rng_key, params, num_tasks, max_nodes, start=None) -> state`: structures
        of the training tasks that are known to say something; None draws them.
      step: `(state, states, batch) -> (state, metrics)`; states are
        `[tasks, nodes, time, features]`, or `Frames`.
    """

    init: Any
    step: Any


# Nats per independent change up to which structures are thought to be nearly right.
_COLD = 2.0
# What a visit's search needs of memory: one chain per problem.
_SEARCH = InferenceConfig(num_chains=1)


def temperature_schedule(
    config: BounceGradConfig, unit: float = 1.0
) -> schedules.TemperatureSchedule:
    """The temperature schedule that a configuration names, in so many nats."""
    if config.temperature == "acceptance":
        # The published slope is per pass at 800 passes; here per step of the run.
        target = schedules.reference_target(slope=-5.0 / config.num_steps)
        return schedules.worsening_acceptance(
            target, initial=unit * config.initial_temperature
        )
    return schedules.geometric(
        unit * config.initial_temperature,
        unit,
        int(config.annealed_fraction * config.num_steps),
    )


def bouncegrad(model: RelationalModel, config: BounceGradConfig) -> BounceGrad:
    """Builds meta-training for a model.

    Args:
      model: The model.
      config: Options, resolved.

    Returns:
      `BounceGrad(init, step)`; neither is jitted.

    Raises:
      ValueError: If the number of proposals is not known, or the mixture gradient is
        asked for without independent receivers and the message cache.
    """
    can_mix = model.keeps_messages and not model.energy.couples_receivers
    if config.gradient == "mixture" and not can_mix:
        raise ValueError(
            f"gradient: found 'mixture' with {model.energy} and messages "
            f"{model.memory.messages!r}, expected independent receivers and kept "
            "messages"
        )
    if config.search_steps is None:
        raise ValueError(
            "search_steps: found None, expected the number that suits the entities, "
            "see BounceGradConfig.resolved"
        )
    network = model.network
    schedule = temperature_schedule(config, 1.0 / model.bank.config.span)
    warmup = max(int(config.warmup_fraction * config.num_steps), 1)
    learning_rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.num_steps, warmup + 1)
    )
    # Of all parameters as one vector: a few operations in place of some for each.
    optimizer = optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.adamw(learning_rate, weight_decay=config.weight_decay),
        )
    )
    proposal_optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            config.proposal_learning_rate, weight_decay=config.proposal_weight_decay
        ),
    )
    if network.proposal.encoder != "none":  # there are parameters
        proposal_optimizer = optax.flatten(proposal_optimizer)

    def init(
        rng_key: jax.Array,
        params: ModelParams,
        num_tasks: int,
        max_nodes: int,
        start: TaskStructures | None = None,
    ) -> BounceGradState:
        key_structures, key_run = jax.random.split(rng_key)
        num_held = int(config.held_fraction * config.num_steps)
        if start is None:
            num_held = 0
            start = random_structures(
                key_structures,
                num_tasks,
                max_nodes,
                model.num_relations,
                model.num_node_modules,
            )
        return BounceGradState(
            params=params,
            optimizer=optimizer.init(params.modules),
            proposal_optimizer=proposal_optimizer.init(params.proposal),
            structures=start,
            schedule=schedule.init(),
            rng_key=key_run,
            step=jnp.zeros((), jnp.int32),
            num_held=jnp.int32(num_held),
        )

    def step(
        state: BounceGradState, task_states: Frames | jax.Array, batch: TaskBatch
    ) -> tuple[BounceGradState, dict[str, jax.Array]]:
        supergraph = batch.supergraph
        memory.check(
            model,
            memory.budget_of(supergraph),
            as_frames(task_states).states.shape[2],
            _SEARCH,
            receiver_chunk=0,
        )
        key = jax.random.fold_in(state.rng_key, state.step)
        key_frames, key_search, key_corrupt = jax.random.split(key, 3)
        temperature = state.schedule.temperature
        params = state.params

        states = gather_states(task_states, batch.tasks, supergraph)
        observed = as_frames(states).states
        structure = gather_structure(state.structures, batch.tasks, supergraph)
        search_windows, gradient_windows = split_frames(
            key_frames, config, observed.shape[1] - model.bank.config.span
        )

        uniform = jnp.zeros((*supergraph.slot_mask.shape, model.num_relations))
        problems = build_problems(
            model, params, supergraph, states, uniform, search_windows
        )
        evidence = network.evidence(params, supergraph, states, problems.residuals)
        logits = network.edge_logits(
            params,
            supergraph,
            observed,
            jax.nn.one_hot(structure.edge_modules, model.num_relations),
            evidence,
        )
        problems = problems.with_logits(logits)
        chains, infos = problems.run(
            key_search,
            problems.init(structure),
            build_algorithm(model),
            jnp.full((problems.mask.shape[0], config.search_steps), temperature),
            transform=lambda _, info: info,
        )
        is_held = state.step < state.num_held
        structure = jax.tree.map(
            lambda kept, found: jnp.where(is_held, kept, found),
            structure,
            problems.join(chains.structure),
        )
        structures = scatter_structure(
            state.structures, batch.tasks, supergraph, structure
        )

        loss, gradient = jax.value_and_grad(gradient_loss)(
            params.modules,
            problems,
            config,
            structure,
            states,
            gradient_windows,
            temperature,
        )
        # Under structures that are random still, entities would differ in everything.
        is_cold = temperature * model.bank.config.span <= _COLD
        gradient = gradient._replace(
            spreads=jax.tree.map(
                lambda leaf: jnp.where(is_cold, leaf, 0.0), gradient.spreads
            )
        )
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer, params.modules
        )
        modules = optax.apply_updates(params.modules, updates)

        def head_loss(head_params):
            weights = proposal_head.corrupt(
                key_corrupt,
                structure.edge_modules,
                model.num_relations,
                network.proposal.corruption,
            )
            logits = network.edge_logits(
                params._replace(proposal=head_params),
                supergraph,
                observed,
                weights,
                evidence,
            )
            return proposal_head.cross_entropy(
                logits, structure.edge_modules, supergraph.slot_mask
            )

        proposal_loss, proposal_gradient = jax.value_and_grad(head_loss)(
            params.proposal
        )
        updates, proposal_optimizer_state = proposal_optimizer.update(
            proposal_gradient, state.proposal_optimizer, params.proposal
        )
        head = optax.apply_updates(params.proposal, updates)

        mask = problems.mask[:, None]
        num_worsening, num_accepted = schedules.count_worsening(infos, mask)
        num_proposals = jnp.maximum(jnp.sum(mask) * config.search_steps, 1)
        metrics = {
            "loss": loss,
            "proposal_loss": proposal_loss,
            "temperature": temperature,
            "acceptance": jnp.sum(infos.is_accepted & mask) / num_proposals,
            "gradient_norm": jnp.linalg.norm(ravel_pytree(gradient)[0]),
        }
        new_state = BounceGradState(
            params=ModelParams(modules, head, params.preprocessing),
            optimizer=optimizer_state,
            proposal_optimizer=proposal_optimizer_state,
            structures=structures,
            schedule=schedule.step(state.schedule, num_worsening, num_accepted),
            rng_key=state.rng_key,
            step=state.step + 1,
            num_held=state.num_held,
        )
        return new_state, metrics

    return BounceGrad(init, step)
