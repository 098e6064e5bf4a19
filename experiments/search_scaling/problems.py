"""Unseen systems of one size as search problems: one per receiver.

Letters: S systems of n entities, N nodes of their super-graph, P = S n problems, one
for every node but the padding, D = n - 1 candidate edges of a receiver.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.relational_inference import datasets
from experiments.relational_inference.config import DataConfig
from experiments.search_scaling.config import SystemsConfig
from modmeta.graphs import supergraphs
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.problems import Problems, build_problems
from modmeta.relational.modules.network import ModelParams, RelationalNetwork
from modmeta.relational.tasks.states import device_states, gather_states


class SizedProblems(NamedTuple):
    """All problems of one size.

    Attributes:
      model: The model.
      params: Its arrays.
      supergraph: Of all systems of the size.
      states: `[N, T, F]` normalised observed frames.
      logits: `[N, D, K]` of the proposal head.
      labels: `[N, D]` true relation of every candidate edge.
      num_labels: True relations.
      size: Entities per system.
      num_problems: P.
    """

    model: RelationalModel
    params: ModelParams
    supergraph: SuperGraph
    states: jax.Array
    logits: jax.Array
    labels: jax.Array
    num_labels: int
    size: int
    num_problems: int


def simulate(
    config: SystemsConfig, like: DataConfig, size: int, seed: int
) -> TrajectoryDataset:
    """Simulates systems of a size.

    Args:
      config: How many.
      like: What training systems look like.
      size: Entities per system.
      seed: Training systems use even seeds, these an odd one for every size.

    Raises:
      ValueError: If the size is too small.
    """
    return datasets.simulate(
        dataclasses.replace(like, num_nodes=(size,)),
        2 * (1000 * seed + size) + 1,
        config.num_systems(size),
        like.num_observed,
    )


def prepare(
    model: RelationalModel, params: ModelParams, dataset: TrajectoryDataset
) -> SizedProblems:
    """Sets up the problems of systems of one size, and runs the proposal head.

    Args:
      model: The model; nothing in it may couple receivers.
      params: Its arrays.
      dataset: Systems of the same size, observed frames.

    Raises:
      ValueError: If a prior or roll-out couples receivers.
    """
    if model.energy.couples_receivers:
        raise ValueError(
            f"energy: found {model.energy}, expected independent receivers: form "
            "'one_step' without prior"
        )
    size = dataset.max_nodes
    sizes = [size] * dataset.num_tasks
    budget = supergraphs.padding_budget(sizes, len(sizes))
    graph = jax.device_put(supergraphs.build_supergraph(sizes, budget))
    tasks = jnp.arange(dataset.num_tasks)
    states = gather_states(
        device_states(dataset, params.preprocessing.normalization), tasks, graph
    )
    labels = jnp.asarray(dataset.edges)[
        tasks[graph.node_system][:, None],
        graph.node_entity[:, None],
        graph.slot_entities,
    ]
    return SizedProblems(
        model=model,
        params=params,
        supergraph=graph,
        states=states,
        logits=_head(model.network, params, graph, states),
        labels=jnp.where(graph.slot_mask, labels, -1),
        num_labels=dataset.num_relations,
        size=size,
        num_problems=size * dataset.num_tasks,
    )


_head = jax.jit(RelationalNetwork.edge_logits, static_argnums=0)


def chunk(problems: SizedProblems, receivers: np.ndarray) -> Problems:
    """The problems of some receivers `[C]`, leaves `[C, 1, ...]`, messages computed."""
    data, candidates, observed = _chunk(
        problems.model,
        problems.params,
        problems.supergraph,
        problems.states,
        problems.logits,
        jnp.asarray(receivers),
    )
    return Problems(
        problems.model,
        problems.params,
        data,
        candidates,
        problems.supergraph,
        observed,
    )


def true_modules(problems: SizedProblems, names: np.ndarray) -> np.ndarray:
    """Modules `[P, D]` of the true graph, module 0 where none has that name.

    Args:
      problems: The problems.
      names: `[K]` true relation of every module.
    """
    module_of = np.zeros(max(problems.num_labels, int(np.max(names)) + 1), np.int32)
    module_of[names] = np.arange(len(names))
    return module_of[np.asarray(problems.labels)[: problems.num_problems]]


@functools.partial(jax.jit, static_argnames="model")
def _chunk(model, params, supergraph, states, logits, receivers):
    found = build_problems(
        model, params, supergraph, states, logits, receivers=receivers
    )
    return found.data, found.candidates, found.observed
