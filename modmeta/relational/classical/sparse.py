"""Which few senders explain a receiver, by laws that all pairs of a relation share.

Among many entities a graph drawn at random explains nothing from which a law could be
learned. But some receivers hear one or two senders alone. There all pairs of senders
can be tried, each with a law of its own; the laws of those that explain are then sought
at all receivers.

Letters: B receivers, M senders, R rows, P functions of a pair, L laws.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from modmeta.relational.classical.pair_terms import (
    PairTerms,
    length_of,
    num_components,
    num_functions,
    pair_terms,
    typical_change,
)
from modmeta.relational.classical.subsets import FLOOR, TINY, best_sum, criterion
from modmeta.relational.data import TrajectoryDataset

# Share of the rows of a receiver that senders are found in; the others judge.
_FIRST_PART = 0.75
# Laws must leave no more than this share of what receivers alone leave of the others.
# Those that leave next to nothing are the right ones.
_UNEXPLAINED, _NEARLY_NOTHING = 0.4, 0.01
# A receiver tells of a law if so much is left at most by one or two senders.
_CLEAR = 0.5
_MIN_CLEAR = 8
# So large a share of them must agree, or else so large, and laws that differ by less
# are one.
_AGREEING, _ALIKE = (0.2, 0.05), 0.3
# Numbers that are held at once; systems of equations that are solved for all pairs of
# senders, and receivers that these are of; senders of which all pairs can be tried.
_MAX_NUMBERS, _MAX_SYSTEMS, _MAX_RECEIVERS, _MAX_SENDERS = 8_000_000, 150_000, 600, 200
_NUM_ROUNDS = 2
_RIDGE = 1e-9


@dataclasses.dataclass(frozen=True)
class SparseLaws:
    """Laws of a few functions, and how to find who is related by them.

    Attributes:
      weights: `[L, P]` of the functions of a pair, in units of `typical`.
      span: Frame intervals of a window.
      length: Unit of distance.
      typical: Unit of changes.
      unexplained: Share that is left of held-out changes, where entities alone leave 1.
    """

    weights: np.ndarray
    span: int
    length: float
    typical: float
    unexplained: float = 1.0

    def edges(self, dataset: TrajectoryDataset) -> np.ndarray:
        """`[tasks, nodes, nodes]`: 0 for no relation, else 1 + the law of the pair."""
        found, _ = self._search(dataset, judge=False)
        return found

    def _search(
        self, dataset: TrajectoryDataset, *, judge: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Edges, and what is left with and without them of rows that were held out."""
        num_tasks, num_nodes = dataset.node_mask.shape
        edges = np.zeros((num_tasks, num_nodes, num_nodes), np.int32)
        left = np.zeros(2)
        for tasks, receivers, terms in _chunks(dataset, self):
            rows = _early(terms.counted) if judge else terms.counted
            found = self._senders(terms, rows)
            shape = (len(terms.changes), len(receivers), num_nodes)
            edges[tasks, receivers[:, None], np.arange(num_nodes)] = found.reshape(
                shape
            )
            if judge:
                left += self._held_out(terms, rows, found)
        return edges, left

    def _messages(self, terms: PairTerms) -> np.ndarray:
        """What a sender adds under every law, `[B, M, L, R]`."""
        pairs = _flat(terms.pairs)
        return np.moveaxis(pairs @ self.weights.T, 3, 2)

    def _senders(self, terms: PairTerms, rows: np.ndarray) -> np.ndarray:
        """The law of every sender, `[B, M]`, 0 for none."""
        messages = self._messages(terms)
        num_senders, num_laws = messages.shape[1:3]
        columns = messages.reshape(len(messages), num_senders * num_laws, -1)
        target, columns = _beyond_own(terms, rows, np.swapaxes(columns, 1, 2))
        is_pair = np.repeat(_flat(terms.is_pair), num_laws, axis=1)
        count = _flat(rows).sum(axis=1) / self.span
        chosen = best_sum(target, columns, is_pair, count, num_laws)
        chosen = chosen.reshape(-1, num_senders, num_laws)
        return np.where(chosen.any(axis=2), 1 + np.argmax(chosen, axis=2), 0)

    def _held_out(
        self, terms: PairTerms, rows: np.ndarray, found: np.ndarray
    ) -> np.ndarray:
        """Squares that are left of held-out rows with senders, and without, `[2]`."""
        messages = np.moveaxis(self._messages(terms), 2, 1)
        is_law = found[:, None] == 1 + np.arange(len(self.weights))[:, None]
        added = np.einsum("blmr,blm->br", messages, is_law.astype(float))[..., None]
        own, changes = _flat(terms.own), _flat(terms.changes)
        early = _flat(rows)[..., None]
        late = _flat(terms.counted & ~rows)
        left = []
        for inputs in (np.concatenate([own, added], axis=2), own):
            weights = np.linalg.pinv(inputs * early) @ (changes[..., None] * early)
            errors = changes - (inputs @ weights)[..., 0]
            left.append(float(np.sum(np.square(errors * late))))
        return np.array(left)


