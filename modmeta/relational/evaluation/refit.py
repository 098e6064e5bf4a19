"""Laws learned again, given how many times every edge has the law of its relation.

Letters: N nodes, D slots, K edge modules.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules.network import ModelParams
from modmeta.search import Structure

# Steps through all batches, at least so many in all, and their size.
_PASSES, _LEAST, _RATE = 10, 150, 3e-3


class Weighted(NamedTuple):
    """One batch with strengths.

    Attributes:
      frames: Leaves `[N, T, ...]`, normalised.
      graph: Connectivity.
      structure: Whose law is on every slot.
      strengths: `[N, D]`, 0 at empty slots.
    """

    frames: Frames
    graph: SuperGraph
    structure: Structure
    strengths: Any


def refit_laws(
    model: RelationalModel, params: ModelParams, batches: Sequence[Weighted]
) -> ModelParams:
    """Gradient steps on the energy of weighted structures.

    Args:
      model: The model.
      params: Its arrays.
      batches: All systems.

    Returns:
      The arrays with other modules.
    """
    optimizer = _optimizer()
    state = optimizer.init(params.modules)
    passes = max(_PASSES, -(-_LEAST // len(batches)))
    for _ in range(passes):
        for batch in batches:
            params, state = _step(model, params, state, batch)
    return params


def _optimizer() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(_RATE))


@functools.partial(jax.jit, static_argnames="model")
def _step(
    model: RelationalModel, params: ModelParams, state: Any, batch: Weighted
) -> tuple[ModelParams, Any]:
    graph, structure = batch.graph, batch.structure
    one_hot = jax.nn.one_hot(structure.edge_modules, model.num_relations)
    weights = batch.strengths[..., None] * one_hot
    unknown = jnp.zeros_like(weights)
    count = jnp.sum(graph.node_mask) * batch.frames.states.shape[1]

    def loss(modules):
        problems = build_problems(
            model, params._replace(modules=modules), graph, batch.frames, unknown
        )

        def of(data, candidates, own):
            return problems.energy(data, candidates).relaxed(*own)

        own = problems.split(Structure(weights, structure.node_modules))
        energies = jax.vmap(of)(problems.data, problems.candidates, own)
        return jnp.sum(energies) / count

    gradient = jax.grad(loss)(params.modules)
    change, state = _optimizer().update(gradient, state, params.modules)
    return params._replace(modules=optax.apply_updates(params.modules, change)), state
