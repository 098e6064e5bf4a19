"""Learned grids: a node per grid point, which fires where the coordinates are near.

A point has an order id and edges of value 1 from the coordinates it depends on; the
positions of these edges, and of the edges from the point to the features, are the
place of the point in [-1, 1]. So the axes of a grid, and the three planes of a
triplanar one, are told apart by what they are connected to.
"""

from __future__ import annotations

import numpy as np

from modmeta.metanet.input_networks.layers import PLANES, SpatialGrid, TriplanarGrid
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES
from modmeta.metanet.parameter_graphs.registry import LayerCall, register_rule
from modmeta.metanet.parameter_graphs.rules.axes import feature_signal
from modmeta.metanet.parameter_graphs.signals import Signal, Table


def _add_points(
    builder: Builder,
    coordinates: Signal,
    features: np.ndarray,
    table: Table,
    axes: tuple[int, ...],
    *,
    plane: int,
    layer: int,
) -> None:
    """Adds the points of a grid `[N, ..., F]` along some of the coordinates."""
    shape = table.shape[:-1]
    places = np.zeros((*shape, NUM_COORDINATES), np.float32)
    ranges = [np.linspace(-1, 1, size) for size in shape]
    for axis, place in zip(axes, np.meshgrid(*ranges, indexing="ij"), strict=True):
        places[..., axis] = place
    orders = np.arange(np.prod(shape)).reshape(shape)
    attributes = {"size": shape[0], "mode": plane}
    points = builder.add_nodes(
        "grid_point", shape, layer=layer, orders=orders, attributes=attributes
    )
    units = coordinates.units.reshape(-1)
    for axis in axes:
        position = np.zeros_like(places)
        position[..., axis] = places[..., axis]
        builder.add_edges(
            units[axis].reshape((1,) * len(shape)),
            points,
            "identity",
            layer=layer,
            function=coordinates.function,
            positions=position,
        )
    builder.add_edges(
        points[..., None],
        features,
        "grid",
        layer=layer,
        values=table,
        positions=places[..., None, :],
    )


def _grid(builder: Builder, call: LayerCall, planes: list) -> Signal:
    """The features of one or more planes, `(table, axes)`, which are summed."""
    coordinates = feature_signal(builder, call.signal)
    if np.any(coordinates.all_positions()):
        # The positions of the edges to come are taken by the places of the points.
        coordinates = builder.copy(coordinates)
    # Axes of a grid have names, so units that serve as coordinates stay in place.
    builder.fix(coordinates.units)
    layer = builder.layer(coordinates) + 1
    features = builder.add_nodes("grid_feature", call.module.features, layer=layer)
    for plane, (table, axes) in enumerate(planes):
        _add_points(
            builder, coordinates, features, table, axes, plane=plane, layer=layer
        )
    return builder.signal_like(coordinates, features)


@register_rule(SpatialGrid)
def spatial_grid(builder: Builder, call: LayerCall) -> Signal:
    """A line or a square of points."""
    table = call.parameters["grid"]
    return _grid(builder, call, [(table, tuple(range(table.ndim - 1)))])


@register_rule(TriplanarGrid)
def triplanar_grid(builder: Builder, call: LayerCall) -> Signal:
    """Three squares of points, of the planes xy, xz and yz."""
    table = call.parameters["planes"]
    planes = [
        (table.map(lambda array, index=index: array[index]), axes)
        for index, axes in enumerate(PLANES)
    ]
    return _grid(builder, call, planes)