def fit(
    dataset: TrajectoryDataset, num_relations: int, span: int = 1, seed: int = 0
) -> SparseLaws | None:
    """Laws of pairs, where few senders explain what a receiver does.

    Args:
      dataset: The systems, raw units; labels are not looked at.
      num_relations: Relations, of which one is that there is none.
      span: Frame intervals of a window; more where there is noise.
      seed: Seed of the receivers that are looked at.

    Returns:
      None where no such laws explain what was held out.
    """
    num_nodes = dataset.max_nodes
    if num_nodes < 3 or num_nodes > _MAX_SENDERS or dataset.num_frames <= span + 3:
        return None
    laws = SparseLaws(
        np.zeros((num_relations - 1, num_functions(dataset))),
        span,
        length_of(dataset),
        typical_change(dataset, span),
    )
    part = _few(dataset, seed)
    best = None
    for functions in _families(num_functions(dataset)):
        found = _learned(part, laws, functions, seed)
        if found is None or (best and best.unexplained <= found.unexplained):
            continue
        best = found
        if best.unexplained < _NEARLY_NOTHING:
            break
    return best if best and best.unexplained < _UNEXPLAINED else None


def _families(size: int) -> list[list[int]]:
    """Functions that laws are looked for in: all of them, then one at a time.

    Where noise hides the law of a sender that has many free numbers, it may show one
    that has a single one.
    """
    alone = [[number] for number in range(size)]
    return [list(range(size)), *alone] if size > 1 else alone


def _learned(
    part: TrajectoryDataset, laws: SparseLaws, functions: list[int], seed: int
) -> SparseLaws | None:
    """Laws that begin with some functions, and what they leave; None without any."""
    weights = _first_laws(part, laws, functions, seed)
    if weights is None:
        return None
    laws = dataclasses.replace(laws, weights=weights)
    for _ in range(_NUM_ROUNDS):
        edges = laws.edges(part)
        if not edges.any():
            return None
        laws = dataclasses.replace(laws, weights=_refit(part, laws, edges))
    _, (found, alone) = laws._search(part, judge=True)
    return dataclasses.replace(laws, unexplained=float(found / max(alone, TINY)))


