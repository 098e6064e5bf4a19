"""The last step of building: outputs, shared parameters, functions of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.edges import edge_arrays
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import IDENTITY, Function
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES, output_code
from modmeta.metanet.parameter_graphs.leaves import LeafSpec, StateLeaf
from modmeta.metanet.parameter_graphs.shared import tie_shared_parameters
from modmeta.metanet.parameter_graphs.signals import Signal, Table
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.parameter_graphs.vocabulary import ATTRIBUTES


def finish(
    builder: Builder,
    outputs: Sequence[Signal],
    leaves: tuple[LeafSpec, ...],
    state: tuple[StateLeaf, ...],
    structure: Any,
    *,
    allow_unused: bool = False,
) -> Topology:
    """Turns everything that was collected into a `Topology`.

    Args:
      builder: Nodes and edges.
      outputs: Outputs of the network.
      leaves: Parameters among its variables.
      state: Other arrays among them.
      structure: Tree structure of the variables.
      allow_unused: Whether parameters that no output depends on are carried along.

    Returns:
      The topology.

    Raises:
      UnsupportedLayerError: If a parameter has no edge and that is not allowed; the
        message names its path.
    """
    _carry_unused(builder, leaves, allow_unused)
    outputs = _separate_outputs(builder, outputs)
    tie_shared_parameters(builder)
    output_units, functions, numbers = _assign_functions(builder, outputs)
    builder.fix(output_units)

    num_nodes = builder.num_nodes
    orders = builder.node_array("orders").copy()
    orders[output_units] = np.arange(len(output_units))
    attributes = np.zeros((num_nodes, len(ATTRIBUTES)), np.float32)
    for nodes, column, values in builder.attributes:
        attributes[nodes, column] = values
    edges = edge_arrays(builder.edges, num_nodes)
    node_classes, node_slots, parts, classes = builder.classes.finish(
        builder.node_array("classes"), builder.node_array("slots")
    )
    # Parts of a block that were tied to different units, or to each other, are blocks.
    blocks = np.stack([builder.node_array("blocks"), parts], axis=1)
    blocks = np.unique(blocks, axis=0, return_inverse=True)[1].ravel()
    return Topology(
        senders=edges.senders,
        receivers=edges.receivers,
        node_types=builder.node_array("types"),
        node_layers=builder.node_array("layers"),
        node_orders=orders,
        node_functions=np.stack([f.fingerprint for f in functions])[numbers],
        node_homogeneous=np.array([f.is_positively_homogeneous for f in functions])[
            numbers
        ],
        node_attributes=attributes,
        edge_parameters=edges.parameters,
        edge_kinds=edges.kinds,
        kinds=edges.table,
        inputs=np.concatenate([np.zeros(0, np.int32), *builder.inputs]),
        outputs=output_units,
        leaves=leaves,
        state=state,
        structure=structure,
        node_blocks=blocks.astype(np.int32),
        node_classes=node_classes,
        node_slots=node_slots,
        classes=classes,
        parameter_edges=_parameter_edges(edges.parameters, leaves),
    )


def _separate_outputs(builder: Builder, outputs: Sequence[Signal]) -> list[Signal]:
    """Gives every output element a unit of its own that has no other order id."""
    separate, taken = [], np.zeros(0, np.int32)
    for signal in map(builder.in_order, outputs):
        layout = output_code(signal.shape, signal.axes)
        units = signal.units.ravel()
        is_own = (
            len(np.unique(units)) == units.size
            and not np.any(np.isin(units, taken))
            and np.all(builder.node_array("orders")[units] < 0)
            and not np.any(signal.all_positions())
        )
        if layout or not is_own:
            signal = builder.copy(signal, attributes={"layout": layout})
        taken = np.concatenate([taken, signal.units.ravel()])
        separate.append(signal)
    return separate


def _assign_functions(
    builder: Builder, outputs: list[Signal]
) -> tuple[np.ndarray, list[Function], np.ndarray]:
    """Gives every unit its function, and a view to units that are used under several.

    Returns:
      Nodes of the outputs, the functions that occur, and which of them is that of
      every node, `[N]`.
    """
    num_units = builder.num_nodes
    functions: dict[bytes, Function] = {IDENTITY.key: IDENTITY}
    uses: dict[bytes, np.ndarray] = {IDENTITY.key: np.zeros(num_units, bool)}
    for source in [*builder.edges, *outputs]:
        units = source.units if isinstance(source, Signal) else source.senders
        key = source.function.key
        functions.setdefault(key, source.function)
        uses.setdefault(key, np.zeros(num_units, bool))[units] = True
    num_uses = np.sum(list(uses.values()), axis=0, dtype=np.int32)

    keys = list(uses)
    numbers = [np.full(num_units, keys.index(IDENTITY.key), np.int32)]
    views: dict[bytes, np.ndarray] = {}
    blocks, layers = builder.node_array("blocks"), builder.node_array("layers")
    num_edge_blocks = len(builder.edges)
    for number, (key, is_used) in enumerate(uses.items()):
        numbers[0][is_used & (num_uses == 1)] = number
        several = np.nonzero(is_used & (num_uses > 1))[0]
        if functions[key].is_identity or not several.size:
            continue
        views[key] = np.arange(num_units, dtype=np.int32)
        for block in np.unique(blocks[several]):
            units = several[blocks[several] == block].astype(np.int32)
            nodes = builder.add_nodes("view", len(units), layer=int(layers[units[0]]))
            plain = Signal(units, units.shape, ((),))
            builder.link(plain, nodes)
            views[key][units] = nodes
            numbers.append(np.full(len(units), number, np.int32))
    for index, block in enumerate(builder.edges[:num_edge_blocks]):
        if block.function.key in views:
            senders = views[block.function.key][block.senders]
            builder.edges[index] = block._replace(senders=senders)
    output_units = [
        views[s.function.key][s.units.ravel()]
        if s.function.key in views
        else s.units.ravel()
        for s in outputs
    ]
    nodes = np.concatenate([np.zeros(0, np.int32), *output_units])
    return nodes, list(functions.values()), np.concatenate(numbers)


def _carry_unused(
    builder: Builder, leaves: tuple[LeafSpec, ...], is_allowed: bool
) -> None:
    """Gives every parameter without an edge one, from a node of its array to itself.

    The edges of an array are told apart by their positions, so none of them moves.

    Raises:
      UnsupportedLayerError: If that is not allowed; the message names the path.
    """
    is_used = np.zeros(sum(leaf.size for leaf in leaves), bool)
    for block in builder.edges:
        is_used[block.parameters[block.parameters >= 0]] = True
    for index, leaf in enumerate(leaves):
        unused = np.nonzero(~is_used[leaf.offset : leaf.offset + leaf.size])[0]
        if unused.size and not is_allowed:
            raise UnsupportedLayerError(
                f"{leaf.name}: found entries that no edge carries, expected every "
                "parameter to take part in the output, or allow_unused=True"
            )
        if not unused.size:
            continue
        node = builder.add_nodes("unused", 1, layer=0, orders=np.array([index]))
        positions = np.zeros((unused.size, NUM_COORDINATES), np.float32)
        positions[:, 0], positions[:, 1] = unused % 2**20, unused // 2**20
        builder.add_edges(
            node,
            np.broadcast_to(node, unused.shape),
            "unused",
            layer=0,
            values=Table(
                (leaf.offset + unused).astype(np.int32),
                np.zeros(unused.size, np.float32),
            ),
            positions=positions,
        )


def _parameter_edges(
    parameters: np.ndarray, leaves: tuple[LeafSpec, ...]
) -> np.ndarray:
    """The first edge `[M]` of every parameter."""
    edges = np.full(sum(leaf.size for leaf in leaves), -1, np.int32)
    backwards = np.arange(len(parameters), dtype=np.int32)[parameters >= 0][::-1]
    edges[parameters[backwards]] = backwards
    return edges
