"""Pools of the edges and nodes of graphs, over all of them or layer by layer.

Edges may come a window at a time: a pool is a total that windows are added to, and is
read at the end. Letters as in `modmeta.metanet.models.gmn`; K is the number of kinds
of edges of a graph, of which there are at least as many as groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta import graphs
from modmeta.metanet.models.windows import Window, Wiring

# Less is rounding: a square of float32 less another.
_LEAST_VARIANCE = 1e-4
_USUAL_LOG_SIZE = 4.0


def scale_rows(values: jax.Array, scales: jax.Array) -> jax.Array:
    """Multiplies every row of `[rows, ...]` by its own number of `[rows]`."""
    return values * scales.reshape(-1, *[1] * (values.ndim - 1))


def counted(weights: jax.Array, window: Window | None) -> jax.Array:
    """Weights of edges, zero for those that a window before this one held."""
    return weights if window is None else jnp.where(window.is_new, weights, 0.0)


def pool(
    values: jax.Array,
    owners: jax.Array,
    num_graphs: int,
    group_weights: jax.Array,
    pooling: str,
) -> jax.Array:
    """Pools rows over their graphs: `[rows, ...]` to `[num_graphs, ...]`.

    Args:
      values: `[rows, ...]`.
      owners: `[rows]` graph of a row, sorted.
      num_graphs: Number of graphs.
      group_weights: `[rows]` weights of the mean over groups.
      pooling: "mean" over all rows of a graph, or "layer_mean", the mean over the
        groups of a graph (layer, type, direction) of the mean within each.
    """
    if pooling == "mean":
        return graphs.segment_mean(values, owners, num_graphs, is_sorted=True)
    values = scale_rows(values, group_weights)
    return graphs.segment_sum(values, owners, num_graphs, is_sorted=True)


def add_pooled(
    total: jax.Array,
    values: jax.Array,
    wiring: Wiring,
    pooling: str,
    window: Window | None,
) -> jax.Array:
    """Adds to `[G, ...]` what the edges of a window give to the pool of their graph.

    Args:
      total: `[G, ...]` so far.
      values: Of the edges of the window, one row each.
      wiring: Of all edges.
      pooling: As for `pool`.
      window: The window, None for all edges.
    """
    wiring = wiring.at(window)
    owners = wiring.owners()
    if pooling == "mean":
        weights = (1.0 / jnp.maximum(wiring.edge_counts, 1.0))[owners]
    else:
        weights = wiring.table.group_weights[wiring.rows]
    values = scale_rows(values, counted(weights, window))
    return total + graphs.segment_sum(values, owners, len(total), is_sorted=True)


def group_rows(wiring: Wiring) -> jax.Array:
    """The group `[F]` of every edge, numbered from 0 to G K through all graphs."""
    num_kinds = len(wiring.table.groups) // len(wiring.edge_counts)
    return wiring.owners() * num_kinds + wiring.table.groups[wiring.rows]


def group_shares(wiring: Wiring) -> jax.Array:
    """Weight of every group in the mean over the groups of its graph, `[G K]`.

    Zero where there is no such group; those of a graph sum to one.
    """
    weights = wiring.table.group_weights[wiring.rows]
    shares = jnp.zeros(len(wiring.table.groups))
    return shares.at[group_rows(wiring)].add(weights, mode="promise_in_bounds")


def log_group_sizes(wiring: Wiring) -> jax.Array:
    """How large groups are: logarithms `[G K]` of their edges, less 4; 0 for none."""
    sizes = jnp.zeros(len(wiring.table.groups))
    sizes = sizes.at[group_rows(wiring)].add(1.0, mode="promise_in_bounds")
    return jnp.where(sizes > 0, jnp.log(jnp.maximum(sizes, 1.0)) - _USUAL_LOG_SIZE, 0.0)


def group_types(wiring: Wiring) -> jax.Array:
    """Type of the edges of every group, `[G K]`; 0 where there is no such group."""
    types = jnp.zeros(len(wiring.table.groups), jnp.int32)
    found = wiring.table.types[wiring.rows]
    return types.at[group_rows(wiring)].max(found, mode="promise_in_bounds")


def add_moments(
    total: jax.Array, values: jax.Array, wiring: Wiring, window: Window | None
) -> jax.Array:
    """Adds to `[G K, ..., 2 H]` the edges of a window and their squares, by groups.

    Args:
      total: So far.
      values: `[rows, ..., H]` of the edges of the window.
      wiring: Of all edges.
      window: The window, None for all edges.
    """
    wiring = wiring.at(window)
    weights = counted(wiring.table.group_weights[wiring.rows], window)
    moments = jnp.concatenate([values, jnp.square(values)], axis=-1)
    moments = scale_rows(moments, weights)
    return total.at[group_rows(wiring)].add(moments, mode="promise_in_bounds")


def moments_of(total: jax.Array, shares: jax.Array) -> jax.Array:
    """Means and standard deviations `[G K, ..., 2 H]` within groups.

    Args:
      total: From `add_moments`, of all edges.
      shares: From `group_shares`.
    """
    moments = scale_rows(total, 1.0 / jnp.where(shares > 0, shares, 1.0))
    means, squares = jnp.split(moments, 2, axis=-1)
    spread = deviations(means, squares, _LEAST_VARIANCE)
    return jnp.concatenate([means, spread], axis=-1)


def deviations(
    means: jax.Array, squares: jax.Array, least_variance: float
) -> jax.Array:
    """Standard deviations from means and mean squares, with a variance added."""
    variances = jnp.maximum(squares - jnp.square(means), 0.0)
    return jnp.sqrt(variances + least_variance)


def mean_of_groups(values: jax.Array, shares: jax.Array, num_graphs: int) -> jax.Array:
    """The mean `[G, ...]` over the groups of every graph of `[G K, ...]`."""
    weighted = scale_rows(values, shares)
    return jnp.sum(weighted.reshape(num_graphs, -1, *values.shape[1:]), axis=1)
