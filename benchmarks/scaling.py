"""Cost per proposal and memory of the search against the number of entities.

    python -m benchmarks.scaling

One system of springs at a time, untrained modules: all directed edges up to 100
entities, the nearest senders of every receiver beyond. Every receiver makes proposals
at once.
One column spreads the message cache over the proposals, one leaves it out; compilation
is not timed. Then two whole inferences, compilation included: all edges of 100
entities, in chunks of receivers, and limited neighbours of 1,000.
"""

import dataclasses
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import timing
from experiments import common
from modmeta.relational import data
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.inference import memory
from modmeta.relational.inference.config import InferenceConfig, MemoryConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import Problems, build_problems
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.relational.tasks.structures import random_structure
from modmeta.relational.training import setup

_ALL_EDGES = flags.DEFINE_multi_integer(
    "all_edges", [5, 10, 20, 50, 100], "Entities of systems with all edges."
)
_LIMITED = flags.DEFINE_multi_integer(
    "limited", [200, 500, 1000], "Entities of systems with limited neighbours."
)
_NEIGHBORS = flags.DEFINE_integer(
    "neighbors", 20, "Nearest senders per receiver.", lower_bound=1
)
_FRAMES = flags.DEFINE_integer("frames", 49, "Observed frames.", lower_bound=3)
_WIDTH = flags.DEFINE_integer("width", 64, "Hidden width.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 128, "Proposals per receiver.", lower_bound=1)
_CLUSTER = 100
_SPACING = 10.0  # a few times the extent of a cluster


def peak_gibibytes() -> float:
    """Largest memory that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def simulate(num_nodes: int) -> data.TrajectoryDataset:
    """Springs; many entities are clusters side by side, which take less to simulate."""
    size = num_nodes if num_nodes <= _CLUSTER else _CLUSTER
    num_clusters = -(-num_nodes // size)
    clusters = data.simulate_springs(
        0, num_clusters, num_nodes=size, num_frames=_FRAMES.value
    )
    states = clusters.states.copy()
    column = clusters.features.positions[0]
    states[..., column] += _SPACING * np.arange(num_clusters)[:, None, None]
    states = np.concatenate(list(states), axis=1)[None, :, :num_nodes]
    return data.TrajectoryDataset(
        states=states,
        features=clusters.features,
        frame_interval=clusters.frame_interval,
    )


def build(num_nodes: int, num_neighbors: int):
    """A data set of one system and an untrained model; 0 neighbours for all edges."""
    dataset = simulate(num_nodes)
    width = _WIDTH.value
    model, params = setup.build_model(
        dataset,
        jax.random.key(0),
        modules=ModuleConfig(
            edge_sizes=(width, width), message_size=width, node_sizes=(width, width)
        ),
        candidates=CandidateConfig(num_neighbors=num_neighbors),
    )
    return dataset, model, params


def measure(num_nodes: int, num_neighbors: int) -> dict[str, object]:
    """Times the message cache and the annealing of one system."""
    dataset, model, params = build(num_nodes, num_neighbors)
    edges = model.candidate_edges(dataset)
    batches = all_batches(dataset.num_nodes, 1, edges)
    graph = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batches.supergraph)
    task_states = device_states(dataset, params.preprocessing.normalization)
    states = gather_states(task_states, jnp.zeros(1, int), graph)
    structure = random_structure(
        jax.random.key(1), graph.slot_mask, model.num_relations
    )
    logits = jnp.zeros((*graph.slot_mask.shape, model.num_relations))

    @jax.jit
    def prepare(params, graph, states, logits):
        problems = build_problems(model, params, graph, states, logits)
        return problems.data, problems.candidates

    @jax.jit
    def anneal(key, params, graph, cache, candidates, structure):
        problems = Problems(model, params, cache, candidates, graph)
        temperatures = jnp.ones((problems.mask.shape[0], _STEPS.value))
        state = problems.init(structure)
        algorithm = build_algorithm(model, learned=False)
        return problems.run(key, state, algorithm, temperatures)[0].energy

    prepared, cache_seconds = timing.fastest(prepare, params, graph, states, logits)
    _, search_seconds = timing.fastest(
        anneal, jax.random.key(2), params, graph, *prepared, structure
    )
    num_proposals = num_nodes * _STEPS.value
    need = memory.predict_bytes(
        model, memory.budget_of(graph), _FRAMES.value, InferenceConfig(num_chains=1)
    )
    return {
        "entities": num_nodes,
        "edges": int(graph.slot_mask.sum()),
        "us/proposal": 1e6 * (cache_seconds + search_seconds) / num_proposals,
        "without cache": 1e6 * search_seconds / num_proposals,
        "predicted GiB": need.total / 2**30,
        "peak GiB so far": peak_gibibytes(),
    }


def infer(num_nodes: int, num_neighbors: int, chunk: int) -> dict[str, object]:
    """Infers the relations of one system from end to end."""
    dataset, model, params = build(num_nodes, num_neighbors)
    model = dataclasses.replace(model, memory=MemoryConfig(receiver_chunk=chunk))
    started = time.perf_counter()
    found = infer_dataset(jax.random.key(3), model, params, dataset, InferenceConfig())
    seconds = time.perf_counter() - started
    return {
        "entities": num_nodes,
        "edges": int((found.edges >= 0).sum()),
        "receivers at once": chunk or num_nodes,
        "seconds": seconds,
        "peak GiB so far": peak_gibibytes(),
    }


def main(argv: list[str]) -> None:
    """Prints both tables."""
    del argv
    rows = [measure(num_nodes, 0) for num_nodes in _ALL_EDGES.value]
    rows += [measure(num_nodes, _NEIGHBORS.value) for num_nodes in _LIMITED.value]
    print(common.format_table(rows, float_format=".3g"), end="\n\n", flush=True)
    rows = [
        infer(max(_ALL_EDGES.value), 0, chunk=25),
        infer(max(_LIMITED.value), _NEIGHBORS.value, chunk=0),
    ]
    print(common.format_table(rows, float_format=".3g"))
    print(f"\n{_FRAMES.value} frames, width {_WIDTH.value}")


if __name__ == "__main__":
    app.run(main)
