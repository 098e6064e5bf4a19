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

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.inference import memory
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import Problems, build_problems
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
from modmeta.search import SearchInfo, Structure, schedules


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
    """The temperature schedule that a configuration names, in units of some nats."""
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
    schedule = temperature_schedule(config, 1.0 / model.bank.config.span)
    optimizer = _module_optimizer(config)
    proposal_optimizer = _proposal_optimizer(config, model)

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
            optimizer=jax.jit(optimizer.init)(params.modules),
            proposal_optimizer=jax.jit(proposal_optimizer.init)(params.proposal),
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

        visit = _Visit(
            supergraph,
            gather_states(task_states, batch.tasks, supergraph),
            gather_structure(state.structures, batch.tasks, supergraph),
        )
        search_windows, gradient_windows = split_frames(
            key_frames, config, visit.observed.shape[1] - model.bank.config.span
        )
        searched = _search(
            key_search,
            model,
            params,
            visit,
            search_windows,
            temperature,
            config.search_steps,
        )
        is_held = state.step < state.num_held
        structure = jax.tree.map(
            lambda kept, found: jnp.where(is_held, kept, found),
            visit.structure,
            searched.structure,
        )
        structures = scatter_structure(
            state.structures, batch.tasks, supergraph, structure
        )

        is_cold = temperature * model.bank.config.span <= _COLD
        loss, gradient = jax.value_and_grad(gradient_loss)(
            params.modules,
            searched.problems,
            config,
            structure,
            visit.states,
            gradient_windows,
            temperature,
            # Once structures are right, likelihood weighs best what is known well.
            is_even=is_cold,
        )
        # Under structures that are random still, entities would differ in everything.
        gradient = gradient._replace(
            spreads=jax.tree.map(
                lambda leaf: jnp.where(is_cold, leaf, 0.0), gradient.spreads
            )
        )
        modules, optimizer_state = _descend(
            optimizer, gradient, state.optimizer, params.modules
        )

        def head_loss(head: Any) -> jax.Array:
            return _head_loss(
                key_corrupt,
                model,
                params._replace(proposal=head),
                visit._replace(structure=structure),
                searched.evidence,
            )

        proposal_loss, proposal_gradient = jax.value_and_grad(head_loss)(
            params.proposal
        )
        head, proposal_optimizer_state = _descend(
            proposal_optimizer,
            proposal_gradient,
            state.proposal_optimizer,
            params.proposal,
        )

        mask = searched.problems.mask[:, None]
        num_worsening, num_accepted = schedules.count_worsening(searched.infos, mask)
        num_proposals = jnp.maximum(jnp.sum(mask) * config.search_steps, 1)
        metrics = {
            "loss": loss,
            "proposal_loss": proposal_loss,
            "temperature": temperature,
            "acceptance": jnp.sum(searched.infos.is_accepted & mask) / num_proposals,
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


class _Visit(NamedTuple):
    """What a step is given of the tasks of a batch.

    Attributes:
      supergraph: The tasks as one padded graph.
      states: `[N, T, F]` normalised frames, or `Frames` with leaves `[N, T, ...]`.
      structure: Their structures, leaves `[N, D]` and `[N]`.
    """

    supergraph: SuperGraph
    states: Frames | jax.Array
    structure: Structure

    @property
    def observed(self) -> jax.Array:
        """`[N, T, F]` normalised frames, as they were observed."""
        return as_frames(self.states).states


class _Searched(NamedTuple):
    """What the search of a visit found.

    Attributes:
      problems: The problems that were searched.
      structure: The structures reached, leaves `[N, D]` and `[N]`.
      infos: What every proposal did, leaves `[problems, steps]`.
      evidence: What the modules say of every edge, see `RelationalNetwork.evidence`.
    """

    problems: Problems
    structure: Structure
    infos: SearchInfo
    evidence: jax.Array | None


def _search(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    visit: _Visit,
    windows: jax.Array | None,
    temperature: jax.Array,
    num_steps: int,
) -> _Searched:
    """Anneals the structures of a visit for some steps, seeing some of the frames."""
    network, supergraph = model.network, visit.supergraph
    uniform = jnp.zeros((*supergraph.slot_mask.shape, model.num_relations))
    problems = build_problems(model, params, supergraph, visit.states, uniform, windows)
    evidence = network.evidence(params, supergraph, visit.states, problems.residuals)
    logits = network.edge_logits(
        params,
        supergraph,
        visit.observed,
        jax.nn.one_hot(visit.structure.edge_modules, model.num_relations),
        evidence,
    )
    problems = problems.with_logits(logits)
    chains, infos = problems.run(
        rng_key,
        problems.init(visit.structure),
        build_algorithm(model),
        jnp.full((problems.mask.shape[0], num_steps), temperature),
        transform=lambda _, info: info,
    )
    return _Searched(problems, problems.join(chains.structure), infos, evidence)


def _head_loss(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    visit: _Visit,
    evidence: jax.Array | None,
) -> jax.Array:
    """Cross-entropy of the proposal head with structures that it sees corrupted."""
    edge_modules = visit.structure.edge_modules
    weights = proposal_head.corrupt(
        rng_key, edge_modules, model.num_relations, model.network.proposal.corruption
    )
    logits = model.network.edge_logits(
        params, visit.supergraph, visit.observed, weights, evidence
    )
    return proposal_head.cross_entropy(logits, edge_modules, visit.supergraph.slot_mask)


def _module_optimizer(config: BounceGradConfig) -> optax.GradientTransformation:
    """Of all parameters as one vector: a few operations in place of some for each."""
    warmup = max(int(config.warmup_fraction * config.num_steps), 1)
    learning_rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.num_steps, warmup + 1)
    )
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.adamw(learning_rate, weight_decay=config.weight_decay),
        )
    )


def _proposal_optimizer(
    config: BounceGradConfig, model: RelationalModel
) -> optax.GradientTransformation:
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            config.proposal_learning_rate, weight_decay=config.proposal_weight_decay
        ),
    )
    has_parameters = model.network.proposal.encoder != "none"
    return optax.flatten(optimizer) if has_parameters else optimizer


def _descend(
    optimizer: optax.GradientTransformation, gradient: Any, state: Any, params: Any
) -> tuple[Any, Any]:
    """Parameters after a step of an optimiser, and its state."""
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state
