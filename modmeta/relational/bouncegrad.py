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

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modmeta import search
from modmeta.relational import energy as energy_lib
from modmeta.relational import memory, proposal_head
from modmeta.relational.model import ModelParams, RelationalModel
from modmeta.relational.problems import Problems
from modmeta.search import schedules
from modmeta.supergraphs import SuperGraph

GRADIENTS = ("chosen", "mixture")
TEMPERATURES = ("geometric", "acceptance")


@dataclasses.dataclass(frozen=True)
class BounceGradConfig:
    """Options of meta-training.

    Attributes:
      num_steps: Gradient steps.
      batch_size: Systems per step.
      search_steps: Proposals per problem and visit.
      temperature: "geometric": from `initial_temperature` to 1 nat over the first
        `annealed_fraction` of training. "acceptance": the reference's control of the
        acceptance rate of worsening moves.
      initial_temperature: Nats.
      annealed_fraction: Share of training after which the temperature stays at 1.
      gradient: "chosen": through the structure of the chain, as in the paper.
        "mixture": through all assignments of a receiver's incoming edges, weighted by
        softmax(-energy / temperature); only where these can be enumerated.
      search_frames: Input frames that the energy of a visit's search sees; 0 for all.
      gradient_frames: Input frames that the gradient sees, at most half of them if
        `held_out`; 0 for as many as possible.
      held_out: Whether the gradient's frames are withheld from the search of the same
        visit, which draws both anew (reference code: meta-training uses the same
        frames for both).
      learning_rate: Adam, cosine decay to 0.
      warmup_fraction: Share of training over which the learning rate rises.
      weight_decay: Decoupled weight decay of the modules.
      clip_norm: Largest norm of the modules' gradient.
      proposal_learning_rate: Adam on the proposal head.
      proposal_weight_decay: Decoupled weight decay of the proposal head.
    """

    num_steps: int = 4000
    batch_size: int = 32
    search_steps: int = 8
    temperature: str = "geometric"
    initial_temperature: float = 50.0
    annealed_fraction: float = 0.6
    gradient: str = "chosen"
    search_frames: int = 0
    gradient_frames: int = 16
    held_out: bool = True
    learning_rate: float = 2e-3
    warmup_fraction: float = 0.01
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    proposal_learning_rate: float = 1e-3
    proposal_weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        """Checks the options."""
        for field in ("num_steps", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 1"
                )
        for field in ("search_steps", "search_frames", "gradient_frames"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 0"
                )
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"gradient: found {self.gradient!r}, expected one of {GRADIENTS}"
            )
        if self.temperature not in TEMPERATURES:
            raise ValueError(
                f"temperature: found {self.temperature!r}, expected one of "
                f"{TEMPERATURES}"
            )


class TaskBatch(NamedTuple):
    """The tasks of one step.

    Attributes:
      tasks: `[S]` rows of the data set; padded systems repeat one.
      supergraph: Their super-graph.
    """

    tasks: jax.Array
    supergraph: SuperGraph


