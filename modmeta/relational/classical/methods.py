"""How strongly pairs of nodes go together, by classical statistics.

Every method takes the recordings of one graph, `[T, N, C]` each and standardised, and
gives `[N, N]`, row = receiver, column = sender, larger for likelier edges. The
diagonal has no meaning. Scores have no sign: strong inhibition ranks high. Of several
columns per node they are root mean squares over all pairs of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from modmeta.relational.classical import linear
from modmeta.relational.classical.recordings import (
    recordings,
    standardised,
    with_past,
)
from modmeta.relational.data import DataError, TrajectoryDataset

_MAX_ORDER = 4
# Rows per coefficient of an autoregression, at least, for orders beyond 1.
_ROWS = 4


def correlation(series: Sequence[np.ndarray]) -> np.ndarray:
    """Absolute correlations of frames."""
    frames, size = _flat(series)
    return _root_mean_square(frames.T @ frames / len(frames), size)


def partial_correlation(series: Sequence[np.ndarray]) -> np.ndarray:
    """Absolute correlations of frames, given all other columns.

    Correlations are shrunk as far as nodes of held-out frames are predicted best from
    the others, which matters where frames are few.
    """
    frames, size = _flat(series)
    shrinkage = linear.choose_shrinkage_of_others(frames, size)
    inverse = linear.precision(frames, shrinkage)
    spread = np.sqrt(np.diag(inverse))
    return _root_mean_square(inverse / np.outer(spread, spread), size)


def lagged_correlation(series: Sequence[np.ndarray]) -> np.ndarray:
    """Absolute correlations of receivers with senders one frame before."""
    present, past = with_past(series, 1)
    _refuse_few(len(present), 1, "a lagged correlation")
    size = present.shape[2]
    present, past = (part.reshape(len(part), -1) for part in (present, past))
    return _root_mean_square(present.T @ past / len(present), size)


def choose_order(series: Sequence[np.ndarray]) -> int:
    """Frames that a vector autoregression needs, by Akaike's information criterion."""
    num_columns = series[0][0].size
    orders, scores = [], []
    for order in range(1, _MAX_ORDER + 1):
        # The same frames for all orders.
        present, past = with_past(series, order, _MAX_ORDER - order)
        inputs = past.reshape(len(past), -1)
        present = present.reshape(len(present), -1)
        if len(inputs) < _ROWS * inputs.shape[1]:
            break
        weights, *_ = np.linalg.lstsq(inputs, present, rcond=None)
        squares = np.mean(np.square(present - inputs @ weights), axis=0)
        fit = len(present) * np.sum(np.log(np.maximum(squares, 1e-30)))
        orders.append(order)
        scores.append(fit + 2.0 * inputs.shape[1] * num_columns)
    return orders[int(np.argmin(scores))] if orders else 1


def granger(series: Sequence[np.ndarray], order: int | None = None) -> np.ndarray:
    """Granger causality, given all other nodes: what a sender's past is needed for.

    The logarithm of the ratio of squared errors of two vector autoregressions, one
    without the past of the sender, and the mean over the columns of the receiver.

    Args:
      series: See above.
      order: Frames of the past; None for `choose_order`.

    Raises:
      DataError: If frames are fewer than coefficients.
    """
    order = choose_order(series) if order is None else order
    present, past = with_past(series, order)
    num_nodes, size = past.shape[1:]
    _refuse_few(len(present), num_nodes * size, "Granger causality")
    inputs = past.reshape(len(past), -1)
    present = present.reshape(len(present), -1)
    inverse = np.linalg.pinv(inputs.T @ inputs, hermitian=True)
    weights = inverse @ (inputs.T @ present)
    squares = np.sum(np.square(present - inputs @ weights), axis=0)
    scores = np.zeros((num_nodes, num_nodes))
    for sender in range(num_nodes):
        block = slice(sender * size, (sender + 1) * size)
        # What leaving a block out adds to the squares, without a second regression.
        gain = np.linalg.pinv(inverse[block, block], hermitian=True)
        added = np.einsum("km,kl,lm->m", weights[block], gain, weights[block])
        ratios = np.log1p(added / np.maximum(squares, 1e-30))
        scores[:, sender] = ratios.reshape(num_nodes, -1).mean(axis=1)
    return scores


