"""Whether wrong edges are the search's fault: is the true structure of lower energy?

    python -m benchmarks.search_faults --model=runs/charged/model.npz --nodes=20

Simulated systems are searched under trained modules. Where the true structure has a
lower energy than the one found, a better search would have found it or better ones;
where not, the laws, or the data, prefer what is wrong. Without a prior this is told of
every receiver, with one of every system.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.relational_inference.config import CONFIGS, DataConfig
from experiments.relational_inference.datasets import simulate
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import as_frames
from modmeta.relational.energies.config import PRIORS
from modmeta.relational.evaluation import matching
from modmeta.relational.evaluation.scores import match_labels, structures_from_labels
from modmeta.relational.inference.artifacts import load_model
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import all_batches, unstacked
from modmeta.relational.tasks.states import host_states
from modmeta.relational.tasks.structures import TaskStructures, gather
from modmeta.search import SEARCHES

_MODEL = flags.DEFINE_string("model", None, "A model.npz of relational_inference.")
_SYSTEM = flags.DEFINE_enum("system", "charged", list(CONFIGS), "Simulator.")
_NODES = flags.DEFINE_integer("nodes", 10, "Entities per system.", lower_bound=2)
_DEGREE = flags.DEFINE_float("mean_degree", 0.0, "Edges per entity; 0 for half.")
_SYSTEMS = flags.DEFINE_integer("systems", 40, "Systems.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 49, "Frames.", lower_bound=3)
_SEED = flags.DEFINE_integer("seed", 11, "Seed of the systems.")
_BATCH = flags.DEFINE_integer("batch_size", 5, "Systems at once.", lower_bound=1)
_PRIOR = flags.DEFINE_enum("prior", "none", list(PRIORS), "Structural prior.")
_SEARCH = flags.DEFINE_enum(
    "search", "integer_least_squares", list(SEARCHES), "Which search."
)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of the search.", lower_bound=1)
_MORE = flags.DEFINE_integer(
    "more_steps", 0, "Further steps of receivers that stand out.", lower_bound=0
)
_CHAINS = flags.DEFINE_integer("chains", 1, "Chains.", lower_bound=1)
# Nats within which two energies count as equal.
_TOLERANCE = 0.01
flags.mark_flag_as_required("model")


def main(argv: list[str]) -> None:
    """Prints what is wrong and whose fault it is."""
    del argv
    model, params = load_model(str(_MODEL.value))
    model = dataclasses.replace(
        model,
        energy=dataclasses.replace(model.energy, prior=_PRIOR.value),
        memory=dataclasses.replace(model.memory, batch_size=_BATCH.value),
    )
    data = DataConfig(
        system=_SYSTEM.value, num_nodes=(_NODES.value,), mean_degree=_DEGREE.value
    )
    dataset = simulate(data, _SEED.value, _SYSTEMS.value, _FRAMES.value)
    config = InferenceConfig(
        algorithm=_SEARCH.value,
        num_steps=_STEPS.value,
        num_chains=_CHAINS.value,
        more_steps=_MORE.value,
        num_samples=0,
    )
    key = jax.random.key(0)
    first = dataset.take(np.arange(min(_BATCH.value, dataset.num_tasks)))
    infer_dataset(key, model, params, first, config)  # compiles
    started = time.process_time()
    found = infer_dataset(key, model, params, dataset, config)
    seconds = time.process_time() - started

    num_relations = model.num_relations
    labels = np.asarray(dataset.edges)
    names = match_labels(found.edges, labels, num_relations, num_relations)
    accuracy = matching.edge_accuracy(found.edges, labels, names)
    true = structures_from_labels(labels, names, num_relations)
    is_wrong = np.any(true != found.edges, axis=2)
    energies = [
        receiver_energies(model, params, dataset, e) for e in (found.edges, true)
    ]
    unit = "receivers"
    if model.energy.couples_receivers:
        unit, is_wrong = "systems", is_wrong.any(axis=1)
        given = (model, params, dataset)
        energies = [total_energies(*given, e, config) for e in (found.edges, true)]
    is_lower = energies[1] < energies[0] - _TOLERANCE
    wrong, by_search = is_wrong.sum(), (is_wrong & is_lower).sum()
    differs = np.sum(found.edges != np.swapaxes(found.edges, 1, 2)) // 2
    print(
        f"{_SYSTEM.value}, {_NODES.value} entities, {_SYSTEMS.value} systems, prior "
        f"{_PRIOR.value}, {_SEARCH.value}, {_STEPS.value} steps: {accuracy:.4f} of the "
        f"edges; of {is_wrong.size} {unit} {wrong} wrong, {by_search} by the search, "
        f"{wrong - by_search} by laws or data; energy {energies[0].sum():.1f}, of the "
        f"true structures {energies[1].sum():.1f}; "
        f"{differs} pairs disagree; {seconds:.1f} processor seconds",
        flush=True,
    )


def total_energies(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    edges: np.ndarray,
    config: InferenceConfig,
) -> np.ndarray:
    """Energies `[tasks]` of structures `[tasks, N, N]`, prior included."""
    start = _structures(edges)
    no_steps = dataclasses.replace(config, num_steps=0, num_chains=1)
    key = jax.random.key(0)
    found = infer_dataset(key, model, params, dataset, no_steps, start=start)
    return np.asarray(found.energies, np.float64)


def receiver_energies(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    edges: np.ndarray,
) -> np.ndarray:
    """Energies `[tasks, N]` of the receivers of structures `[tasks, N, N]`."""
    energy = dataclasses.replace(model.energy, prior="none")
    model = dataclasses.replace(model, energy=energy)
    dataset = model.read(dataset)
    frames = as_frames(host_states(dataset, params.preprocessing.normalization))
    candidates = model.candidate_edges(dataset)
    batches = all_batches(dataset.num_nodes, model.memory.batch_size, candidates)

    @jax.jit
    def compute(params, frames, graph, structure):
        unknown = jnp.zeros((*graph.slot_mask.shape, model.num_relations))
        problems = build_problems(model, params, graph, frames, unknown)
        return problems.init(structure).local_energies[:, 0]

    energies = np.zeros(edges.shape[:2])
    for batch in unstacked(batches):
        (given, _), graph, structure = gather(batch, (frames, None), _structures(edges))
        values = np.asarray(compute(params, given, graph, structure))
        real = np.asarray(graph.node_mask)
        tasks = np.asarray(batch.tasks)[np.asarray(graph.node_system)]
        energies[tasks[real], np.asarray(graph.node_entity)[real]] = values[real]
    return energies


def _structures(edges: np.ndarray) -> TaskStructures:
    nodes = jnp.zeros(edges.shape[:2], jnp.int32)
    return TaskStructures(jnp.asarray(np.maximum(edges, 0), jnp.int32), nodes)


if __name__ == "__main__":
    app.run(main)
