"""Which units of a graph under construction move together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modmeta.metanet.parameter_graphs.classes import Members, PermutationClasses


def _constant_columns(factor: np.ndarray) -> bool:
    """True if a factor `[G, K, 2]` has one member per row, another one in each."""
    heads = factor[:, :1]
    return bool(np.all(factor == heads)) and len(np.unique(heads[:, 0], axis=0)) == len(
        heads
    )


class Ties:
    """Permutation classes of the nodes of a graph.

    Attributes:
      classes: The classes.
    """

    def __init__(self):
        self.classes = PermutationClasses()
        # Per node array, parts as they were added.
        self._node_parts: dict[str, list[np.ndarray]] = {
            name: []
            for name in ("types", "layers", "orders", "blocks", "classes", "slots")
        }

    def node_array(self, name: str) -> np.ndarray:
        """One of the integer arrays `[N]` of the nodes so far."""
        parts = self._node_parts[name]
        if len(parts) > 1:
            self._node_parts[name] = parts = [np.concatenate(parts)]
        return parts[0] if parts else np.zeros(0, np.int32)

    def _members(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nodes = np.ravel(units)
        return self.node_array("classes")[nodes], self.node_array("slots")[nodes]

    def members(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Present classes and slots of units, which move in step if both are equal."""
        return self.classes.resolve(*self._members(units))

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes units move together, element by element; shapes are broadcast."""
        first, second = np.broadcast_arrays(first, second)
        self.classes.tie(self._members(first), self._members(second))

    def fix(self, units: np.ndarray) -> None:
        """Keeps units in their places."""
        classes, slots = self._members(units)
        anchor = self.classes.add(len(classes), is_fixed=True)
        self.classes.tie(
            (classes, slots), (np.full(len(classes), anchor), np.arange(len(classes)))
        )

    def groups(self, units: np.ndarray, num_groups: int) -> int:
        """Nests units in groups of neighbours; groups move, and units within them.

        Args:
          units: Node ids, read row-major, `group * width + inner`.
          num_groups: Number of groups.

        Returns:
          The class in `classes` whose slots are the groups.
        """
        units = np.ravel(units)
        proxy = self.classes.add(len(units))
        members = np.full(len(units), proxy), np.arange(len(units))
        self.classes.tie(self._members(units), members)
        roots, slots = self.classes.resolve(*members)
        is_whole = (
            np.all(roots == roots[0])
            and self.classes.size(roots[0]) == len(units)
            and np.array_equal(slots, np.arange(len(units)))
        )
        if not is_whole:
            self.fix(units)
            return self.classes.add(num_groups, is_fixed=True)
        return self.classes.groups(int(roots[0]), num_groups)

    def tie_product(self, receivers: np.ndarray, parts: Sequence[np.ndarray]) -> None:
        """Makes units of an array move with the units that they are combined of.

        Args:
          receivers: Node ids of any shape.
          parts: Node ids, of shapes that broadcast to it. Where no part has a unit per
            receiver, as in an outer product, each moves as one unit of every part.
        """
        wanted = {a for a in range(receivers.ndim) if receivers.shape[a] > 1}
        varying = [_varying(units) for units in parts]
        is_whole = [axes == wanted for axes in varying]
        chosen = [
            index
            for index, axes in enumerate(varying)
            if not any(axes < other for other in varying)
            and axes not in varying[:index]
        ]
        if not any(is_whole) and set().union(*varying) == wanted and len(chosen) > 1:
            self._derive(receivers, [parts[index] for index in chosen])
            is_whole = [index in chosen for index in range(len(parts))]
        else:
            for units, whole in zip(parts, is_whole, strict=True):
                if whole:
                    self.tie(receivers, units)
        for units, whole in zip(parts, is_whole, strict=True):
            if not whole:
                self.tie_broadcast(units, receivers)

    def _derive(self, receivers: np.ndarray, parts: Sequence[np.ndarray]) -> None:
        """Makes receivers `(i, j)` move with units i of one part and j of another."""
        for index, first in enumerate(parts):
            for second in parts[:index]:
                self._tie_shared_axes(first, second)
        for first in parts:
            placed = {a for a, size in enumerate(first.shape) if size > 1}
            for second in parts:
                if (placed - _varying(first)) & _varying(second):
                    self.fix(second)  # edges hold the places
        members = [
            self.members(np.broadcast_to(units, receivers.shape)) for units in parts
        ]
        # Units in step with each other have receivers in step.
        table = np.concatenate([np.stack(part, axis=1) for part in members], axis=1)
        _, first, which = np.unique(
            table, axis=0, return_index=True, return_inverse=True
        )
        derived = self.classes.derive([(c[first], s[first]) for c, s in members])
        self._tie_in_step(receivers.ravel(), derived, which.ravel())

    def _tie_in_step(
        self, units: np.ndarray, members: Members, which: np.ndarray
    ) -> None:
        """Makes units `[n]` move with members, unit i with member `which[i]`."""
        if len(np.unique(which)) == len(which):
            chosen = members[0][which], members[1][which]
            self.classes.tie(self._members(units), chosen)
            return
        rank = _ranks(which)
        for step in range(rank.max() + 1):
            chosen = which[rank == step]
            self.classes.separate(*self._members(units[rank == step]))
            self.classes.tie(
                self._members(units[rank == step]),
                (members[0][chosen], members[1][chosen]),
            )

    def _tie_shared_axes(self, first: np.ndarray, second: np.ndarray) -> None:
        shared = sorted(_varying(first) & _varying(second))
        if not shared:
            return
        count = int(np.prod([first.shape[axis] for axis in shared]))
        heads = np.full(count, self.classes.add(count)), np.arange(count)
        for units in (first, second):
            rest = [axis for axis in range(units.ndim) if axis not in shared]
            rows = units.transpose(*shared, *rest).reshape(count, -1)
            rows = rows[:, np.unique(rows[0], return_index=True)[1]]
            self._tie_members_to_rows(heads, rows)

    def tie_broadcast(self, units: np.ndarray, receivers: np.ndarray) -> None:
        """Makes receivers move with the units that send to them.

        Args:
          units: Node ids.
          receivers: Node ids, of a shape that those of the units broadcast to: a unit
            with several receivers moves as a group with them. A unit that occurs
            again along an axis has its receivers there in fixed places.
        """
        kept = sorted(_varying(units))
        placed = [a for a in range(units.ndim) if units.shape[a] > 1 and a not in kept]
        free = [a for a in range(units.ndim) if a not in kept and a not in placed]
        rows = receivers.transpose(*kept, *free, *placed)
        heads = units[
            tuple(slice(None) if a in kept else slice(1) for a in range(units.ndim))
        ]
        heads, num_kept = heads.ravel(), heads.size
        num_placed = int(np.prod([receivers.shape[axis] for axis in placed]))
        if num_placed > 1:
            columns = rows.reshape(-1, num_placed)
            if not self._fix_columns(columns):
                for column in columns.T:
                    if num_kept > 1 or column.size == 1:
                        self._tie_members_to_rows(
                            self._members(heads), column.reshape(num_kept, -1)
                        )
                    else:
                        self.classes.separate(*self._members(column))
                return
        rows = rows.reshape(num_kept, -1)
        if rows.shape[1] == 1:
            self.tie(rows[:, 0], heads)
        elif num_kept > 1:
            self.tie_to_rows(heads, rows)

    def tie_to_rows(self, heads: np.ndarray, rows: np.ndarray) -> None:
        """Makes heads `[G]` move with rows `[G, K]` of units.

        Units of one class may change places within their row; else they keep their
        column.
        """
        sets = np.stack(self.members(rows), axis=1).reshape(*rows.shape, 2)
        sets = (
            np.stack([np.unique(row, axis=0) for row in sets]) if _even(sets) else sets
        )
        _, first, which = np.unique(
            sets.reshape(len(rows), -1), axis=0, return_index=True, return_inverse=True
        )
        if len(first) == len(rows):
            self._tie_members_to_rows(self._members(heads), rows)
            return
        # Rows in step have heads in step.
        self.classes.separate(*self._members(heads[first]))
        self._tie_members_to_rows(self._members(heads[first]), rows[first])
        others = np.setdiff1d(np.arange(len(rows)), first)
        rank = _ranks(which.ravel()[others])
        for step in range(rank.max() + 1):
            chosen = others[rank == step]
            self.classes.separate(*self._members(heads[chosen]))
            self.tie(heads[chosen], heads[first][which.ravel()[chosen]])

    def _tie_members_to_rows(self, heads: Members, rows: np.ndarray) -> None:
        count = len(rows)
        members = self._members(rows)
        factors = [
            factor.reshape(*rows.shape, 2) for factor in self.classes.factors(*members)
        ]
        for factor in factors:
            if _constant_columns(factor):
                self.classes.tie(heads, (factor[:, 0, 0], factor[:, 0, 1]))
                return
        steady = [
            (factor[:, 0, 0], factor[:, 0, 1])
            for factor in factors
            if np.all(factor == factor[:, :1])
        ]
        if len(steady) > 1:
            self.classes.tie(heads, self.classes.derive(steady))
            return
        for factor in factors:
            groups = [np.unique(row, axis=0) for row in factor]
            width = len(groups[0])
            if width < rows.shape[1] and all(len(group) == width for group in groups):
                distinct = np.unique(np.concatenate(groups), axis=0)
                if len(distinct) == width * count:
                    nested = np.stack(groups)
                    self._nest(heads, (nested[..., 0], nested[..., 1]))
                    return
        self._nest(heads, tuple(part.reshape(rows.shape) for part in members))

    def _nest(self, heads: Members, rows: Members) -> None:
        """Heads `[G]` as the groups of members `[G, K]`."""
        classes, slots = self.classes.resolve(*rows)
        whole = len(np.unique(np.stack([classes, slots], 1), axis=0))
        size = self.classes.size(int(classes[0]))
        if np.all(classes == classes[0]) and whole == size == len(classes):
            proxy = self.classes.add(size)
            self.classes.tie(
                tuple(map(np.ravel, rows)), (np.full(size, proxy), np.arange(size))
            )
            groups = self._groups_of(proxy, size, len(heads[0]))
            if groups is not None:
                slots = np.arange(len(heads[0]))
                self.classes.tie(heads, (np.full_like(slots, groups), slots))
                return
        crossed = self.classes.cross(*rows)
        if crossed is not None:
            self.classes.tie(heads, crossed)
            return
        for column in range(rows[0].shape[1]):
            self.classes.tie(heads, (rows[0][:, column], rows[1][:, column]))

    def _groups_of(self, proxy: int, size: int, num_groups: int) -> int | None:
        """The class of groups of all slots of a class in order, or None."""
        roots, slots = self.classes.resolve(np.full(size, proxy), np.arange(size))
        is_whole = (
            np.all(roots == roots[0])
            and self.classes.size(int(roots[0])) == size
            and np.array_equal(slots, np.arange(size))
        )
        return self.classes.groups(int(roots[0]), num_groups) if is_whole else None

    def _fix_columns(self, rows: np.ndarray) -> bool:
        """Keeps the columns of units of a derived class in place; False for others."""
        factors = self.classes.factors(*self._members(rows))
        for factor in factors:
            columns = factor.reshape(*rows.shape, 2).swapaxes(0, 1)
            if _constant_columns(columns):
                for root in np.unique(columns[:, 0, 0]):
                    self.classes.fix(int(root))
                return True
        return False

    def row_heads(self, rows: np.ndarray) -> Members | None:
        """What moves as the rows of units `[R, K]`, if columns move in step anyway.

        Returns:
          Members `[R]`, or None if nothing is known that does.
        """
        if np.all(rows == rows[:, :1]):
            is_one_each = len(np.unique(rows[:, 0])) == len(rows)
            return self._members(rows[:, 0]) if is_one_each else None
        factors = [
            factor.reshape(*rows.shape, 2)
            for factor in self.classes.factors(*self._members(rows))
        ]
        across = [f for f in factors if _constant_columns(f)]
        down = [f for f in factors if _constant_columns(f.swapaxes(0, 1))]
        if len(factors) == 2 and across and down:
            return across[0][:, 0, 0], across[0][:, 0, 1]
        return None

    def derive_copies(self, heads: Members, copies: np.ndarray) -> None:
        """Makes units `[R, O]` move as heads `[R]` along rows, freely along columns."""
        count, width = copies.shape
        if width == 1:
            self.classes.tie(self._members(copies), heads)
            return
        columns = np.full(width, self.classes.add(width)), np.arange(width)
        members = [
            tuple(np.repeat(part, width) for part in heads),
            tuple(np.tile(part, count) for part in columns),
        ]
        self.classes.tie(self._members(copies), self.classes.derive(members))

    def tie_rows(self, rows: np.ndarray) -> None:
        """Makes the columns of units `[R, K]` move as wholes: rows move in step."""
        for row in rows:
            self.classes.separate(*self._members(row))
        for row in rows[1:]:
            self.tie(rows[0], row)

    def tie_groups(
        self, first: np.ndarray, second: np.ndarray, num_groups: int
    ) -> None:
        """Makes the groups of two lists of units move together.

        Args:
          first: Node ids, a multiple of `num_groups`; `num_groups` of them are
            groups of one.
          second: Likewise.
          num_groups: Number of groups.
        """
        left = self.groups(first, num_groups)
        right = self.groups(second, num_groups)
        slots = np.arange(num_groups)
        self.classes.tie(
            (np.full(num_groups, left), slots),
            (np.full(num_groups, right), slots),
        )


def _varying(units: np.ndarray) -> set[int]:
    """Axes along which units differ."""
    return {
        axis
        for axis in range(units.ndim)
        if units.shape[axis] > 1 and np.any(units != units.take([0], axis))
    }


def _even(sets: np.ndarray) -> bool:
    """True if all rows `[G, K, 2]` have equally many different members."""
    return len({len(np.unique(row, axis=0)) for row in sets}) == 1


def _ranks(values: np.ndarray) -> np.ndarray:
    """How many equal values come before each one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.searchsorted(ordered, ordered)
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values)) - starts
    return ranks
