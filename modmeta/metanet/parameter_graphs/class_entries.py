"""What is known of one permutation class, while a graph is built and after that."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np


class PermutationClass(NamedTuple):
    """A class of a finished graph.

    Attributes:
      size: Number of slots.
      parent: Index of the parent class, or -1.
      is_fixed: True if no slot may move.
      factors: Of a derived class, `(classes [size], slots [size])` per factor.
    """

    size: int
    parent: int
    is_fixed: bool
    factors: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


# Classes and slots of some members.
Members = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class ClassEntry:
    """A class while a graph is built."""

    size: int
    parent: int = -1
    is_fixed: bool = False
    has_children: bool = False
    factors: tuple[Members, ...] = ()
    # Where the slots went, once the class was joined with another or split.
    targets: np.ndarray | None = None
    target_slots: np.ndarray | None = None
    # Where they are now; the way that led there is forgotten.
    present: Members | None = None