class TaskStructures(NamedTuple):
    """The structure of every task, kept between visits.

    Attributes:
      edge_modules: `[tasks, nodes, nodes]` int32, row = receiver, column = sender.
      node_modules: `[tasks, nodes]` int32.
    """

    edge_modules: jax.Array
    node_modules: jax.Array


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
    """

    params: ModelParams
    optimizer: Any
    proposal_optimizer: Any
    structures: TaskStructures
    schedule: schedules.ScheduleState
    rng_key: jax.Array
    step: jax.Array


class BounceGrad(NamedTuple):
    """Meta-training as a pair of pure functions.

    Attributes:
      init: `(rng_key, params, num_tasks, max_nodes) -> state`.
      step: `(state, states [tasks, nodes, time, features], batch) -> (state, metrics)`.
    """

    init: Any
    step: Any


def random_structures(
    rng_key: jax.Array, model: RelationalModel, num_tasks: int, max_nodes: int
) -> TaskStructures:
    """Draws a structure for every task, uniformly; consumes the key."""
    key_edges, key_nodes = jax.random.split(rng_key)
    return TaskStructures(
        jax.random.randint(
            key_edges,
            (num_tasks, max_nodes, max_nodes),
            0,
            model.num_relations,
            jnp.int32,
        ),
        jax.random.randint(
            key_nodes,
            (num_tasks, max_nodes),
            0,
            model.bank.config.num_node_modules,
            jnp.int32,
        ),
    )


def gather_structure(
    structures: TaskStructures, tasks: jax.Array, supergraph: SuperGraph
) -> search.Structure:
    """Structures of the tasks of a batch in super-graph form, `[N, D]` and `[N]`."""
    rows = tasks[supergraph.node_system]
    edges = structures.edge_modules[
        rows[:, None], supergraph.node_entity[:, None], supergraph.slot_entities
    ]
    nodes = structures.node_modules[rows, supergraph.node_entity]
    return search.Structure(jnp.where(supergraph.slot_mask, edges, 0), nodes)


def scatter_structure(
    structures: TaskStructures,
    tasks: jax.Array,
    supergraph: SuperGraph,
    structure: search.Structure,
) -> TaskStructures:
    """Writes the structures of a batch back; padding is dropped."""
    num_tasks = structures.node_modules.shape[0]
    rows = jnp.where(supergraph.node_mask, tasks[supergraph.node_system], num_tasks)
    slot_rows = jnp.where(supergraph.slot_mask, rows[:, None], num_tasks)
    return TaskStructures(
        structures.edge_modules.at[
            slot_rows, supergraph.node_entity[:, None], supergraph.slot_entities
        ].set(structure.edge_modules, mode="drop"),
        structures.node_modules.at[rows, supergraph.node_entity].set(
            structure.node_modules, mode="drop"
        ),
    )


def gather_states(
    states: jax.Array, tasks: jax.Array, supergraph: SuperGraph
) -> jax.Array:
    """States of the tasks of a batch: `[tasks, nodes, time, F]` to `[N, time, F]`."""
    return states[tasks[supergraph.node_system], supergraph.node_entity]


def temperature_schedule(config: BounceGradConfig) -> schedules.TemperatureSchedule:
    """The temperature schedule that a configuration names."""
    if config.temperature == "acceptance":
        # The published slope is per pass at 800 passes; here per step of the run.
        target = schedules.reference_target(slope=-5.0 / config.num_steps)
        return schedules.worsening_acceptance(
            target, initial=config.initial_temperature
        )
    return schedules.geometric(
        config.initial_temperature,
        1.0,
        int(config.annealed_fraction * config.num_steps),
    )


def _split_frames(
    rng_key: jax.Array, config: BounceGradConfig, num_inputs: int
) -> tuple[jax.Array | None, jax.Array]:
    """Random input frames for the search (None for all) and for the gradient."""
    order = jax.random.permutation(rng_key, num_inputs)
    num_gradient = min(config.gradient_frames or num_inputs, num_inputs)
    if config.held_out:
        # Short trajectories: at least half of the frames infer.
        num_gradient = max(min(num_gradient, num_inputs // 2), 1)
    pool = order[num_gradient:] if config.held_out else order
    num_search = min(config.search_frames or pool.shape[0], pool.shape[0])
    is_everything = num_search == num_inputs
    return None if is_everything else pool[:num_search], order[:num_gradient]


def _gradient_loss(
    modules: Any,
    model: RelationalModel,
    params: ModelParams,
    config: BounceGradConfig,
    problems: Problems,
    structure: search.Structure,
    states: jax.Array,
    frames: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    """Mean energy per real node and predicted frame, in nats."""
    supergraph = problems.supergraph
    num_nodes = jnp.sum(supergraph.node_mask)
    if model.search.energy == "rollout":
        energies = energy_lib.rollout_energies(
            model.bank,
            modules,
            params.preprocessing,
            structure,
            states,
            supergraph.slot_senders,
            supergraph.slot_mask,
            supergraph.node_mask,
            horizon=model.search.horizon,
        )
        return jnp.sum(energies) / (num_nodes * (states.shape[1] - 1))
    inputs, following = states[:, frames], states[:, frames + 1]
    if config.gradient == "mixture":
        num_slots = supergraph.slot_mask.shape[1]
        assignments = search.all_assignments(num_slots, model.num_relations)
        cache = jax.tree.map(lambda leaf: leaf[:, 0], problems.data)
        weights = energy_lib.assignment_weights(
            model.bank,
            params.modules,
            cache,
            supergraph,
            structure,
            assignments,
            temperature,
        )
        cache = energy_lib.build_cache(
            model.bank, modules, params.preprocessing, supergraph, inputs, following
        )
        energies = energy_lib.assignment_energies(
            model.bank, modules, cache, structure, assignments
        )
        energies = jnp.sum(jax.lax.stop_gradient(weights) * energies, axis=-1)
    else:
        energies = energy_lib.structure_energies(
            model.bank,
            modules,
            params.preprocessing,
            supergraph,
            structure,
            inputs,
            following,
        )
    return jnp.sum(energies) / (num_nodes * frames.shape[0])


def bouncegrad(model: RelationalModel, config: BounceGradConfig) -> BounceGrad:
    """Builds meta-training for a model.

    Args:
      model: The model.
      config: Options.

    Returns:
      `BounceGrad(init, step)`; neither is jitted.

    Raises:
      ValueError: If the mixture gradient is asked for without independent receivers
        and the message cache.
    """
    can_mix = model.search.keeps_messages and not model.search.couples_receivers
    if config.gradient == "mixture" and not can_mix:
        raise ValueError(
            "gradient: mixture needs independent receivers and the message cache, "
            f"found {model.search}"
        )
    schedule = temperature_schedule(config)
    warmup = max(int(config.warmup_fraction * config.num_steps), 1)
    learning_rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.num_steps, warmup + 1)
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate, weight_decay=config.weight_decay),
    )
    proposal_optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            config.proposal_learning_rate, weight_decay=config.proposal_weight_decay
        ),
    )

    def init(
        rng_key: jax.Array, params: ModelParams, num_tasks: int, max_nodes: int
    ) -> BounceGradState:
        key_structures, key_run = jax.random.split(rng_key)
        return BounceGradState(
            params=params,
            optimizer=optimizer.init(params.modules),
            proposal_optimizer=proposal_optimizer.init(params.proposal),
            structures=random_structures(key_structures, model, num_tasks, max_nodes),
            schedule=schedule.init(),
            rng_key=key_run,
            step=jnp.zeros((), jnp.int32),
        )

    def step(
        state: BounceGradState, task_states: jax.Array, batch: TaskBatch
    ) -> tuple[BounceGradState, dict[str, jax.Array]]:
        supergraph = batch.supergraph
        memory.check(model, memory.budget_of(supergraph), task_states.shape[2])
        key = jax.random.fold_in(state.rng_key, state.step)
        key_frames, key_search, key_corrupt = jax.random.split(key, 3)
        temperature = state.schedule.temperature
        params = state.params

        states = gather_states(task_states, batch.tasks, supergraph)
        structure = gather_structure(state.structures, batch.tasks, supergraph)
        search_frames, gradient_frames = _split_frames(
            key_frames, config, states.shape[1] - 1
        )

        evidence = model.evidence(params, supergraph, states)
        logits = model.edge_logits(
            params,
            supergraph,
            states,
            jax.nn.one_hot(structure.edge_modules, model.num_relations),
            evidence,
        )
        problems = model.problems(params, supergraph, states, logits, search_frames)
        chains, infos = problems.run(
            key_search,
            problems.init(structure),
            model.algorithm(),
            jnp.full((problems.mask.shape[0], config.search_steps), temperature),
            transform=lambda _, info: info,
        )
        structure = problems.join(chains.structure)
        structures = scatter_structure(
            state.structures, batch.tasks, supergraph, structure
        )

        loss, gradient = jax.value_and_grad(_gradient_loss)(
            params.modules,
            model,
            params,
            config,
            problems,
            structure,
            states,
            gradient_frames,
            temperature,
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
                model.proposal.corruption,
            )
            logits = model.edge_logits(
                params._replace(proposal=head_params),
                supergraph,
                states,
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
            "gradient_norm": optax.tree.norm(gradient),
        }
        new_state = BounceGradState(
            params=ModelParams(modules, head, params.preprocessing),
            optimizer=optimizer_state,
            proposal_optimizer=proposal_optimizer_state,
            structures=structures,
            schedule=schedule.step(state.schedule, num_worsening, num_accepted),
            rng_key=state.rng_key,
            step=state.step + 1,
        )
        return new_state, metrics

    return BounceGrad(init, step)
