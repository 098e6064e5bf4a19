"""What linear regressions explain of the same held-out frames.

A model hears the frames before. Where relations act faster than frames are taken, they
are seen within a frame; and where they are linear and differ from pair to pair, a
vector autoregression says more than modules that pairs share. Both are told here,
without labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modmeta.relational.classical import is_series, linear
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.evaluation.parts import MIN_BLOCKS
from modmeta.relational.verdict.gains import is_certain, is_worthwhile
from modmeta.relational.verdict.seasons import Stretch, left_beyond_season

# Frames that regressions need at least, and rows of their matrices at most.
_MIN_FRAMES, _MAX_INPUTS = 12, 400
# What goes together beyond a graph, within a frame or this many frames later, is worth
# a word if it is more than this share of what the graph leaves, and if that is more
# than a share of what it was asked for: laws that miss a little miss it together, too.
_TOGETHER, _LATER, _MUCH = 0.05, 2, 0.1


class Alternatives(NamedTuple):
    """Squared errors on held-out frames, `[blocks]`, and what is best.

    Attributes:
      found: Under the graph found.
      own: By the own past of every node alone.
      past: By the past of all nodes, shrunk.
      present: By the own past, and what other nodes do at the same frame, shrunk.
      total: Squares of the changes themselves.
      together: Under the graph found, and by what it leaves of other nodes at the same
        frame and the frames before, shrunk; None where that is not known.
      alone: Under the graph found, and by what it leaves of the node itself in the
        frames before; None for `found`.
      season: By the own past of every node and a season; None for `own`.
    """

    found: np.ndarray
    own: np.ndarray
    past: np.ndarray
    present: np.ndarray
    total: np.ndarray
    together: np.ndarray | None = None
    alone: np.ndarray | None = None
    season: np.ndarray | None = None


class Recommendation(NamedTuple):
    """A classical method that explains more than the graph that was found.

    Attributes:
      method: Its name in `classical.METHODS`.
      is_within_frame: Whether relations act faster than frames are taken.
      sentence: Why, in plain words, without a full stop.
    """

    method: str
    is_within_frame: bool
    sentence: str


def compare(
    first: TrajectoryDataset,
    rest: TrajectoryDataset,
    changes: tuple[np.ndarray, np.ndarray],
    residuals: tuple[np.ndarray, np.ndarray],
    span: int,
    largest_square: float,
) -> Alternatives | None:
    """Fits regressions in the first part of every recording, and asks about the rest.

    Args:
      first: Frames that the graph was found in.
      rest: Frames that it is asked about.
      changes: What a model predicts of both, `[tasks, nodes, W, Y]`, zero where it was
        not observed, see `changes.Changes`.
      residuals: What the graph leaves of both, the same shapes.
      span: Frame intervals between a state and the one that is predicted from it.
      largest_square: Squares count up to this.

    Returns:
      None where nodes have no series, are too many for their frames, or where the same
      frames serve for both.
    """
    if not is_series(first) or first is rest:
        return None
    rows = []
    for task, size in enumerate(first.num_nodes):
        early = _Rows.of(first, changes[0], task, size, span)
        late = _Rows.of(rest, changes[1], task, size, span)
        too_many = early.past[0].size > _MAX_INPUTS
        if too_many or len(early.targets) < _MIN_FRAMES or not len(late.targets):
            return None
        left = [
            _Left.of(np.swapaxes(part[task, :size], 0, 1), rows_of, span)
            for part, rows_of in zip(residuals, (early, late), strict=True)
        ]
        rows.append((early, late, *left))
    num_blocks = max(1, -(-MIN_BLOCKS // len(rows)))
    found = [_errors(*row, num_blocks, largest_square) for row in rows]
    return Alternatives(
        *(np.concatenate(errors) for errors in zip(*found, strict=True))
    )


def recommend(
    alternatives: Alternatives | None, *, has_graph: bool = True
) -> Recommendation | None:
    """The method that follows from errors; None where the graph is as good.

    Args:
      alternatives: Errors; None where there are none.
      has_graph: Whether a graph was found; without one, the own past stands for it.
    """
    if alternatives is None:
        return None
    known = "under this graph, which hears the frames before,"
    if not has_graph:
        alternatives = alternatives._replace(found=alternatives.own)
        known = "with the own past alone"
    found, own, past, present, total, *_ = alternatives
    unexplained = [e.sum() / max(total.sum(), 1e-30) for e in (past, present, found)]
    is_within = present.sum() < past.sum()
    best = present if is_within else past
    if not _is_surely_better(best, own) or (has_graph and not _is_better(best, found)):
        return None
    if not is_within:
        return Recommendation(
            "vector autoregression",
            False,
            "with a linear regression on the past of all entities "
            f"{unexplained[0]:.0%} of the held-out changes stay unexplained, {known} "
            f"{unexplained[2]:.0%}: rank the pairs by vector autoregression",
        )
    reason = (
        "entities go together within a frame: with the others at the same frame "
        f"{unexplained[1]:.0%} of the held-out changes stay unexplained, {known} "
        f"{unexplained[2]:.0%}: "
    )
    if _is_surely_better(past, own):
        return Recommendation(
            "directed partial correlation",
            True,
            f"{reason}rank the pairs by directed partial correlation",
        )
    return Recommendation(
        "partial correlation",
        True,
        f"{reason}rank the pairs by partial correlation; nothing tells the direction",
    )


def is_worthless(alternatives: Alternatives | None) -> bool:
    """Whether the graph does not surely explain more than nodes by themselves do.

    By their own past, and by a season where there is one.
    """
    if alternatives is None:
        return False
    found, own, season = alternatives.found, alternatives.own, alternatives.season
    if season is not None and _is_better(season, own):
        own = season
    return not _is_surely_better(found, own)


def goes_together(alternatives: Alternatives | None) -> bool:
    """Whether entities surely go together beyond what a graph says.

    Of a graph that hears the frames before and lacks nothing, only noise of every
    entity for itself is left. What several hear of one driver, each at a lag of its
    own, shows in what is left of others a few frames before: they are noisy witnesses
    of it, and none alone is enough.
    """
    if alternatives is None or alternatives.together is None:
        return False
    together, alone = alternatives.together, alternatives.alone
    if alone is None:
        alone = alternatives.found
    is_much = together.sum() < (1.0 - _TOGETHER) * alone.sum()
    is_much &= alternatives.found.sum() > _MUCH * alternatives.own.sum()
    return bool(is_much) and _is_surely_better(together, alone)


class _Rows(NamedTuple):
    """Changes of one system, where nothing of it is missing.

    Attributes:
      targets: `[R, N, Y]`.
      past: `[R, N, P]`.
      recording: `[R]` number of the recording.
      frames: `[R]` number of the frame, from the first of its recording that is here.
      is_counted: `[W]` windows that are rows.
      sizes: `[recordings]` frames.
      is_whole: Whether nothing is missing.
    """

    targets: np.ndarray
    past: np.ndarray
    recording: np.ndarray
    frames: np.ndarray
    is_counted: np.ndarray
    sizes: np.ndarray
    is_whole: bool

    def of_recording(self, recording: int, offset: int = 0) -> Stretch:
        """The rows of one recording, whose frames are counted from an offset."""
        rows = self.recording == recording
        return Stretch(self.targets[rows], self.past[rows], self.frames[rows] + offset)

    @classmethod
    def of(cls, dataset, changes, task, size, span) -> _Rows:
        """Those of the windows over which every node was observed."""
        is_counted = dataset.counted(span)[task, :, :size].all(axis=1)
        features = dataset.features
        columns = [*features.recorded, *(column for column, _ in features.lagged)]
        states = dataset.states[task, : len(is_counted), :size].astype(np.float64)
        past = states[..., columns][is_counted]
        targets = np.swapaxes(changes[task, :size], 0, 1).astype(np.float64)
        targets = targets[is_counted]
        numbers = np.zeros(dataset.num_frames, np.int64)
        if dataset.breaks is not None:
            numbers = np.cumsum(dataset.breaks[task])
            numbers -= numbers[0]
        sizes = np.bincount(numbers)
        frames = np.arange(len(numbers)) - (np.cumsum(sizes) - sizes)[numbers]
        numbers, frames = (v[: len(is_counted)][is_counted] for v in (numbers, frames))
        is_whole = dataset.frame_mask is None
        return cls(targets, past, numbers, frames, is_counted, sizes, is_whole)


class _Left(NamedTuple):
    """What a graph leaves of changes `[R, N, Y]`, and left before `[R, N, P]`."""

    now: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, left: np.ndarray, rows: _Rows, span: int) -> _Left:
        """Of all windows `[W, N, Y]`; zero before where another recording was."""
        known = np.where(rows.is_counted[:, None, None], left, 0.0)
        number = np.full(len(known), -1)
        number[rows.is_counted] = rows.recording
        before = np.zeros((*known.shape, _LATER))
        # Windows that overlap share what they leave.
        for index, shift in enumerate(range(span, span + _LATER)):
            is_same = number[shift:] == number[: len(number) - shift]
            shifted = known[: len(known) - shift]
            before[shift:, ..., index] = np.where(is_same[:, None, None], shifted, 0.0)
        before = before.reshape(*known.shape[:2], -1)
        return cls(known[rows.is_counted], before[rows.is_counted])


def _errors(
    early: _Rows,
    late: _Rows,
    left_early: _Left,
    left: _Left,
    num_blocks: int,
    largest_square: float,
) -> list[np.ndarray]:
    """Squared errors in the order of `Alternatives`, each `[blocks]`."""
    mean_past, mean = early.past.mean(axis=0), early.targets.mean(axis=0)
    past, targets = early.past - mean_past, early.targets - mean
    later_past, later = late.past - mean_past, late.targets - mean
    weights = linear.own_weights(targets, past)
    own = targets - linear.own_prediction(weights, past)
    later_own = later - linear.own_prediction(weights, later_past)
    size = own.shape[2]
    own, left_own, inputs, later_inputs = (
        _flat(part) for part in (own, later_own, past, later_past)
    )
    after_past = left_own - later_inputs @ linear.shrunk_ridge(inputs, own)
    after_present = left_own - left_own @ linear.shrunk_from_others(own, size)
    alone, together = _beyond(left_early, left)
    parts = [left.now, left_own, after_past, after_present, late.targets]
    parts += [together, alone, _beyond_season(early, late, later_own)]
    squares = [
        np.minimum(np.square(_flat(part)), largest_square).sum(axis=1) for part in parts
    ]
    where = _blocks(late.recording, num_blocks)
    return [np.bincount(where, part) for part in squares]


def _beyond(early: _Left, late: _Left) -> tuple[np.ndarray, np.ndarray]:
    """Late leftovers `[R, N * Y]` beyond own ones before, and beyond those of all."""
    size = early.now.shape[2]
    first, alone = _flat(early.now), _flat(late.now)
    if early.before[0].size > _MAX_INPUTS:
        return alone, alone - alone @ linear.shrunk_from_others(first, size)
    weights = linear.own_weights(early.now, early.before)
    first = first - _flat(linear.own_prediction(weights, early.before))
    alone = alone - _flat(linear.own_prediction(weights, late.before))
    by_before = linear.shrunk_ridge(_flat(early.before), first)
    first = first - _flat(early.before) @ by_before
    left = alone - _flat(late.before) @ by_before
    return alone, left - left @ linear.shrunk_from_others(first, size)


def _beyond_season(early: _Rows, late: _Rows, own: np.ndarray) -> np.ndarray:
    """What own past and a season leave of late changes `[R, N, Y]`; else own past.

    Late frames of a recording follow its early ones, unless gaps keep both together.
    """
    left = own.copy()
    if len(early.sizes) != len(late.sizes) or not early.is_whole or not late.is_whole:
        return left
    for recording, size in enumerate(early.sizes):
        known = early.of_recording(recording)
        asked = late.of_recording(recording, offset=size)
        if len(known.targets) >= _MIN_FRAMES and len(asked.targets):
            rows = late.recording == recording
            left[rows] = left_beyond_season(known, asked)
    return left


def _flat(rows: np.ndarray) -> np.ndarray:
    """`[R, N, Y]` to `[R, N * Y]`."""
    return rows.reshape(len(rows), -1)


def _blocks(recording: np.ndarray, num_blocks: int) -> np.ndarray:
    """Number of the block of every row: its recording, or a part of all rows."""
    numbers = np.unique(recording, return_inverse=True)[1]
    if numbers[-1] + 1 >= num_blocks:
        return numbers
    count = min(MIN_BLOCKS, len(recording))
    return np.arange(len(recording)) * count // len(recording)


def _is_better(error: np.ndarray, other: np.ndarray) -> bool:
    """Whether errors `[blocks]` are lower by enough, and surely."""
    return is_worthwhile(error, other) and _is_surely_better(error, other)


def _is_surely_better(error: np.ndarray, other: np.ndarray) -> bool:
    """Whether errors `[blocks]` are lower, however little, beyond doubt."""
    return len(error) >= MIN_BLOCKS and is_certain(error, other)
