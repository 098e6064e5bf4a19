"""Topologies of multilayer perceptrons written out by hand, one edge at a time.

The parameters are `W_1, b_1, W_2, b_2, ...`, row-major, `W_l` of `[outputs, inputs]`.
"""

import types

import numpy as np

from modmeta.metanet.parameter_graphs.edges import EdgeKinds

INPUT, HIDDEN, OUTPUT, BIAS = 0, 1, 2, 3
WEIGHT_EDGE, BIAS_EDGE = 5, 6
PROBES = np.linspace(-2.0, 2.0, 8)


def relu(x):
    return np.maximum(x, 0.0)


def shapes(widths):
    """Shapes of `W_1, b_1, W_2, b_2, ...`."""
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        yield (outputs, inputs)
        yield (outputs,)


def num_parameters(widths):
    return sum(int(np.prod(shape)) for shape in shapes(widths))


def random_tensors(rng, widths):
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes(widths)]


def flatten(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def unflatten(vector, widths):
    tensors, start = [], 0
    for shape in shapes(widths):
        size = int(np.prod(shape))
        tensors.append(np.reshape(vector[start : start + size], shape))
        start += size
    return tensors


def mlp(tensors, inputs):
    """Runs the network on one input."""
    values = inputs
    for index in range(0, len(tensors), 2):
        values = tensors[index] @ values + tensors[index + 1]
        if index < len(tensors) - 2:
            values = relu(values)
    return values


def permute_hidden(tensors, permutations):
    """The same function with the hidden units of every layer in another order."""
    tensors = list(tensors)
    for layer, permutation in enumerate(permutations):
        tensors[2 * layer] = tensors[2 * layer][permutation]
        tensors[2 * layer + 1] = tensors[2 * layer + 1][permutation]
        tensors[2 * layer + 2] = tensors[2 * layer + 2][:, permutation]
    return tensors


def random_permutations(rng, widths):
    return [rng.permutation(width) for width in widths[1:-1]]


def duplicate_hidden(tensors):
    """The same function with every hidden unit twice."""
    tensors = list(tensors)
    for layer in range(len(tensors) // 2 - 1):
        tensors[2 * layer] = np.repeat(tensors[2 * layer], 2, axis=0)
        tensors[2 * layer + 1] = np.repeat(tensors[2 * layer + 1], 2, axis=0)
        tensors[2 * layer + 2] = np.repeat(tensors[2 * layer + 2] / 2, 2, axis=1)
    return tensors


def topology(widths):
    """The topology of a ReLU network; edge values are its flat parameters."""
    nodes, edges = [], []
    units = list(range(widths[0]))
    for order in units:
        nodes.append((INPUT, 0, order, PROBES))
    for layer, width in enumerate(widths[1:], start=1):
        is_output = layer == len(widths) - 1
        first, bias = len(nodes), len(nodes) + width
        for unit in range(width):
            kind, order = (OUTPUT, unit) if is_output else (HIDDEN, -1)
            nodes.append((kind, layer, order, PROBES if is_output else relu(PROBES)))
        nodes.append((BIAS, layer, -1, PROBES))
        for unit in range(width):
            for source in units:
                edges.append((source, first + unit, WEIGHT_EDGE, layer))
        for unit in range(width):
            edges.append((bias, first + unit, BIAS_EDGE, layer))
        units = list(range(first, first + width))
    node_types, node_layers, node_orders, node_functions = zip(*nodes, strict=True)
    senders, receivers, edge_types, edge_layers = np.array(edges, np.int32).T
    num_edges = len(edges)
    made = types.SimpleNamespace(
        senders=senders,
        receivers=receivers,
        node_types=np.array(node_types, np.int32),
        node_layers=np.array(node_layers, np.int32),
        node_orders=np.array(node_orders, np.int32),
        node_functions=np.array(node_functions, np.float32),
        # No meaning, but neither zero nor different within a layer.
        node_attributes=np.outer(node_layers, [0.5, -1.0]).astype(np.float32),
        edge_types=edge_types,
        edge_layers=edge_layers,
        edge_positions=np.outer(edge_layers, [1.0, 0.0, -0.5]).astype(np.float32),
        edge_parameters=np.arange(num_edges, dtype=np.int32),
        edge_constants=np.zeros(num_edges, np.float32),
        inputs=np.arange(widths[0]),
        outputs=np.array(units),
        num_nodes=len(nodes),
        num_edges=num_edges,
        num_parameters=num_edges,
        leaves=(),
    )
    return with_kinds(made)


def with_kinds(topology):
    """Gives a topology the table of its kinds of edges, by a loop."""
    rows = []
    for receiver, sender, kind, layer, position in zip(
        topology.receivers,
        topology.senders,
        topology.edge_types,
        topology.edge_layers,
        topology.edge_positions,
        strict=True,
    ):
        alike = topology.edge_types == kind
        into = np.sum(alike & (topology.receivers == receiver))
        out_of = np.sum(alike & (topology.senders == sender))
        rows.append((kind, layer, *position, 0.0, False, into, out_of))
    distinct, numbers = np.unique(np.array(rows), axis=0, return_inverse=True)
    topology.edge_kinds = numbers.ravel().astype(np.uint16)
    columns = distinct.T
    topology.kinds = EdgeKinds(
        types=columns[0].astype(np.int32),
        layers=columns[1].astype(np.int32),
        positions=distinct[:, 2:5].astype(np.float32),
        constants=columns[5].astype(np.float32),
        is_constant=columns[6].astype(bool),
        receiver_counts=columns[7].astype(np.int32),
        sender_counts=columns[8].astype(np.int32),
    )
    return topology


def relabel(rng, topology, *, nodes=True, edges=True):
    """Another order of nodes and edges; returns it and the order of the edges."""
    node_order = np.arange(topology.num_nodes)
    edge_order = np.arange(topology.num_edges)
    if nodes:
        node_order = rng.permutation(topology.num_nodes)
    if edges:
        edge_order = rng.permutation(topology.num_edges)
    new_id = np.argsort(node_order)
    relabelled = types.SimpleNamespace(**vars(topology))
    for name, value in vars(topology).items():
        if name.startswith("node_"):
            setattr(relabelled, name, value[node_order])
        if name.startswith("edge_"):
            setattr(relabelled, name, value[edge_order])
        if name in ("senders", "receivers"):
            setattr(relabelled, name, new_id[value[edge_order]].astype(np.int32))
        if name in ("inputs", "outputs"):
            setattr(relabelled, name, new_id[value])
    return relabelled, edge_order, node_order
