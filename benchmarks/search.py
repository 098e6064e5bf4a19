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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import timing
from experiments import common
from modmeta.relational import data
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import Problems, build_problems
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.relational.tasks.structures import random_structure
from modmeta.relational.training import bouncegrad, setup
from modmeta.relational.training.bouncegrad import BounceGradConfig

_SYSTEMS = flags.DEFINE_integer("systems", 32, "Systems per batch.", lower_bound=1)
_NODES = flags.DEFINE_integer("nodes", 5, "Nodes per system.", lower_bound=2)
_WIDTH = flags.DEFINE_integer("width", 64, "Hidden width.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 32, "Proposals per chain.", lower_bound=1)
_CHAINS = flags.DEFINE_integer("chains", 4, "Chains per problem.", lower_bound=1)
# In one call, as in training: a call of its own pays for memory that is touched first.
_TRAINING_STEPS = 20


def main(argv: list[str]) -> None:
    """Prints the table of ratios."""
    del argv
    num_systems, num_nodes = _SYSTEMS.value, _NODES.value
    dataset = data.simulate_springs(0, max(num_systems, 32), num_nodes=num_nodes)
    width = _WIDTH.value

    def build_model(path):
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

    model, params = build_model("start")
    batches = all_batches([num_nodes] * num_systems, num_systems)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batches)
    tasks, graph = batch
    task_states = device_states(dataset, params.preprocessing.normalization)
    states = gather_states(task_states, tasks, graph)
    logits = jnp.zeros((*graph.slot_mask.shape, model.num_relations))
    structure = random_structure(
        jax.random.key(1), graph.slot_mask, model.num_relations
    )
    num_steps, num_chains = _STEPS.value, _CHAINS.value

    def search_of(**options):
        """Annealing of the batch as a function of arrays alone."""
        changed = dataclasses.replace(model, energy=EnergyConfig(**options))

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
    arrays = (params, graph, states, logits, structure)
    keys = jax.random.split(jax.random.key(2), num_chains)
    in_system = num_systems * num_steps
    everywhere = in_system * num_nodes
    rows: list[dict[str, Any]] = []
    for name, seconds, num_proposals in (
        (
            "composed network at every proposal",
            timing.seconds_of(composed, keys[0], *arrays),
            in_system,
        ),
        (
            "message cache, one receiver of a system at a time",
            timing.seconds_of(one_receiver, keys[0], *arrays),
            in_system,
        ),
        (
            "message cache, all receivers at once",
            timing.seconds_of(every_receiver, keys[0], *arrays),
            everywhere,
        ),
        (
            f"the same, {num_chains} chains, one call each",
            timing.seconds_of(lambda: [every_receiver(key, *arrays) for key in keys]),
            everywhere * num_chains,
        ),
        (
            f"the same, {num_chains} chains in one call",
            timing.seconds_of(chains, keys, *arrays),
            everywhere * num_chains,
        ),
    ):
        rate = num_proposals / seconds
        reference = rows[0]["proposals/s"] if rows else rate
        rows.append({"search": name, "proposals/s": rate, "ratio": rate / reference})
    print(common.format_table(rows, float_format=".4g"), end="\n\n")

    rows.clear()
    config = BounceGradConfig(num_steps=100, batch_size=num_systems, search_steps=8)
    replace = dataclasses.replace
    for name, changed in (
        ("whole step", config),
        ("one proposal instead of eight", replace(config, search_steps=1)),
        ("one gradient frame instead of 16", replace(config, gradient_frames=1)),
        (
            "all frames in search and gradient",
            replace(config, held_out=False, gradient_frames=0),
        ),
    ):
        algorithm = bouncegrad.bouncegrad(model, changed)
        state = algorithm.init(
            jax.random.key(3), params, dataset.num_tasks, dataset.max_nodes
        )

        @jax.jit
        def take_steps(state, task_states, batch, algorithm=algorithm):
            def body(state, _):
                return algorithm.step(state, task_states, batch)

            return jax.lax.scan(body, state, None, length=_TRAINING_STEPS)[0]

        seconds = timing.seconds_of(take_steps, state, task_states, batch)
        rows.append({"BounceGrad": name, "ms": 1e3 * seconds / _TRAINING_STEPS})
    fastest = rows[0]["ms"]
    for row in rows:
        row["ratio"] = row["ms"] / fastest
    print(common.format_table(rows, float_format=".3g"), end="\n\n")

    num_intervals = dataset.num_frames - 1
    num_messages = int(graph.slot_mask.sum()) * model.num_relations * num_intervals
    rows.clear()
    for path in ("start", "interpolated", "two_body"):
        build, search = _build_and_search(*build_model(path), num_steps)
        problems = build(graph, states, logits)
        seconds = timing.seconds_of(build, graph, states, logits)
        searching = timing.seconds_of(search, keys[0], problems, structure)
        rows.append(
            {
                "messages": path,
                "ns per message": 1e9 * seconds / num_messages,
                "proposals/s": everywhere / searching,
            }
        )
    for row in rows:
        row["ratio of messages"] = row["ns per message"] / rows[0]["ns per message"]
        row["ratio of proposals"] = row["proposals/s"] / rows[0]["proposals/s"]
    print(common.format_table(rows, float_format=".3g"))
    print(f"\n{np.size(tasks)} systems of {num_nodes} nodes, width {width}")


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
