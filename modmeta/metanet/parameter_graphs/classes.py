"""Permutation classes: which units may change places, and which move together.

A class is a set of slots. A *flat* class may be permuted freely; a *nested* class has
a parent, and slot `group * width + inner` moves with slot `group` of the parent, while
inner slots of every group are permuted independently; the slots of a *derived* class
move as the members of other classes that they belong to, its *factors*, as the entries
of an outer product do; the slots of a *fixed* class stay where they are. Ties between
units are found one after the other while a graph is built: classes are joined
(union-find), split into parts, or nested. Where two constraints have no common
refinement of these forms, the classes become fixed: the group that remains is smaller
than the true one, never larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modmeta.metanet.parameter_graphs.class_entries import ClassEntry, Members
from modmeta.metanet.parameter_graphs.class_entries import (
    PermutationClass as PermutationClass,
)


class PermutationClasses:
    """Union-find over classes; members are pairs (class, slot)."""

    def __init__(self):
        self._classes: list[ClassEntry] = []

    def add(self, size: int, *, parent: int = -1, is_fixed: bool = False) -> int:
        """A new class; with a parent, of `size` slots in all (parent size * width)."""
        if parent >= 0:
            self._classes[parent].has_children = True
        self._classes.append(ClassEntry(size, parent, is_fixed))
        return len(self._classes) - 1

    def derive(self, factors: Sequence[Members]) -> Members:
        """Members of a new class, each of which moves as one member of every factor."""
        flat = tuple((np.ravel(classes), np.ravel(slots)) for classes, slots in factors)
        self._classes.append(ClassEntry(len(flat[0][0]), factors=flat))
        index, size = len(self._classes) - 1, len(flat[0][0])
        if not self._is_injective(index):
            self.fix(index)
        return np.full(size, index), np.arange(size)

    def factors(self, classes: np.ndarray, slots: np.ndarray) -> list[np.ndarray]:
        """Where members of one derived class belong to, an array `[n, 2]` per factor.

        Empty unless all members are of one derived class that is not fixed.
        """
        roots, places = self.resolve(classes, slots)
        entry = self._classes[roots[0]]
        if np.any(roots != roots[0]) or entry.is_fixed or not entry.factors:
            return []
        return [
            np.stack(self.resolve(owner[places], slot[places]), axis=1)
            for owner, slot in entry.factors
        ]

    def cross(self, classes: np.ndarray, slots: np.ndarray) -> Members | None:
        """Makes a nested class a product of its groups and of given rows.

        Args:
          classes: `[A, B]` classes of all members of a nested class.
          slots: `[A, B]`, one member of each of the B groups in every row.

        Returns:
          What moves as the rows, `[A]`; None if the members are no such table.
        """
        roots, places = self.resolve(classes, slots)
        root, shape = int(roots[0]), np.shape(slots)
        entry = self._classes[root]
        is_open = entry.parent >= 0 and not entry.has_children and not entry.is_fixed
        if not is_open or np.any(roots != root) or entry.size != len(roots):
            return None
        groups = places // (entry.size // shape[1])
        if np.any(np.sort(groups.reshape(shape), axis=1) != np.arange(shape[1])):
            return None
        rows, parent = self.add(shape[0]), self._root(entry.parent)
        order = np.empty(entry.size, np.int64)
        order[places] = np.arange(entry.size)
        own = np.arange(entry.size) // (entry.size // shape[1])
        members = np.full(entry.size, rows), order // shape[1]
        derived, _ = self.derive([(np.full(entry.size, parent), own), members])
        entry.targets, entry.target_slots = derived, np.arange(entry.size)
        return np.full(shape[0], rows), np.arange(shape[0])

    def _is_injective(self, index: int) -> bool:
        entry = self._classes[index]
        rows = np.concatenate([np.stack(self.resolve(*f), 1) for f in entry.factors], 1)
        return len(np.unique(rows, axis=0)) == entry.size

    def resolve(
        self, classes: np.ndarray, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Current classes and slots of members given by any earlier class."""
        classes = np.array(classes, np.int64).ravel()
        slots = np.array(slots, np.int64).ravel()
        for index in set(classes.tolist()):
            if self._classes[index].targets is not None:
                members = np.nonzero(classes == index)[0]
                roots, places = self._present(index)
                classes[members], slots[members] = (
                    roots[slots[members]],
                    places[slots[members]],
                )
        return classes, slots

    def _present(self, index: int) -> Members:
        """Where all slots of a class are, which was joined or split."""
        entry = self._classes[index]
        assert entry.targets is not None and entry.target_slots is not None
        roots, slots = entry.present or (entry.targets, entry.target_slots)
        if any(self._classes[i].targets is not None for i in set(roots.tolist())):
            roots, slots = self.resolve(roots, slots)
        entry.present = roots, slots
        return entry.present

    def follow(
        self, classes: np.ndarray, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Current classes and slots of members, and the ways that led there.

        Two members of one class that end at one slot came by different ways.
        """
        classes = np.array(classes, np.int64).ravel()
        slots = np.array(slots, np.int64).ravel()
        ways = np.zeros(len(classes), np.int64)
        num_ways = 1
        pending = list(np.unique(classes))
        while pending:
            index = pending.pop()
            entry = self._classes[index]
            members = np.nonzero(classes == index)[0]
            if entry.targets is None or not members.size:
                continue
            old = slots[members]
            classes[members] = entry.targets[old]
            slots[members] = entry.target_slots[old]
            step = np.stack([ways[members], classes[members]], axis=1)
            distinct, which = np.unique(step, axis=0, return_inverse=True)
            ways[members] = num_ways + which.ravel()
            num_ways += len(distinct)
            pending.extend(np.unique(entry.targets))
        return classes, slots, ways

    def _root(self, index: int) -> int:
        """The present class of one that was never split (parents are not)."""
        while (entry := self._classes[index]).targets is not None:
            index = int(entry.targets[0])
        return index

    def fix(self, index: int) -> None:
        """Fixes all slots of a current class, and of its ancestors and factors."""
        while index >= 0:
            entry = self._classes[index]
            is_new, entry.is_fixed = not entry.is_fixed, True
            for factor in entry.factors if is_new else ():
                for root in np.unique(self.resolve(*factor)[0]):
                    self.fix(int(root))
            index = self._root(entry.parent) if entry.parent >= 0 else -1

    def tie(self, first: tuple, second: tuple) -> None:
        """Makes two lists of members move together, element by element.

        Args:
          first: `(classes, slots)` of n members.
          second: Those of the n members that move with them.
        """
        # Members that were joined before are still told apart by where they came from.
        origins = np.stack(
            [
                first[0],
                self.follow(*first)[2],
                second[0],
                self.follow(*second)[2],
            ],
            axis=1,
        )
        kinds, which = np.unique(origins, axis=0, return_inverse=True)
        for kind in range(len(kinds)):
            chosen = which.ravel() == kind
            left = first[0][chosen], first[1][chosen]
            right = second[0][chosen], second[1][chosen]
            is_changed = True
            while is_changed:
                members = [*self.resolve(*left), *self.resolve(*right)]
                is_changed = self._tie_once(np.unique(np.stack(members, 1), axis=0))

    def _tie_once(self, pairs: np.ndarray) -> bool:
        """Joins or refines one pair of classes; True if there may be more to do."""
        for left, right in np.unique(pairs[:, [0, 2]], axis=0):
            chosen = pairs[(pairs[:, 0] == left) & (pairs[:, 2] == right)]
            slots, other = chosen[:, 1], chosen[:, 3]
            first, second = self._classes[left], self._classes[right]
            if first.is_fixed and second.is_fixed:
                continue
            if left == right and np.array_equal(slots, other):
                if len(slots) == first.size:
                    continue
                # Joined before as a whole: now the tied slots stay among themselves.
                self._separate(left, slots)
                return True
            is_one_to_one = len(np.unique(slots)) == len(slots) == len(np.unique(other))
            if left == right or not is_one_to_one:
                self.fix(left)
                self.fix(right)
            elif len(slots) < first.size and not first.is_fixed:
                self._separate(left, slots)
            elif len(slots) < second.size and not second.is_fixed:
                self._separate(right, other)
            elif first.is_fixed or second.is_fixed:
                self.fix(left)
                self.fix(right)
            else:
                self._join(left, right, other[np.argsort(slots)])
            return True
        return False

    def _separate(self, index: int, slots: np.ndarray) -> None:
        """Splits a flat class into the given slots and the rest; fixes any other."""
        entry = self._classes[index]
        if self._is_structured(index):
            self.fix(index)
            return
        entry.targets = np.empty(entry.size, np.int64)
        entry.target_slots = np.empty(entry.size, np.int64)
        for part in (np.sort(slots), np.setdiff1d(np.arange(entry.size), slots)):
            entry.targets[part] = self.add(len(part))
            entry.target_slots[part] = np.arange(len(part))

    def separate(self, classes: np.ndarray, slots: np.ndarray) -> None:
        """Keeps members of a flat class among themselves; fixes other classes."""
        roots, places = self.resolve(classes, slots)
        for root in np.unique(roots):
            chosen = np.unique(places[roots == root])
            if len(chosen) < self._classes[root].size:
                if not self._classes[root].is_fixed:
                    self._separate(int(root), chosen)

    def _join(self, left: int, right: int, slots: np.ndarray) -> None:
        """Joins two classes of one size; slot i of left is slots[i] of right."""
        first, second = self._classes[left], self._classes[right]
        if first.factors or second.factors:
            if not self._join_derived(left, right, slots):
                self.fix(left)
                self.fix(right)
            return
        if not np.array_equal(slots, np.arange(first.size)):
            # Other classes refer to the slots of a structured class by number.
            if self._is_structured(right) and self._is_structured(left):
                self.fix(left)
                self.fix(right)
                return
            if self._is_structured(left):
                left, right, slots = right, left, np.argsort(slots)
        elif first.parent >= 0 and second.parent < 0:
            left, right = right, left
        elif first.parent >= 0 and second.parent >= 0:
            left, right = self._align(left, right)
            if self._classes[left].is_fixed and self._classes[right].is_fixed:
                return
        first, second = self._classes[left], self._classes[right]
        second.has_children |= first.has_children
        first.targets = np.full(first.size, right, np.int64)
        first.target_slots = slots.astype(np.int64)

    def _join_derived(self, left: int, right: int, slots: np.ndarray) -> bool:
        """Joins two classes, at least one of them derived; False if they differ."""
        if not self._classes[right].factors:
            left, right, slots = right, left, np.argsort(slots)
        first = self._classes[left]
        if first.factors:
            here = self.factors(np.full(first.size, left), np.arange(first.size))
            there = self.factors(np.full(first.size, right), slots)
            if not here or not np.array_equal(np.stack(here), np.stack(there)):
                return False
        elif self._is_structured(left) or self._depends(right, left):
            return False
        first.targets = np.full(first.size, right, np.int64)
        first.target_slots = slots.astype(np.int64)
        return True

    def _depends(self, index: int, other: int) -> bool:
        """True if a class moves with another one, directly or not."""
        entry = self._classes[index]
        roots = [self._root(entry.parent)] if entry.parent >= 0 else []
        for factor in entry.factors:
            roots += np.unique(self.resolve(*factor)[0]).tolist()
        return other in roots or any(self._depends(root, other) for root in roots)

    def _is_structured(self, index: int) -> bool:
        entry = self._classes[index]
        return entry.parent >= 0 or entry.has_children or bool(entry.factors)

    def _align(self, left: int, right: int) -> tuple[int, int]:
        """Makes the parents of two nested classes agree; fixes all if they cannot.

        Returns:
          The two classes, the one with the coarser parent first.
        """
        coarse, fine = (
            self._root(self._classes[index].parent) for index in (left, right)
        )
        if self._classes[coarse].size > self._classes[fine].size:
            left, right, coarse, fine = right, left, fine, coarse
        small, large = self._classes[coarse].size, self._classes[fine].size
        if large % small:
            self.fix(left)
            self.fix(right)
            return left, right
        if coarse != fine:
            nested = coarse
            if large > small:
                nested = self.add(large, parent=coarse)
            self.join(nested, fine)
        return left, right

    def join(self, left: int, right: int) -> None:
        """Ties slot i of one class to slot i of another of the same size."""
        left_slots, right_slots = (
            np.arange(self._classes[i].size) for i in (left, right)
        )
        self.tie(
            (np.full_like(left_slots, left), left_slots),
            (np.full_like(right_slots, right), right_slots),
        )

    def groups(self, index: int, num_groups: int) -> int:
        """Nests a current class in groups of neighbouring slots.

        Returns:
          The class whose slots are the groups.
        """
        size = self._classes[index].size
        if num_groups == size:
            return index
        parent = self.add(num_groups)
        nested = self.add(size, parent=parent)
        self.join(index, nested)
        return self._root(parent)

    def size(self, index: int) -> int:
        """Number of slots of a class."""
        return self._classes[index].size

    def finish(
        self, classes: np.ndarray, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[PermutationClass, ...]]:
        """Numbers the classes that members belong to, parents before children.

        Returns:
          Classes and slots of the members; parts, such that members of one original
          class and one part have slots of their own; and the classes.
        """
        for index, entry in enumerate(self._classes):
            # Members of a factor may have been joined since.
            is_free = entry.factors and not entry.is_fixed and entry.targets is None
            if is_free and not self._is_injective(index):
                self.fix(index)
        roots, slots, ways = self.follow(classes, slots)
        order: list[int] = []

        def add(root: int) -> None:
            """Lists a class after those it moves with."""
            if root in order:
                return
            entry = self._classes[root]
            if entry.parent >= 0:
                add(self._root(entry.parent))
            for factor in () if entry.is_fixed else entry.factors:
                for other in np.unique(self.resolve(*factor)[0]):
                    add(int(other))
            order.append(root)

        for root in np.unique(roots):
            add(int(root))
        numbers = np.full(len(self._classes), -1, np.int64)
        numbers[order] = np.arange(len(order))
        finished = []
        for root in order:
            entry, parent, factors = self._classes[root], -1, []
            if entry.parent >= 0:
                parent = int(numbers[self._root(entry.parent)])
            for factor in () if entry.is_fixed else entry.factors:
                owners, places = self.resolve(*factor)
                factors.append((numbers[owners], places))
            finished.append(
                PermutationClass(entry.size, parent, entry.is_fixed, tuple(factors))
            )
        return (
            numbers[roots].astype(np.int32),
            slots.astype(np.int32),
            ways,
            tuple(finished),
        )
