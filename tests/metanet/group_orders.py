"""How many permutations some permutations generate: a chain of stabilisers."""

import math

import numpy as np


class _Level:
    """The orbit of a point under a group that fixes the points before it."""

    def __init__(self, point, size):
        self.point, self.generators = point, []
        self.representatives = {point: np.arange(size)}

    def add(self, generator):
        self.generators.append(generator)
        waiting = list(self.representatives)
        while waiting:
            point = waiting.pop()
            for permutation in self.generators:
                image = int(permutation[point])
                if image not in self.representatives:
                    # First to the point, then on to its image.
                    self.representatives[image] = permutation[
                        self.representatives[point]
                    ]
                    waiting.append(image)


def group_order_logarithm(draw, size, *, patience=12, at_most=math.inf):
    """Logarithm of the order of the group that random elements are drawn from.

    Args:
      draw: Gives a random permutation `[size]`.
      size: Number of points.
      patience: So many draws in a row that teach nothing end the search: too small an
        order is returned with a chance of about 2 to the minus that.
      at_most: A bound that ends it, too.
    """
    levels = []
    quiet = 0
    while quiet < patience:
        permutation, depth = draw(), 0
        while True:
            if depth == len(levels):
                moved = np.nonzero(permutation != np.arange(size))[0]
                if not moved.size:
                    quiet += 1
                    break
                levels.append(_Level(int(moved[0]), size))
            level = levels[depth]
            image = int(permutation[level.point])
            if image not in level.representatives:
                for above in levels[: depth + 1]:
                    is_fixed = all(
                        permutation[other.point] == other.point
                        for other in levels[: levels.index(above)]
                    )
                    if is_fixed:
                        above.add(permutation)
                quiet = 0
                break
            inverse = np.argsort(level.representatives[image])
            permutation, depth = inverse[permutation], depth + 1
        total = sum(math.log(len(level.representatives)) for level in levels)
        if total >= at_most - 1e-6:
            return total
    return sum(math.log(len(level.representatives)) for level in levels)
