"""Embeddings: a vocabulary node per row, which fires if the index is its order."""

from __future__ import annotations

import flax.linen as nn
import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.signals import Signal, Table


@register_rule(nn.Embed, defaults=("promote_dtype",))
def embedding(builder: Builder, call: LayerCall) -> Signal | Table:
    """`nn.Embed`: rows of the table by indices.

    Indices that depend on the input select vocabulary nodes, which have order ids and
    one edge per entry of their row. Constant indices make a table of parameters, as
    learned positions are.
    """
    table = call.parameters["embedding"]
    indices = call.argument("inputs", 0)
    if isinstance(indices, Table):
        if not indices.is_constant:
            raise UnsupportedLayerError("Embed of parameters as indices")
        rows = indices.constants.astype(int)
        return table.map(lambda array: array[rows])
    return embed(builder, table, indices)


def embed(builder: Builder, table: Table, indices: Signal) -> Signal:
    """Rows of a table `[V, F]` at indices that depend on the input."""
    if indices.units.size != 1:
        raise UnsupportedLayerError(
            f"Embed of {indices.units.size} units, expected indices that are one unit "
            "at all positions"
        )
    num_rows, num_features = table.shape
    layer = builder.layer(indices) + 1
    vocabulary = builder.add_nodes(
        "vocabulary", num_rows, layer=layer, orders=np.arange(num_rows)
    )
    unit = indices.units.reshape(1)
    positions = indices.all_positions().reshape(1, -1)
    builder.add_edges(
        unit,
        vocabulary,
        "identity",
        layer=layer,
        function=indices.function,
        positions=positions,
    )
    units = builder.add_nodes("embedding", num_features, layer=layer)
    builder.add_edges(
        vocabulary[:, None], units, "embedding", layer=layer, values=table
    )
    shape = (*indices.shape, num_features)
    units = units.reshape((1,) * indices.ndim + (-1,))
    return Signal(units, shape, (*indices.axes, ()))