def vector_autoregression(series: Sequence[np.ndarray]) -> np.ndarray:
    """Weights of senders' pasts for what the own past of a receiver leaves, shrunk.

    The root of the sum of squares over the past, which has as many frames as
    `choose_order` says, and over columns.
    """
    order = choose_order(series)
    present, past = with_past(series, order)
    num_nodes, size = past.shape[1:]
    _refuse_few(len(present), size, "a vector autoregression")
    left = linear.innovations(present, past).reshape(len(present), -1)
    weights = linear.shrunk_ridge(past.reshape(len(past), -1), left)
    weights = weights.reshape(num_nodes, size, num_nodes, -1)
    return np.sqrt(np.sum(np.square(weights), axis=(1, 3))).T


def directed_partial_correlation(series: Sequence[np.ndarray]) -> np.ndarray:
    """Partial correlations, shared between both directions as Granger causality is.

    For series whose relations act within a frame, while the past still tells something
    of the direction: the latest frame of it, as what acts that fast is soon over.

    Raises:
      DataError: See `granger`.
    """
    causes = granger(series, 1)
    both = causes + causes.T
    share = np.divide(causes, both, out=np.full_like(both, 0.5), where=both > 0.0)
    return partial_correlation(series) * share


METHODS: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
    "correlation": correlation,
    "partial correlation": partial_correlation,
    "directed partial correlation": directed_partial_correlation,
    "lagged correlation": lagged_correlation,
    "Granger causality": granger,
    "vector autoregression": vector_autoregression,
}


def rank_pairs(
    dataset: TrajectoryDataset, method: str, *, shared_graph: bool = False
) -> np.ndarray:
    """Scores of all pairs of a data set of series.

    Args:
      dataset: Systems of columns without roles, see `as_dataset`.
      method: A name in `METHODS`.
      shared_graph: Whether all systems are recordings of one graph.

    Returns:
      `[tasks, nodes, nodes]`, `[1, nodes, nodes]` of a shared graph, row = receiver,
      column = sender, larger for likelier edges; NaN where there is no pair.

    Raises:
      DataError: If nodes have no series, frames are too few, or systems that share a
        graph differ in size.
      ValueError: If there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method: found {method!r}, expected one of {list(METHODS)}")
    parts = [recordings(dataset, task) for task in range(dataset.num_tasks)]
    if shared_graph:
        sizes = sorted({series[0].shape[1] for series in parts})
        if len(sizes) != 1:
            raise DataError(
                f"states: found systems of {sizes} nodes, expected one size: systems "
                "that share one graph have the same nodes"
            )
        parts = [[piece for series in parts for piece in series]]
    num_nodes = dataset.max_nodes
    scores = np.full((len(parts), num_nodes, num_nodes), np.nan)
    for task, series in enumerate(parts):
        found = METHODS[method](standardised(series))
        np.fill_diagonal(found, np.nan)
        scores[task, : len(found), : len(found)] = found
    return scores


def _flat(series: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """All frames `[T, N * C]`, and the number of columns of a node."""
    frames = np.concatenate(series)
    return frames.reshape(len(frames), -1), frames.shape[2]


def _root_mean_square(values: np.ndarray, size: int) -> np.ndarray:
    """Over the columns of both nodes, `[N * C, N * C]` to `[N, N]`."""
    count = len(values) // size
    values = values.reshape(count, size, count, size)
    return np.sqrt(np.mean(np.square(values), axis=(1, 3)))


def _refuse_few(rows: int, count: int, what: str) -> None:
    if rows <= count:
        raise DataError(
            f"states: found {rows} frames with a past, expected more than {count} for "
            f"{what}"
        )
