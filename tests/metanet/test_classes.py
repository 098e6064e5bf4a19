"""Permutation classes against the constraints that they were built from."""

import itertools
import math

import numpy as np
import pytest

from modmeta.metanet.parameter_graphs.classes import PermutationClasses


def members(index, slots):
    slots = np.asarray(slots)
    return np.full(len(slots), index), slots


def group(classes, sizes):
    """All joint permutations that finished classes describe, by exhaustive listing.

    Args:
      classes: The union-find.
      sizes: Sizes of the original classes 0, 1, ...

    Yields:
      One permutation per original class.
    """
    firsts = np.repeat(np.arange(len(sizes)), sizes)
    slots = np.concatenate([np.arange(size) for size in sizes])
    found, found_slots, parts, finished = classes.finish(firsts, slots)

    def moves(index, chosen):
        size, parent, is_fixed, factors = finished[index]
        if is_fixed:
            yield tuple(range(size))
        elif factors:
            places = [
                tuple((owner[i], slot[i]) for owner, slot in factors)
                for i in range(size)
            ]
            yield tuple(
                places.index(tuple((owner, chosen[owner][slot]) for owner, slot in p))
                for p in places
            )
        elif parent < 0:
            yield from itertools.permutations(range(size))
        else:
            outer = chosen[parent]
            width = size // len(outer)
            for inner in itertools.product(
                itertools.permutations(range(width)), repeat=len(outer)
            ):
                yield tuple(
                    outer[g] * width + inner[g][j]
                    for g in range(len(outer))
                    for j in range(width)
                )

    def all_moves(index, chosen):
        if index == len(finished):
            yield chosen
            return
        for move in moves(index, chosen):
            yield from all_moves(index + 1, [*chosen, move])

    for chosen in all_moves(0, []):
        joint, start = [], 0
        for size in sizes:
            own = found[start : start + size]
            place = found_slots[start : start + size]
            part = parts[start : start + size]
            names = {key: i for i, key in enumerate(zip(own, place, part, strict=True))}
            assert len(names) == size
            joint.append(
                tuple(
                    names[c, chosen[c][s], p]
                    for c, s, p in zip(own, place, part, strict=True)
                )
            )
            start += size
        yield tuple(joint)


def build(sizes, constraints):
    classes = PermutationClasses()
    for size in sizes:
        classes.add(size)
    for kind, *details in constraints:
        if kind == "tie":
            (first, slots), (second, other) = details
            classes.tie(members(first, slots), members(second, other))
        elif kind == "fix":
            found, _ = classes.resolve(*members(details[0], [0]))
            classes.fix(int(found[0]))
        else:
            index, num_groups = details
            found, slots = classes.resolve(*members(index, range(sizes[index])))
            if len(set(found)) == 1 and np.array_equal(slots, range(sizes[index])):
                classes.groups(int(found[0]), num_groups)
            else:
                pytest.fail("constraint on a class that was split")
    return classes


