"""What arrays of a network mean while its graph is built: signals and tables.

A `Signal` is an array computed from the input: it knows the unit behind each of its
elements. A `Table` is an array of parameters or constants: it knows the entry of the
parameter vector behind each element. Both carry an elementwise function that is still
to be applied.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from modmeta.metanet.parameter_graphs.functions import IDENTITY, Function
from modmeta.metanet.parameter_graphs.layout import NUM_COORDINATES, Axis


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """An array whose elements are outputs of units.

    An axis of `units` is as long as that of the array (*explicit*: units differ along
    it) or 1 (*shared*: the same units at all positions; `axes` tells which).

    Attributes:
      units: Node ids, int32, of the array's rank and broadcastable to `shape`.
      shape: Shape of the array.
      axes: Coordinates of every shared axis; empty for explicit axes.
      positions: `units.shape + (3,)` position of explicit elements that were taken
        from shared axes, or None if all are 0.
      function: Function to apply to the sums that units form.
      is_open: True if units are weighted sums that nothing else was made of, so that
        a bias may join them.
    """

    units: np.ndarray
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    positions: np.ndarray | None = None
    function: Function = IDENTITY
    is_open: bool = False

    def replace(self, **changes) -> Signal:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)

    @property
    def ndim(self) -> int:
        """Rank of the array."""
        return len(self.shape)

    @property
    def is_shared(self) -> tuple[bool, ...]:
        """Per axis: True if units are shared on it and it has several elements."""
        return tuple(
            size > 1 and units == 1
            for size, units in zip(self.shape, self.units.shape, strict=True)
        )

    @property
    def features(self) -> np.ndarray:
        """`[C]` units along the last axis, where all other axes are shared.

        Raises:
          ValueError: If units differ along another axis too.
        """
        if self.units.size != self.units.shape[-1] or self.is_shared[-1]:
            raise ValueError(
                f"signal: found units of shape {self.units.shape} for an array of "
                f"shape {self.shape}, expected units that differ along the last axis "
                "alone"
            )
        return self.units.reshape(-1)

    def all_positions(self) -> np.ndarray:
        """Positions `units.shape + (3,)`, zeros included."""
        if self.positions is None:
            return np.zeros((*self.units.shape, NUM_COORDINATES), np.float32)
        return self.positions

    def has_units_of(self, other: Signal) -> bool:
        """True if the two arrays differ by their functions at most."""
        return (
            self.shape == other.shape
            and self.axes == other.axes
            and np.array_equal(self.units, other.units)
            and np.array_equal(self.all_positions(), other.all_positions())
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """An array of parameters or constants.

    Attributes:
      parameters: Index of every element in the vector of parameters, -1 for
        constants; int32.
      constants: Value of constants, 0 for parameters; of the same shape.
      function: Function to apply to the entries.
    """

    parameters: np.ndarray
    constants: np.ndarray
    function: Function = IDENTITY

    @classmethod
    def constant(cls, values) -> Table:
        """A table of constants of any type."""
        if not jax.dtypes.issubdtype(
            jax.dtypes.result_type(values), jax.dtypes.prng_key
        ):
            values = np.asarray(values)
        return cls(np.full(values.shape, -1, np.int32), values)

    def replace(self, **changes) -> Table:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)

    def map(self, operation) -> Table:
        """Applies a rearrangement to parameters and constants alike."""
        return self.replace(
            parameters=operation(self.parameters), constants=operation(self.constants)
        )

    def collapse(self, axes) -> Table:
        """The table with axes that it is constant on cut to length 1."""
        table = self
        for axis in axes:
            first = table.map(lambda array, axis=axis: array.take([0], axis=axis))
            if np.array_equal(
                np.broadcast_to(first.parameters, table.shape), table.parameters
            ) and np.array_equal(
                np.broadcast_to(first.constants, table.shape), table.constants
            ):
                table = first
        return table

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.parameters.shape

    @property
    def ndim(self) -> int:
        """Rank of the array."""
        return self.parameters.ndim

    @property
    def is_constant(self) -> bool:
        """True if no element is a parameter."""
        return bool(np.all(self.parameters < 0))

    @property
    def is_uniform(self) -> bool:
        """True for constants of one value."""
        if not self.is_constant or self.constants.size == 0:
            return False
        first = self.constants.ravel()[0]
        return bool(np.all((self.constants == first) | (first != first)))
