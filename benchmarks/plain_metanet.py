"""The graph metanetwork as one writes it at first: gather, join, multiply, segment-sum.

It takes the parameters of `modmeta.metanet.InvariantMetanet` and gives the same
outputs, so it is what a training step is compared with, and what its outputs are
tested against. For means over incoming edges, no global vector, edges read alone.

Letters: F edges, N nodes, B networks, H width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from modmeta.metanet.models.encoders import NodeEncoder
from modmeta.metanet.models.features import edge_rows
from modmeta.metanet.models.options import MetanetConfig


def dense(params: Any, inputs: Any) -> jax.Array:
    """A linear map of the last axis."""
    outputs = inputs @ params["kernel"]
    if "bias" in params:
        outputs = outputs + params["bias"].reshape((1,) * (outputs.ndim - 1) + (-1,))
    return outputs


def layer_norm(params: Any, inputs: jax.Array) -> jax.Array:
    """LayerNorm over the last axis."""
    shape = (1,) * (inputs.ndim - 1) + (-1,)
    centred = inputs - jnp.mean(inputs, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normalized = centred / jnp.sqrt(variance + 1e-6)
    return normalized * params["scale"].reshape(shape) + params["bias"].reshape(shape)


def encoded_edges(params: Any, graph: Any) -> jax.Array:
    """Features of edges to `[F, B, H]`."""
    rows, values = edge_rows(graph), jnp.asarray(graph.edges.values)[..., None]
    parts = [
        jnp.sin(dense(params["layers"]["Dense_0"], rows.layers)),
        params["types"]["embedding"][rows.types],
        jnp.sin(dense(params["positions"]["Dense_0"], rows.positions)),
        jnp.asarray(rows.is_reversed)[:, None].astype(jnp.float32),
    ]
    fixed = dense(params["output_fixed"], jnp.concatenate(parts, axis=-1))
    encoded = jnp.sin(dense(params["values"]["Dense_0"], values))
    joined = jnp.concatenate([values, encoded], axis=-1)
    return dense(params["output_values"], joined) + fixed[:, None]


def mean_at(messages: jax.Array, targets: jax.Array, num_nodes: int) -> jax.Array:
    """Means `[N, B, H]` of messages `[F, B, H]` at the nodes that they go to."""
    total = jax.ops.segment_sum(messages, targets, num_nodes)
    counts = jax.ops.segment_sum(jnp.ones(len(messages)), targets, num_nodes)
    return total / jnp.maximum(counts, 1.0)[:, None, None]


def plain_metanet(params: Any, graph: Any, config: MetanetConfig) -> jax.Array:
    """Outputs `[B, outputs]` of an `InvariantMetanet` of these parameters.

    Args:
      params: Of the module, without "params".
      graph: With edge values `[F, B]`.
      config: Options of the metanetwork.
    """
    metanet, width = params["metanet"], config.width
    senders, receivers = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)
    edges = encoded_edges(metanet["edge_encoder"], graph)
    encoder = NodeEncoder(width, config.encoding)
    nodes: Any = encoder.apply({"params": metanet["node_encoder"]}, graph.nodes)
    nodes = jnp.broadcast_to(nodes[:, None], (len(nodes), *edges.shape[1:]))

    def joined(block, name, kernels, inputs):
        kernel = jnp.concatenate(kernels)
        bias = block[name]["bias"]
        rows = jnp.concatenate(inputs, axis=-1)
        return jax.nn.relu(dense({"kernel": kernel, "bias": bias}, rows))

    for index in range(config.num_blocks):
        block = metanet[f"block_{index}"]
        normalized = layer_norm(block["node_norm"], nodes)
        sent, received = normalized[senders], normalized[receivers]
        from_sender = block["sender"]["kernel"]
        from_receiver = block["receiver"]["kernel"]
        kernels = [
            from_sender[:, :width],
            from_receiver[:, :width],
            block["edge"]["kernel"],
        ]
        inputs = [sent, received, layer_norm(block["edge_norm"], edges)]
        updated = joined(block, "edge", kernels, inputs)
        edges = edges + dense(block["edge_output"], updated)
        if index == config.num_blocks - 1:
            break
        kernels = [from_sender[:, width:], block["message"]["kernel"]]
        messages = joined(block, "message", kernels, [sent, updated])
        incoming = mean_at(messages, receivers, len(nodes))
        update = dense(block["node"], normalized) + dense(block["incoming"], incoming)
        if config.reverse_messages:
            kernels = [from_receiver[:, width:], block["reverse_message"]["kernel"]]
            messages = joined(block, "reverse_message", kernels, [received, updated])
            outgoing = mean_at(messages, senders, len(nodes))
            update = update + dense(block["outgoing"], outgoing)
        nodes = nodes + dense(block["node_output"], jax.nn.relu(update))
    edges = dense(metanet["edge_output"], layer_norm(metanet["edge_norm"], edges))
    pooled = jnp.mean(jax.nn.relu(dense(params["readout"]["edges"], edges)), axis=0)
    hidden = jax.nn.relu(dense(params["readout"]["output"]["layer_0"], pooled))
    return dense(params["readout"]["output"]["layer_1"], hidden)
