"""Proposals per second of the search, beside the same search without its parts.

    python -m benchmarks.search

On one batch of springs systems, with messages from the first frame of an interval:
annealing that evaluates the composed network of a system at every proposal, against the
message cache; one receiver of a system after the other against all at once; one call
per chain against all chains in one call; then one BounceGrad step with its parts
changed one by one. Building the cache is timed with the search, compilation is not.
Last, for every form of messages, building the cache and the search by itself.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import timing
from experiments import common
from modmeta.relational import data
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import Frames
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import Problems, build_problems
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import TaskBatch, all_batches
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.relational.tasks.structures import random_structure
from modmeta.relational.training import bouncegrad, setup
from modmeta.relational.training.bouncegrad import BounceGradConfig
from modmeta.search import Structure

_SYSTEMS = flags.DEFINE_integer("systems", 32, "Systems per batch.", lower_bound=1)
_NODES = flags.DEFINE_integer("nodes", 5, "Nodes per system.", lower_bound=2)
_WIDTH = flags.DEFINE_integer("width", 64, "Hidden width.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 32, "Proposals per chain.", lower_bound=1)
_CHAINS = flags.DEFINE_integer("chains", 4, "Chains per problem.", lower_bound=1)
# In one call, as in training: a call of its own pays for memory that is touched first.
_TRAINING_STEPS = 20


class _Setting(NamedTuple):
    """What all tables are measured on."""

    dataset: TrajectoryDataset
    model: RelationalModel
    params: ModelParams
    batch: TaskBatch
    task_states: Frames
    states: Frames
    logits: jax.Array
    structure: Structure

    @property
    def arrays(self) -> tuple:
        """What a search takes besides its key."""
        graph = self.batch.supergraph
        return self.params, graph, self.states, self.logits, self.structure


def main(argv: list[str]) -> None:
    """Prints the tables of ratios."""
    del argv
    num_systems, num_nodes = _SYSTEMS.value, _NODES.value
    setting = _make_setting(num_systems, num_nodes)
    num_in_system = num_systems * _STEPS.value
    rows = _searches(setting, num_in_system, num_in_system * num_nodes)
    print(common.format_table(rows, float_format=".4g"), end="\n\n")
    rows = _training_steps(setting, num_systems)
    print(common.format_table(rows, float_format=".3g"), end="\n\n")
    rows = _kinds_of_messages(setting, num_in_system * num_nodes)
    print(common.format_table(rows, float_format=".3g"))
    print(f"\n{num_systems} systems of {num_nodes} nodes, width {_WIDTH.value}")


def _build_model(
    dataset: TrajectoryDataset, path: str
) -> tuple[RelationalModel, ModelParams]:
    width = _WIDTH.value
    return setup.build_model(
        dataset,
        jax.random.key(0),
        modules=ModuleConfig(
            path=path,
            entities="alike",
            edge_sizes=(width, width),
            message_size=width,
            node_sizes=(width, width),
        ),
    )


def _make_setting(num_systems: int, num_nodes: int) -> _Setting:
    dataset = data.simulate_springs(0, max(num_systems, 32), num_nodes=num_nodes)
    model, params = _build_model(dataset, "start")
    batches = all_batches([num_nodes] * num_systems, num_systems)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batches)
    slot_mask = batch.supergraph.slot_mask
    task_states = device_states(dataset, params.preprocessing.normalization)
    return _Setting(
        dataset=dataset,
        model=model,
        params=params,
        batch=batch,
        task_states=task_states,
        states=gather_states(task_states, batch.tasks, batch.supergraph),
        logits=jnp.zeros((*slot_mask.shape, model.num_relations)),
        structure=random_structure(jax.random.key(1), slot_mask, model.num_relations),
    )


def _searches(
    setting: _Setting, num_in_system: int, num_everywhere: int
) -> list[dict[str, Any]]:
    """Proposals per second with and without the cache, and of several chains."""
    num_steps, num_chains = _STEPS.value, _CHAINS.value

    def search_of(**options):
        """Annealing of the batch as a function of arrays alone."""
        changed = dataclasses.replace(setting.model, energy=EnergyConfig(**options))

        def anneal(key, params, graph, states, logits, structure):
            problems = build_problems(changed, params, graph, states, logits)
            temperatures = jnp.ones((problems.mask.shape[0], num_steps))
            state = problems.init(structure)
            algorithm = build_algorithm(changed)
            return problems.run(key, state, algorithm, temperatures)[0].energy

        return anneal

    # A prior of no weight couples the receivers: one moves at a time, as in the
    # composed network, which a roll-out of one step evaluates as a whole.
    composed = jax.jit(search_of(form="rollout", horizon=1))
    one_receiver = jax.jit(search_of(prior="symmetric", prior_weight=0.0))
    every_receiver = jax.jit(search_of())
    chains = jax.jit(jax.vmap(search_of(), in_axes=(0, *[None] * 5)))
    arrays = setting.arrays
    keys = jax.random.split(jax.random.key(2), num_chains)
    rows: list[dict[str, Any]] = []
    for name, seconds, num_proposals in (
        (
            "composed network at every proposal",
            timing.seconds_of(composed, keys[0], *arrays),
            num_in_system,
        ),
        (
            "message cache, one receiver of a system at a time",
            timing.seconds_of(one_receiver, keys[0], *arrays),
            num_in_system,
        ),
        (
            "message cache, all receivers at once",
            timing.seconds_of(every_receiver, keys[0], *arrays),
            num_everywhere,
        ),
        (
            f"the same, {num_chains} chains, one call each",
            timing.seconds_of(lambda: [every_receiver(key, *arrays) for key in keys]),
            num_everywhere * num_chains,
        ),
        (
            f"the same, {num_chains} chains in one call",
            timing.seconds_of(chains, keys, *arrays),
            num_everywhere * num_chains,
        ),
    ):
        rate = num_proposals / seconds
        reference = rows[0]["proposals/s"] if rows else rate
        rows.append({"search": name, "proposals/s": rate, "ratio": rate / reference})
    return rows


def _training_steps(setting: _Setting, num_systems: int) -> list[dict[str, Any]]:
    """Time of a step of BounceGrad, whole and with less of each of its parts."""
    config = BounceGradConfig(num_steps=100, batch_size=num_systems, search_steps=8)
    replace = dataclasses.replace
    rows: list[dict[str, Any]] = []
    for name, changed in (
        ("whole step", config),
        ("one proposal instead of eight", replace(config, search_steps=1)),
        ("one gradient frame instead of 16", replace(config, gradient_frames=1)),
        (
            "all frames in search and gradient",
            replace(config, held_out=False, gradient_frames=0),
        ),
    ):
        algorithm = bouncegrad.bouncegrad(setting.model, changed)
        state = algorithm.init(
            jax.random.key(3),
            setting.params,
            setting.dataset.num_tasks,
            setting.dataset.max_nodes,
        )

        @jax.jit
        def take_steps(state, task_states, batch, algorithm=algorithm):
            def body(state, _):
                return algorithm.step(state, task_states, batch)

            return jax.lax.scan(body, state, None, length=_TRAINING_STEPS)[0]

        seconds = timing.seconds_of(
            take_steps, state, setting.task_states, setting.batch
        )
        rows.append({"BounceGrad": name, "ms": 1e3 * seconds / _TRAINING_STEPS})
    for row in rows:
        row["ratio"] = row["ms"] / rows[0]["ms"]
    return rows


def _kinds_of_messages(setting: _Setting, num_everywhere: int) -> list[dict[str, Any]]:
    """What it costs to make the cache, and to search with it, by kind of message."""
    _, graph, states, logits, structure = setting.arrays
    num_edges = int(graph.slot_mask.sum())
    num_intervals = setting.dataset.num_frames - 1
    num_messages = num_edges * setting.model.num_relations * num_intervals
    rows: list[dict[str, Any]] = []
    for path in ("start", "interpolated", "two_body"):
        model, params = _build_model(setting.dataset, path)
        build, search_with = _build_and_search(model, params, _STEPS.value)
        problems = build(graph, states, logits)
        building = timing.seconds_of(build, graph, states, logits)
        searching = timing.seconds_of(
            search_with, jax.random.key(2), problems, structure
        )
        rows.append(
            {
                "messages": path,
                "ns per message": 1e9 * building / num_messages,
                "proposals/s": num_everywhere / searching,
            }
        )
    for row in rows:
        row["ratio of messages"] = row["ns per message"] / rows[0]["ns per message"]
        row["ratio of proposals"] = row["proposals/s"] / rows[0]["proposals/s"]
    return rows


def _build_and_search(model, params, num_steps):
    """The two halves of a search: the data of its problems, and annealing on them."""

    @jax.jit
    def build(graph, states, logits):
        problems = build_problems(model, params, graph, states, logits)
        return problems.data, problems.candidates, graph

    @jax.jit
    def search(key, built, structure):
        problems = Problems(model, params, *built)
        temperatures = jnp.ones((problems.mask.shape[0], num_steps))
        state = problems.init(structure)
        return problems.run(key, state, build_algorithm(model), temperatures)[0].energy

    return build, search


if __name__ == "__main__":
    app.run(main)
