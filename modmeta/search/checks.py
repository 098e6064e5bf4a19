"""Ranges of options, checked where a search, a move or a schedule is built."""

from __future__ import annotations


def at_least(minimum: float, **values: float) -> None:
    """Refuses values below a minimum.

    Raises:
      ValueError: That names the first one.
    """
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"{name}: found {value}, expected at least {minimum}")


def positive(**values: float) -> None:
    """Refuses values that are not above zero.

    Raises:
      ValueError: That names the first one.
    """
    for name, value in values.items():
        if not value > 0.0:
            raise ValueError(f"{name}: found {value}, expected a positive one")


def share(*, with_one: bool = True, **values: float) -> None:
    """Refuses values outside of [0, 1], or of [0, 1).

    Raises:
      ValueError: That names the first one.
    """
    for name, value in values.items():
        if not 0.0 <= value <= 1.0 or (value == 1.0 and not with_one):
            interval = "[0, 1]" if with_one else "[0, 1)"
            raise ValueError(f"{name}: found {value}, expected a share in {interval}")
