"""Axes that units are shared on: which coordinate of the data an axis runs over.

The units of a convolution are its channels: one unit stands for a channel at all
positions and all examples. The axes of an array that its units are shared on are
products of *atoms*, ranges of one coordinate each, so that reshapes and transposes
keep track of where an element came from, and a dense layer after a flatten knows the
position behind each row of its kernel.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError

NUM_COORDINATES = 3
BATCH = -1
REPEAT = -2
LISTED = -3
"""Coordinates from here downwards are axes whose places are nodes, see `axis_store`."""


class Atom(NamedTuple):
    """A range of a coordinate: `stride * index` for indices below `size`.

    Attributes:
      coordinate: 0, 1, 2, ... for the axes between the first and the last of an
        input, `BATCH` for the first, `REPEAT` for an axis on which values repeat,
        `LISTED` and below for axes whose places are nodes.
      stride: Distance of neighbours, in pixels of the array.
      size: Number of elements.
      copy: Tells apart independent ranges of one coordinate in one array, such as
        the tokens of queries and the tokens of keys.
    """

    coordinate: int
    stride: int
    size: int
    copy: int = 0


# An axis of an array, row-major over its atoms. Empty for an axis of one element and
# for an axis on which units differ.
Axis = tuple[Atom, ...]


def repeated(size: int) -> Axis:
    """The axis of a value that is repeated."""
    return (Atom(REPEAT, 1, size),) if size > 1 else ()


def is_own(axis: Axis) -> bool:
    """True for shared axes on which values differ, other than mere repetitions."""
    return any(atom.coordinate != REPEAT for atom in axis)


def is_listed(axis: Axis) -> bool:
    """True for an axis whose places are nodes."""
    return any(atom.coordinate <= LISTED for atom in axis)


def _overlaps(first: Atom, second: Atom) -> bool:
    """True for two ranges of one coordinate that are no digits of each other."""
    if first[::3] != second[::3] or first.coordinate == REPEAT:
        return False
    ends = (atom.stride * atom.size for atom in (first, second))
    return max(first.stride, second.stride) < min(ends)


def independent(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Axes of one array: a range that occurs again is a copy of its coordinate."""
    taken: list[Atom] = []
    result = []
    for axis in axes:
        atoms = []
        for atom in axis:
            while any(_overlaps(atom, other) for other in taken):
                atom = atom._replace(copy=atom.copy + 1)
            atoms.append(atom)
        taken += atoms
        result.append(tuple(atoms))
    return tuple(result)


def replace_axis(axes: Sequence[Axis], index: int, axis: Axis) -> tuple[Axis, ...]:
    """Axes with another one in one place, independent of the others."""
    others = [*axes[:index], *axes[index + 1 :]]
    *others, axis = independent([*others, axis])
    return (*others[:index], axis, *others[index:])


_LENGTHS = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23)


def axis_positions(axis: Axis) -> np.ndarray:
    """Positions `[n, 3]` of the n elements of an axis, in pixels.

    Steps along copies of a coordinate are longer by square roots of primes, so that
    sums over several axes of one coordinate differ.

    Raises:
      UnsupportedLayerError: If the axis runs over examples or a fourth coordinate.
    """
    positions = np.zeros((1, NUM_COORDINATES), np.float32)
    for atom in axis:
        check_coordinate(atom)
        steps = np.zeros((atom.size, NUM_COORDINATES), np.float32)
        if atom.coordinate != REPEAT:
            length = atom.stride * np.sqrt(_LENGTHS[atom.copy % len(_LENGTHS)])
            steps[:, atom.coordinate] = length * np.arange(atom.size)
        positions = (positions[:, None] + steps[None]).reshape(-1, NUM_COORDINATES)
    return positions


def check_coordinate(atom: Atom) -> None:
    """Raises UnsupportedLayerError unless the atom is one of three coordinates."""
    if atom.coordinate == BATCH:
        raise UnsupportedLayerError(
            "operation mixes the examples of a batch (the first axis of an input)"
        )
    if atom.coordinate <= LISTED:
        raise UnsupportedLayerError("positions of an axis whose places are nodes")
    if atom.coordinate >= NUM_COORDINATES:
        raise UnsupportedLayerError(
            f"operation on coordinate {atom.coordinate}: at most {NUM_COORDINATES} "
            "axes between the first and the last axis of an input have positions"
        )


def _is_plain(atom: Atom) -> bool:
    return atom.stride == 1 and atom.copy == 0 and atom.coordinate != REPEAT


