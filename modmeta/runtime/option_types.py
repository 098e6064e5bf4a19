"""Types of options, checked before their values are."""

from __future__ import annotations

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Collection
from typing import Any

import numpy as np

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    type(None): "None",
}


# Keys of random numbers would take others modulo this.
_NUM_SEEDS = 2**32


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def settle(config: Any) -> None:
    """Checks the fields of a frozen dataclass against their annotations.

    Lists become tuples and scalars of NumPy those of Python, so that configurations can
    be compared, hashed and written. Fields of other types than numbers, texts, truth
    values, None, dataclasses, and tuples or unions of them are left alone.

    Args:
      config: The configuration, in its `__post_init__`.

    Raises:
      ValueError: That names the first field of another type.
    """
    for name, kind in _hints(type(config)).items():
        if name not in config.__dataclass_fields__:
            continue
        value = check(name, getattr(config, name), kind)
        object.__setattr__(config, name, value)


def check(name: str, value: Any, kind: Any) -> Any:
    """The value in the type it is annotated with.

    Args:
      name: What the value is called.
      value: The value.
      kind: Its annotation.

    Raises:
      ValueError: If it is of another type.
    """
    is_fit, settled = _settled(value, kind)
    if not is_fit:
        raise ValueError(f"{name}: found {value!r}, expected {_description(kind)}")
    return settled


def check_positive(config: Any, *, or_zero: Collection[str] = ()) -> None:
    """Refuses numbers among the fields of a dataclass that are not positive and finite.

    Of tuples, all entries are asked; fields of other types are left alone.

    Args:
      config: The dataclass.
      or_zero: Names of fields that may be 0.

    Raises:
      ValueError: That names the first such field.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        entries = value if isinstance(value, tuple) else (value,)
        if not all(map(is_number, entries)):
            continue
        if field.name in or_zero:
            if not all(0 <= entry < np.inf for entry in entries):
                raise ValueError(f"{field.name}: found {value}, expected >= 0")
        elif not entries or not all(0 < entry < np.inf for entry in entries):
            raise ValueError(f"{field.name}: found {value}, expected above 0")


def is_number(value: Any) -> bool:
    """True for a real number, which a truth value is not taken for."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_seed(seed: Any) -> int:
    """A seed that keys of random numbers take as it is.

    Raises:
      ValueError: If it is no whole number from 0 on, or too large.
    """
    seed = check("seed", seed, int)
    if not 0 <= seed < _NUM_SEEDS:
        raise ValueError(f"seed: found {seed}, expected 0 to {_NUM_SEEDS - 1}")
    return seed


def _settled(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value fits an annotation, and the value as it is kept."""
    if isinstance(value, np.generic):
        value = value.item()
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            is_fit, settled = _settled(value, option)
            if is_fit:
                return True, settled
        return False, value
    if typing.get_origin(kind) is tuple and Ellipsis in typing.get_args(kind):
        if not isinstance(value, tuple | list):
            return False, value
        found = [_settled(entry, typing.get_args(kind)[0]) for entry in value]
        return all(fit for fit, _ in found), tuple(entry for _, entry in found)
    is_truth = isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not is_truth, value
    if kind is float:
        return isinstance(value, numbers.Real) and not is_truth, value
    if kind in (bool, str, type(None)) or dataclasses.is_dataclass(kind):
        return isinstance(value, kind), value
    return True, value


def _description(kind: Any) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    options = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return f"a tuple, each entry {_description(options[0])}"
    if options:
        return " or ".join(_description(option) for option in options)
    return str(getattr(kind, "__name__", kind))
