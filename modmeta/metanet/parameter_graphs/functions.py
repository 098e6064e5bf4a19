"""Elementwise functions, known by their values at many arguments.

No list of activation functions is needed: two functions with different values have
different fingerprints, and the composition of a function with another operation is
that operation applied to its values. Integers and booleans have arguments of their own.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Six points within [-3, 3], where activations differ most, and two beyond 6.
# Multiples of square roots: at no point does a usual function meet another one by
# chance.
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
NUM_DIGITS = 4
"""Numbers that stand for the values on the whole range, next to those at probes."""

# 32 points per factor of two, from 0.002 to 1000 on both sides of zero: steps, kinks
# and clips anywhere in that range lie between points of their own.
_PER_OCTAVE = 32
_RANGE = np.exp2(np.arange(-9 * _PER_OCTAVE, 10 * _PER_OCTAVE) / _PER_OCTAVE)
_SIDE = (np.sqrt(0.97) * _RANGE).astype(np.float32)
_ARGUMENTS = np.concatenate([PROBES, _SIDE, -_SIDE])
# A factor of four is a step of two octaves on each side.
_SHIFT = 2 * _PER_OCTAVE
_LARGEST = 1e4


def _bounded(values: np.ndarray) -> np.ndarray:
    """Values on a scale of magnitudes, in (-1, 1); -2 for what is not a number."""
    with np.errstate(invalid="ignore"):
        scaled = np.arcsinh(np.asarray(values, np.float64))
        bounded = scaled / (8 + np.abs(scaled))
    bounded = np.where(np.isinf(scaled), np.sign(scaled), bounded)
    return np.where(np.isnan(scaled), -2.0, bounded)


_WEIGHTS = np.cos(
    0.7548776662 * np.outer(1 + np.arange(NUM_DIGITS), 1 + np.arange(len(_ARGUMENTS)))
)


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """An elementwise function of one unit.

    Attributes:
      values: `[n]` values at n arguments, the first of which are the P probes.
      is_discrete: True for functions of integers and booleans.
      code: A number that stands for the expression of a discrete function, as there
        are too many integers to try; 0 for the identity and functions of real numbers.
    """

    values: np.ndarray
    is_discrete: bool = False
    code: int = 0

    @property
    def key(self) -> bytes:
        """Equal for functions with equal values."""
        if self.is_discrete:
            return self.code.to_bytes(4, "little")
        kind = np.complex64 if self.is_complex else np.float32
        return np.asarray(self.values, kind).tobytes()

    @property
    def is_complex(self) -> bool:
        """True if values are complex numbers, which no unit has."""
        return np.iscomplexobj(self.values)

    @property
    def is_identity(self) -> bool:
        """True for x -> x, of real numbers, integers or booleans."""
        return self.code == 0 if self.is_discrete else self.key == IDENTITY.key

    @property
    def fingerprint(self) -> np.ndarray:
        """`[P + D + 1]` finite float32 numbers.

        Values at the P probes, D numbers for the values on the whole range, which are
        0 for the identity, and one for the expression of a function of integers.
        """
        if self.is_identity and self is not IDENTITY:
            return IDENTITY.fingerprint
        values = np.asarray(self.values, np.float32)
        probed = np.nan_to_num(
            values[:NUM_PROBES], nan=0.0, posinf=_LARGEST, neginf=-_LARGEST
        )
        digits = _WEIGHTS @ (_bounded(values) - _bounded(_ARGUMENTS))
        code = [self.code / 2**32]
        probed = np.clip(probed, -_LARGEST, _LARGEST)
        digits = digits / np.sqrt(len(values))
        return np.concatenate([probed, digits, code]).astype(np.float32)

    @property
    def is_positively_homogeneous(self) -> bool:
        """True if f(a x) = a f(x) for a > 0, on the whole range (rtol 1e-5)."""
        values = np.asarray(self.values, np.float32)
        if self.is_discrete or not np.all(np.isfinite(values)):
            return False
        for side in values[NUM_PROBES:].reshape(2, -1):
            if not np.allclose(side[_SHIFT:] / 4, side[:-_SHIFT], rtol=1e-5, atol=1e-7):
                return False
        return True

    def then(self, operation: Callable) -> Function:
        """The composition `operation(self(x))`, for functions of real numbers."""
        return Function(np.asarray(operation(self.values)))


def compose(operation: Callable, name: str, operands: list[Function]) -> Function:
    """An operation applied to functions of one unit.

    Args:
      operation: Of one array per operand.
      name: Of the operation and its settings.
      operands: Functions; constant ones among them.
    """
    values = np.asarray(operation(*(operand.values for operand in operands)))
    if not any(operand.is_discrete for operand in operands):
        return Function(values)
    text = repr((name, [operand.key for operand in operands]))
    return Function(values, is_discrete=True, code=zlib.crc32(text.encode()) | 1)


def constant_function(value: Any) -> Function:
    """The function that is one number everywhere."""
    return Function(np.full(len(_ARGUMENTS), value))


IDENTITY = Function(_ARGUMENTS)
_INTEGERS = np.arange(len(_ARGUMENTS)) - 100


def identity_of(dtype: Any) -> Function:
    """The identity of real numbers, integers or booleans, by type."""
    if jax.dtypes.issubdtype(dtype, np.bool_):
        return Function(_INTEGERS % 2 == 1, is_discrete=True)
    if jax.dtypes.issubdtype(dtype, np.integer):
        return Function(_INTEGERS.astype(dtype), is_discrete=True)
    return IDENTITY


def fingerprint_of(function: Callable) -> np.ndarray:
    """The fingerprint of a function of arrays of real numbers."""
    return Function(np.asarray(function(_ARGUMENTS))).fingerprint
