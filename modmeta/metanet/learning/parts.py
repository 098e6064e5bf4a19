"""Batches that are computed part by part, and their outputs and gradients.

On a CPU a step over many edges waits for memory. Parts whose embeddings stay in the
cache of a processor take half the time; their gradients add up to that of the batch.

Letters: b networks of a batch, P parts, m networks of a part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Parts(NamedTuple):
    """A batch in parts.

    Attributes:
      inputs: Leaves `[P, ...]`, those of a part as a predictor takes them.
      places: `[P, m]` place in the batch of every output of a part, b for those of
        padding.
    """

    inputs: Any
    places: np.ndarray | jax.Array


def assign(sizes: np.ndarray, num_parts: int) -> np.ndarray:
    """The part `[..., b]` of every network of batches, parts being of like size.

    Args:
      sizes: `[..., b]`. The largest networks come first, each to the part that holds
        least.
      num_parts: P.
    """
    order = np.argsort(-sizes, axis=-1, kind="stable")
    loads = np.zeros((*sizes.shape[:-1], num_parts), np.int64)
    parts = np.zeros(sizes.shape, np.int64)
    for rank in range(sizes.shape[-1]):
        index = order[..., rank, None]
        part = np.argmin(loads, axis=-1, keepdims=True)
        size = np.take_along_axis(sizes, index, axis=-1)
        # One more: no part stays empty while there are networks without edges.
        held = np.take_along_axis(loads, part, axis=-1) + 1
        np.put_along_axis(loads, part, held + size, axis=-1)
        np.put_along_axis(parts, index, part, axis=-1)
    return parts


def outputs_of(apply: Callable[[Any], Any], inputs: Any, count: int) -> Any:
    """Outputs of all networks, leaves `[b, ...]`.

    Args:
      apply: From what a predictor takes to its outputs.
      inputs: A batch, in parts or in one.
      count: b.
    """
    if not isinstance(inputs, Parts):
        return apply(inputs)
    outputs = jax.lax.map(apply, inputs.inputs)
    places = jnp.asarray(inputs.places)
    sources = jnp.argsort(places.ravel())[:count]

    def gather(leaf):
        return leaf.reshape(places.size, *leaf.shape[2:])[sources]

    return jax.tree.map(gather, outputs)


def value_and_gradient(
    losses: Callable[[Any, Any, Any], jax.Array], params: Any, inputs: Any, targets: Any
) -> tuple[jax.Array, Any]:
    """The mean loss of a batch and its gradient.

    Args:
      losses: `(params, inputs, targets) -> [m]`, of a part or of a batch in one.
      params: Parameters.
      inputs: A batch, in parts or in one.
      targets: Leaves `[b, ...]`.
    """
    if not isinstance(inputs, Parts):
        return jax.value_and_grad(lambda p: jnp.mean(losses(p, inputs, targets)))(
            params
        )
    count = len(jax.tree.leaves(targets)[0])

    def share(params, part):
        own = jax.tree.map(
            lambda leaf: jnp.asarray(leaf).at[part.places].get(mode="clip"), targets
        )
        values = losses(params, part.inputs, own)
        return jnp.sum(jnp.where(part.places < count, values, 0.0)) / count

    def add(total, part):
        found = jax.value_and_grad(share)(params, part)
        return jax.tree.map(jnp.add, total, found), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, inputs)[0]