def layout_code(*axes: Axis, is_usual: bool | None = None) -> float:
    """A number in [0, 1) that tells layouts apart; 0 for the usual layout.

    The usual layout has one coordinate per axis, in increasing order, unless
    `is_usual` says otherwise.
    """
    axes = tuple(axis for axis in axes if axis)
    is_simple = all(len(axis) == 1 and _is_plain(axis[0]) for axis in axes)
    coordinates = [axis[0].coordinate for axis in axes]
    if is_usual is None:
        is_usual = is_simple and coordinates == sorted(set(coordinates))
    if is_usual:
        return 0.0
    return _code(axes)


def output_code(shape: Sequence[int], axes: Sequence[Axis]) -> float:
    """The layout code of an output; in the usual one, units come after places.

    Args:
      shape: Sizes of the axes.
      axes: What they are; nothing where every entry is a unit.
    """
    axes = [axis for axis, size in zip(axes, shape, strict=True) if axis or size > 1]
    is_place = [bool(axis) for axis in axes]
    if is_place == sorted(is_place, reverse=True):
        return layout_code(*axes)
    return _code(axes)


def _code(axes: Sequence[Axis]) -> float:
    text = repr([[tuple(atom) for atom in axis] for axis in axes])
    return (1 + zlib.crc32(text.encode()) % 65521) / 65536.0


def window_slots(axes: list[Axis]) -> tuple[list[int], float]:
    """Coordinates that windows over some axes report their positions in.

    Args:
      axes: Axes that a window slides over.

    Returns:
      One coordinate per axis, and the layout code: axes of several atoms take the
      coordinates 0, 1, 2 in turn, and the code says what is behind them.
    """
    if len(axes) > NUM_COORDINATES:
        raise UnsupportedLayerError(
            f"window over {len(axes)} axes: at most {NUM_COORDINATES} have positions"
        )
    atoms = [atom for axis in axes for atom in axis]
    for atom in atoms:
        check_coordinate(atom)
    coordinates = [axis[0].coordinate if axis else -1 for axis in axes]
    is_plain = all(len(axis) <= 1 and all(map(_is_plain, axis)) for axis in axes)
    free = [c for c in range(NUM_COORDINATES) if c not in coordinates]
    slots = [c if c >= 0 else free.pop(0) for c in coordinates]
    if is_plain and len(set(slots)) == len(slots):
        return slots, 0.0
    return list(range(len(axes))), layout_code(*axes, is_usual=False)


def split_axes(
    shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """Groups of axes of a reshape: the smallest with equal products.

    Returns:
      Pairs of old axes and new axes. Axes of size 1 join a neighbouring group.
    """
    groups, old, new = [], 0, 0
    while old < len(shape) or new < len(new_shape):
        olds, news, size, new_size = [], [], 1, 1
        if old < len(shape):
            olds, size, old = [old], shape[old], old + 1
        if new < len(new_shape):
            news, new_size, new = [new], new_shape[new], new + 1
        while size != new_size:
            if size < new_size:
                olds.append(old)
                size, old = size * shape[old], old + 1
            else:
                news.append(new)
                new_size, new = new_size * new_shape[new], new + 1
        groups.append((olds, news))
    return groups


def regroup_atoms(atoms: Axis, sizes: list[int]) -> list[Axis] | None:
    """Distributes atoms over axes of the given sizes, splitting atoms where needed.

    Returns:
      One axis per size, or None if an axis would end within an atom that its size
      does not divide.
    """
    waiting = list(atoms)
    axes = []
    for size in sizes:
        axis = []
        while size > 1:
            atom = waiting.pop(0)
            if size % atom.size == 0:
                axis.append(atom)
                size //= atom.size
            elif atom.size % size == 0:
                rest = atom.size // size
                stride = atom.stride * (1 if atom.coordinate == REPEAT else rest)
                axis.append(atom._replace(stride=stride, size=size))
                waiting.insert(0, atom._replace(size=rest))
                size = 1
            else:
                return None
        axes.append(_merge(axis))
    return axes


def _merge(atoms: list[Atom]) -> Axis:
    """Joins neighbouring atoms that are the digits of one range."""
    merged: list[Atom] = []
    for atom in atoms:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last[::3] == atom[::3]
            and (atom.coordinate == REPEAT or last.stride == atom.stride * atom.size)
        ):
            merged[-1] = atom._replace(size=last.size * atom.size)
        else:
            merged.append(atom)
    return tuple(merged)
