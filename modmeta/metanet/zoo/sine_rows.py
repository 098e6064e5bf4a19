"""Networks of sines as rows of parameters, and rows as the layers of their symmetries.

Letters: B networks, P parameters each.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from modmeta.metanet.input_networks.sine_symmetries import (
    SineLayer,
    canonical_networks,
)
from modmeta.metanet.zoo.specification import Leaf, unflatten


def layers_of(leaves: Sequence[Leaf], rows: jax.Array) -> list[SineLayer]:
    """The layers of networks `[B, P]`, see `modmeta.metanet.input_networks.fields`.

    Args:
      leaves: Their arrays in a row, "params/layer_0/bias" and so on.
      rows: `[B, P]` parameters.
    """
    layers = unflatten(leaves, rows)["params"]
    return [SineLayer(**layers[f"layer_{index}"]) for index in range(len(layers))]


def rows_of(leaves: Sequence[Leaf], layers: Sequence[SineLayer]) -> jax.Array:
    """Layers as rows `[B, P]`: the way back from `layers_of`."""
    arrays = {
        f"params/layer_{index}/{field}": array.reshape(len(array), -1)
        for index, layer in enumerate(layers)
        for field, array in layer._asdict().items()
    }
    return jnp.concatenate([arrays[leaf.path] for leaf in leaves], axis=1)


def canonical_rows(leaves: Sequence[Leaf], rows: jax.Array, omega: float) -> jax.Array:
    """Rows `[B, P]` of the same functions, see `canonical_networks`."""
    return rows_of(leaves, canonical_networks(layers_of(leaves, rows), omega))
