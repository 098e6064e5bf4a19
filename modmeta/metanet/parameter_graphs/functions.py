"""Elementwise functions, known by their values at fixed probe points.

No list of activation functions is needed: two functions with different values have
different fingerprints, and the composition of a function with another operation is
that operation applied to its values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

# Six points within [-3, 3], where activations differ most, and two beyond 6, where
# clipped functions differ from unclipped ones. Multiples of square roots: at no point
# does a usual function meet another one by chance.
PROBES = np.array(
    [
        -2.1 * np.sqrt(10.0),
        -1.3 * np.sqrt(5.0),
        -0.9 * np.sqrt(2.0),
        -0.1 * np.sqrt(13.0),
        0.1 * np.sqrt(3.0),
        0.5 * np.sqrt(3.5),
        0.7 * np.sqrt(11.0),
        2.0 * np.sqrt(11.0),
    ],
    np.float32,
)
NUM_PROBES = len(PROBES)
_SHRINK = np.float32(0.25)
_ARGUMENTS = np.concatenate([PROBES, PROBES * _SHRINK])
_LARGEST = 1e4


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """An elementwise function of one unit.

    Attributes:
      values: `[2 P]` values at the P probe points and at a quarter of each.
    """

    values: np.ndarray

    @property
    def key(self) -> bytes:
        """Equal for functions with equal values."""
        return np.asarray(self.values, np.float32).tobytes()

    @property
    def is_identity(self) -> bool:
        """True for x -> x."""
        return self.key == IDENTITY.key

    @property
    def fingerprint(self) -> np.ndarray:
        """`[P]` finite float32 values at the probe points."""
        values = np.asarray(self.values, np.float32)[:NUM_PROBES]
        values = np.nan_to_num(values, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
        return np.clip(values, -_LARGEST, _LARGEST)

    @property
    def is_positively_homogeneous(self) -> bool:
        """True if f(a x) = a f(x) for a > 0, judged at the probe points (rtol 1e-5)."""
        values = np.asarray(self.values, np.float32)
        if not np.all(np.isfinite(values)):
            return False
        full, shrunk = values[:NUM_PROBES], values[NUM_PROBES:]
        return bool(np.allclose(full * _SHRINK, shrunk, rtol=1e-5, atol=1e-7))

    def then(self, operation: Callable) -> Function:
        """The composition `operation(self(x))`."""
        return Function(np.asarray(operation(self.values)))


IDENTITY = Function(_ARGUMENTS)