def _few(dataset: TrajectoryDataset, seed: int) -> TrajectoryDataset:
    """As many systems as laws need: what more would tell is not worth its time."""
    needed = max(4 * _num_receivers(dataset) // max(dataset.max_nodes, 1), 8)
    if dataset.num_tasks <= needed:
        return dataset
    order = np.random.default_rng(seed).permutation(dataset.num_tasks)
    return dataset.take(np.sort(order[:needed]))


def _num_receivers(dataset: TrajectoryDataset) -> int:
    """Receivers of which all pairs of senders are tried."""
    pairs = max((dataset.max_nodes - 1) * (dataset.max_nodes - 2) // 2, 1)
    return int(np.clip(_MAX_SYSTEMS // pairs, 1, _MAX_RECEIVERS))


def _flat(values: np.ndarray) -> np.ndarray:
    """Systems and receivers `[S, N, ...]` as one axis `[B, ...]`."""
    return values.reshape(-1, *values.shape[2:])


def _early(counted: np.ndarray) -> np.ndarray:
    """The first of the rows `[S, N, R]` that count."""
    rank = np.cumsum(counted, axis=2)
    return counted & (rank <= _FIRST_PART * counted.sum(axis=2, keepdims=True))


def _chunks(
    dataset: TrajectoryDataset, laws: SparseLaws
) -> Iterator[tuple[slice, np.ndarray, PairTerms]]:
    """Rows of as many systems, or receivers of one, as are held at once."""
    num_nodes = dataset.max_nodes
    size = num_nodes * dataset.num_frames * num_components(dataset)
    size = max(size * num_functions(dataset), 1)
    num_receivers = int(np.clip(_MAX_NUMBERS // size, 1, num_nodes))
    num_systems = max(_MAX_NUMBERS // (size * num_nodes), 1)
    for first in range(0, dataset.num_tasks, num_systems):
        tasks = slice(first, min(first + num_systems, dataset.num_tasks))
        for start in range(0, num_nodes, num_receivers):
            receivers = np.arange(start, min(start + num_receivers, num_nodes))
            yield (
                tasks,
                receivers,
                pair_terms(
                    dataset, tasks, receivers, laws.span, laws.length, laws.typical
                ),
            )


def _beyond_own(
    terms: PairTerms, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Changes `[B, R]`, columns `[B, R, X]` less what the receiver alone explains."""
    kept = _flat(rows)[..., None]
    basis, _ = np.linalg.qr(_flat(terms.own) * kept)
    basis = basis * kept
    turned = np.swapaxes(basis, 1, 2)
    both = np.concatenate([_flat(terms.changes)[..., None] * kept, columns * kept], 2)
    both = both - basis @ (turned @ both)
    return both[..., 0], both[..., 1:]


def _first_laws(
    dataset: TrajectoryDataset, laws: SparseLaws, functions: list[int], seed: int
) -> np.ndarray | None:
    """Laws `[L, P]` of receivers that one or two senders explain; None without any."""
    found = []
    share = _num_receivers(dataset) / max(dataset.node_mask.sum(), 1)
    rng = np.random.default_rng(seed)
    for _, _, terms in _chunks(dataset, laws):
        some = rng.random(terms.changes.shape[0] * terms.changes.shape[1]) < share
        some &= _flat(terms.is_pair).any(axis=1)
        if not some.any():
            continue
        picked = PairTerms(*(_flat(values)[some][:, None] for values in terms))
        picked = picked._replace(pairs=picked.pairs[..., functions])
        found += _clear_receivers(picked, laws.span)
    if len(found) < _MIN_CLEAR:
        return None
    grams, weights = (np.array(values) for values in zip(*found, strict=True))
    modes = _modes(weights, grams.mean(axis=0), len(laws.weights))
    if modes is None:
        return None
    full = np.zeros_like(laws.weights)
    full[:, functions] = modes
    return full


def _clear_receivers(terms: PairTerms, span: int) -> list:
    """Receivers that one or two senders explain.

    Returns:
      Of each of these senders, products of its columns `[P, P]` and weights `[P]`.
    """
    batch, _, num_senders, rows, size = terms.pairs.shape
    columns = np.moveaxis(_flat(terms.pairs), 2, 1).reshape(batch, rows, -1)
    target, columns = _beyond_own(terms, terms.counted, columns)
    pairs = np.array(list(itertools.combinations(range(num_senders), 2)))
    counts = _flat(terms.counted).sum(axis=1) / span
    found = []
    for goal, design, count, is_pair in zip(
        target, columns, counts, _flat(terms.is_pair), strict=True
    ):
        start = float(goal @ goal)
        if count < 2 * size + 4 or not start > 0.0:
            continue
        unit = np.maximum(np.sqrt(np.square(design).sum(axis=0)), TINY)
        scaled = design / unit
        gram = (scaled.T @ scaled).reshape(num_senders, size, num_senders, size)
        slopes = (scaled.T @ goal).reshape(num_senders, size)
        best, chosen = count * np.log(start * (1.0 + FLOOR)), None
        for sets in (np.arange(num_senders)[:, None], pairs):
            sets = sets[is_pair[sets].all(axis=1)]
            number = sets.shape[1]
            blocks = gram[sets[:, :, None], :, sets[:, None], :]
            blocks = blocks.transpose(0, 1, 3, 2, 4)
            blocks = blocks.reshape(len(sets), number * size, -1)
            sides = slopes[sets].reshape(len(sets), -1)
            blocks = blocks + _RIDGE * np.eye(number * size)
            weights = np.linalg.solve(blocks, sides[..., None])[..., 0]
            left = start - np.sum(weights * sides, axis=1)
            score = criterion(left, start, count, int(is_pair.sum()), number)
            score = score + number * size * np.log(count)
            at = int(np.argmin(score))
            if score[at] < best:
                best, chosen = score[at], (sets[at], weights[at], left[at])
        if chosen is None or chosen[2] > _CLEAR * start:
            continue
        senders, weights, _ = chosen
        for sender, weight in zip(senders, weights.reshape(-1, size), strict=True):
            part = slice(sender * size, (sender + 1) * size)
            found.append((design[:, part].T @ design[:, part], weight / unit[part]))
    return found


def _modes(weights: np.ndarray, gram: np.ndarray, count: int) -> np.ndarray | None:
    """Laws `[L, P]` that most of many `[E, P]` agree on; None if there are fewer.

    A receiver of several senders may be explained by two that are wrong, in ways that
    do not agree.

    Args:
      weights: Laws of single senders.
      gram: `[P, P]` mean products of the functions: how far apart two laws are.
      count: L.
    """
    values, vectors = np.linalg.eigh(gram)
    points = weights @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    modes, is_left = [], np.ones(len(points), bool)
    for _ in range(count):
        rest = points[is_left]
        apart = np.linalg.norm(rest[:, None] - rest, axis=2)
        for share in _AGREEING:
            needed = max(_MIN_CLEAR, int(share * len(rest) / count))
            if len(rest) <= needed:
                return None
            reach = np.partition(apart, needed, axis=1)[:, needed]
            centre = int(np.argmin(reach))
            size = np.linalg.norm(rest[centre])
            if reach[centre] <= _ALIKE * size:
                break
        else:
            return None
        modes.append(weights[is_left][apart[centre] <= reach[centre]].mean(axis=0))
        is_left[is_left] = apart[centre] > _ALIKE * size
    return np.array(modes)


def _solve_laws(receivers: list, num_laws: int) -> np.ndarray:
    """Laws `[L, P]` by least squares over receivers, each by what it leaves.

    Args:
      receivers: Columns `[senders, R, P]`, target `[R]`, the square that is left of it,
        and numbers `[senders]` of laws, of each.
      num_laws: L.
    """
    size = receivers[0][0].shape[2] * num_laws
    gram, side = np.zeros((size, size)), np.zeros(size)
    for parts, target, left, labels in receivers:
        is_law = (labels == np.arange(num_laws)[:, None]).astype(float)
        design = np.einsum("srp,ls->rlp", parts, is_law).reshape(len(target), -1)
        gram += design.T @ design / left
        side += design.T @ target / left
    unit = np.sqrt(np.maximum(np.diag(gram), TINY))
    scaled = gram / np.outer(unit, unit) + _RIDGE * np.eye(size)
    return (np.linalg.solve(scaled, side / unit) / unit).reshape(num_laws, -1)


def _refit(
    dataset: TrajectoryDataset, laws: SparseLaws, edges: np.ndarray
) -> np.ndarray:
    """Laws `[L, P]` by least squares under known edges."""
    num_laws, size = laws.weights.shape
    receivers = []
    for tasks, rows, terms in _chunks(dataset, laws):
        labels = edges[tasks][:, rows].reshape(-1, edges.shape[2])
        is_law = labels[:, None] == 1 + np.arange(num_laws)[:, None]
        sums = np.einsum("bmrp,blm->brlp", _flat(terms.pairs), is_law.astype(float))
        columns = sums.reshape(*sums.shape[:2], -1)
        target, columns = _beyond_own(terms, terms.counted, columns)
        for goal, design in zip(target, columns, strict=True):
            start = float(goal @ goal)
            added = design @ laws.weights.ravel()
            square = float(added @ added)
            if not square > 0.0:
                continue
            factor = max(float(added @ goal), 0.0) / square
            left = float(np.square(goal - factor * added).sum()) + FLOOR * start
            parts = factor * design.reshape(len(goal), num_laws, size)
            receivers.append(
                (np.moveaxis(parts, 1, 0), goal, left, np.arange(num_laws))
            )
    if not receivers:
        return laws.weights
    return _solve_laws(receivers, num_laws)
