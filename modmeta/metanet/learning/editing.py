"""Training of metanetworks that edit networks: new weights for a new function.

An editor changes normalised weights; what counts is what the changed networks compute.
With `modmeta.metanet.learning.prediction.fit`: a `VectorSource` of raw rows, an
`EditingPredictor`, and an `OutputError` as the objective.

Letters: b networks of a batch, M parameters each, K heads, Q inputs, C outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta.metanet.learning.contrastive import WeightStatistics

Respond = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class EditingPredictor:
    """From the raw rows `[b, M]` of networks to those of new ones, `[b, K, M]`.

    New weights are the old ones plus changes in units of the spread of their leaf:
    where changes are zero, they are the old ones to the bit.

    Attributes:
      editor: See `modmeta.metanet.models.editors`.
      statistics: What normalises a row.
    """

    editor: nn.Module
    statistics: WeightStatistics

    def init(self, rng_key: jax.Array, inputs: jax.Array) -> Any:
        """Initial parameters; the key is consumed."""
        return self.editor.init(rng_key, self.statistics.normalize(inputs))

    def apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """New rows `[b, K, M]`."""
        changes = self.editor.apply(params, self.statistics.normalize(inputs))
        return inputs[:, None] + changes * self.statistics.deviation[None, None]


def mean_outputs(respond: Respond, rows: jax.Array) -> jax.Array:
    """What K networks compute on average.

    Args:
      respond: `[n, M] -> [n, Q, C]`, runs networks.
      rows: `[b, K, M]`.

    Returns:
      `[b, Q, C]`.
    """
    size, num_heads, num_parameters = rows.shape
    outputs = respond(jnp.reshape(rows, (size * num_heads, num_parameters)))
    return jnp.mean(outputs.reshape(size, num_heads, *outputs.shape[1:]), axis=1)


@dataclasses.dataclass(frozen=True)
class OutputError:
    """Mean squared error of outputs, as an objective of `fit`.

    Attributes:
      respond: `[n, M] -> [n, Q, C]`, runs networks. Make it once: programs are kept by
        it.
    """

    respond: Respond

    def __call__(self, rows: jax.Array, targets: jax.Array) -> jax.Array:
        """Errors `[b]` of networks `[b, K, M]` on targets `[b, Q, C]`."""
        found = mean_outputs(self.respond, jnp.asarray(rows))
        return jnp.mean(jnp.square(found - targets), axis=(1, 2))