def satisfies(joint, constraints):
    for kind, *details in constraints:
        if kind == "tie":
            (first, slots), (second, other) = details
            pairs = set(zip(slots, other, strict=True))
            if {(joint[first][a], joint[second][b]) for a, b in pairs} != pairs:
                return False
        elif kind == "fix":
            index = details[0]
            if joint[index] != tuple(range(len(joint[index]))):
                return False
        else:
            index, num_groups = details
            width = len(joint[index]) // num_groups
            for start in range(0, len(joint[index]), width):
                images = {slot // width for slot in joint[index][start : start + width]}
                if len(images) > 1:
                    return False
    return True


def every(*sizes):
    return itertools.product(*(itertools.permutations(range(n)) for n in sizes))


EXACT = {
    "free": ([3, 2], []),
    "joined": ([3, 3], [("tie", (0, (0, 1, 2)), (1, (0, 1, 2)))]),
    "joined in another order": ([3, 3], [("tie", (0, (0, 1, 2)), (1, (2, 0, 1)))]),
    "chain of orders": (
        [3, 3, 3],
        [
            ("tie", (0, (0, 1, 2)), (1, (2, 0, 1))),
            ("tie", (1, (0, 1, 2)), (2, (1, 0, 2))),
        ],
    ),
    "part": ([2, 5], [("tie", (0, (0, 1)), (1, (1, 3)))]),
    "two parts": (
        [2, 2, 4],
        [("tie", (0, (0, 1)), (2, (0, 1))), ("tie", (1, (0, 1)), (2, (2, 3)))],
    ),
    "grouped": ([4], [("group", 0, 2)]),
    "grouped twice": ([6], [("group", 0, 2), ("group", 0, 6)]),
    "nested thrice": ([4, 4], [("group", 0, 2), ("tie", (0, range(4)), (1, range(4)))]),
    "fixed": ([3, 3], [("tie", (0, range(3)), (1, range(3))), ("fix", 1)]),
}


@pytest.mark.parametrize("name", EXACT)
def test_group_is_that_of_the_constraints(name):
    sizes, constraints = EXACT[name]
    constraints = [
        (kind, *((d[0], tuple(d[1])) if isinstance(d, tuple) else d for d in details))
        for kind, *details in constraints
    ]
    found = set(group(build(sizes, constraints), sizes))
    expected = {joint for joint in every(*sizes) if satisfies(joint, constraints)}
    assert found == expected


CONSERVATIVE = {
    "crossing groups": ([6], [("group", 0, 2), ("group", 0, 3)]),
    "tied to itself": ([4], [("tie", (0, (0, 1)), (0, (2, 3)))]),
    "reversed groups": (
        [4, 4],
        [
            ("group", 0, 2),
            ("group", 1, 2),
            ("tie", (0, (0, 1, 2, 3)), (1, (3, 2, 1, 0))),
        ],
    ),
    "part of a group": ([4, 2], [("group", 0, 2), ("tie", (0, (0, 2)), (1, (0, 1)))]),
}


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_group_never_breaks_a_constraint(name):
    sizes, constraints = CONSERVATIVE[name]
    found = list(group(build(sizes, constraints), sizes))
    assert found
    assert all(satisfies(joint, constraints) for joint in found)


def test_random_constraints_are_kept():
    """Fifty random sets of ties and groups over classes of four."""
    rng = np.random.default_rng(0)
    num_symmetric = 0
    for _ in range(50):
        constraints = []
        for index in range(3):
            if rng.random() < 0.4:
                constraints.append(("group", index, 2))
        for _ in range(rng.integers(1, 4)):
            first, second = rng.choice(3, size=2, replace=False)
            count = rng.choice([2, 4, 4])
            slots = tuple(range(count))
            other = slots if rng.random() < 0.5 else tuple(rng.permutation(4)[:count])
            constraints.append(("tie", (first, slots), (second, other)))
        found = list(group(build([4] * 3, constraints), [4] * 3))
        assert len(found) == len(set(found))
        assert all(satisfies(joint, constraints) for joint in found)
        num_symmetric += len(found) > 1
    assert num_symmetric > 25


def test_three_levels_of_nesting():
    classes = PermutationClasses()
    first, second = classes.add(8), classes.add(8)
    classes.groups(first, 2)
    classes.groups(second, 4)
    classes.join(first, second)
    found = list(group(classes, [8, 8]))
    assert len(found) == len(set(found)) == 2 * 2**2 * 2**4
    for joint in found:
        assert satisfies(joint, [("group", 0, 2), ("group", 0, 4), ("group", 1, 2)])
        assert joint[0] == joint[1]
    assert math.isclose(len(found), 128)


def test_products_move_as_their_factors():
    """A table of 2 x 3 entries: 2! row orders times 3! column orders."""
    classes = PermutationClasses()
    rows, columns, table = classes.add(2), classes.add(3), classes.add(6)
    entry = np.arange(6)
    derived = classes.derive(
        [(np.full(6, rows), entry // 3), (np.full(6, columns), entry % 3)]
    )
    classes.tie((np.full(6, table), entry), derived)
    found = list(group(classes, [2, 3, 6]))
    assert len(found) == len(set(found)) == 2 * 6
    for row, column, moved in found:
        for i, j in itertools.product(range(2), range(3)):
            assert moved[3 * i + j] == 3 * row[i] + column[j]


def test_a_fixed_product_fixes_its_factors():
    classes = PermutationClasses()
    rows, columns, table = classes.add(2), classes.add(3), classes.add(6)
    entry = np.arange(6)
    derived = classes.derive(
        [(np.full(6, rows), entry // 3), (np.full(6, columns), entry % 3)]
    )
    classes.tie((np.full(6, table), entry), derived)
    # A part of the entries that is no product of parts.
    classes.separate(np.full(2, table), np.array([0, 4]))
    assert len(list(group(classes, [2, 3, 6]))) == 1
