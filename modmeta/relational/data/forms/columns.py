"""What columns and axes are called: usual names, and roles by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from modmeta.relational.data.validation import DataError

KEYS = ("system", "time", "entity")
# Lower case, letters alone; the first that a table has is taken.
_USUAL = {
    "system": (
        "system task recording trial run simulation sim session experiment episode "
        "replicate subject video scene"
    ).split(),
    "time": (
        "time timestamp datetime date t seconds sec times frame framenumber frameindex "
        "framenum step timestep"
    ).split(),
    "entity": (
        "entity node agent particle body object individual animal fish player track "
        "oscillator neuron gene unit region vehicle id name"
    ).split(),
    "feature": (
        "feature variable channel component coordinate dimension state space coords"
    ).split(),
}
# A column that only counts rows.
_ROW_NUMBERS = re.compile(r"^(unnamed.*|__index_level_\d+__|index|)$", re.IGNORECASE)
_UNIT = re.compile(r"(?<=\w)\s*(\[[^\[\]]*\]|\([^()]*\))\s*$")
# An axis, and the entity that it is of.
_OF_ENTITY = re.compile(r"((?:pos|v|vel)?_?[xyz])[_. -]?[^_. -]", re.IGNORECASE)
_AXES = ("x", "y", "z")
_POSITIONS = ("", "pos", "position", "loc", "location")
_VELOCITIES = ("v", "vel", "velocity")


def plain(name: Any) -> str:
    """A name in lower case, letters and digits alone, without a plural or "id".

    What follows a name in brackets is its unit, and no part of it.
    """
    text = _UNIT.sub("", str(name).lower())
    text = re.sub(r"[^a-z0-9]", "", text)
    for ending in ("ids", "id", "s"):
        short = text.removesuffix(ending)
        if short != text and short in sum(_USUAL.values(), []):
            return short
    return text


def unit_of(name: str) -> str:
    """What a name has in brackets at its end; nothing where there are none."""
    found = _UNIT.search(name)
    return found[1][1:-1].strip() if found else ""


def is_row_number(name: str) -> bool:
    """Whether a column is called as programs call the numbers of rows."""
    return bool(_ROW_NUMBERS.match(name.strip()))


class KeyNames(NamedTuple):
    """Names of key columns or axes.

    Attributes:
      explicit: By key, names that the user gives.
      usual: By key, names that are taken where none is given and the table has them.
    """

    explicit: Mapping[str, str] = {}
    usual: Mapping[str, str] = {}


def find_keys(
    names: Sequence[str],
    given: KeyNames,
    keys: Sequence[str],
    place: str = "columns",
) -> dict[str, str]:
    """Which of the names is that of the system, the time, and so on.

    Args:
      names: Names of columns or axes.
      given: Names by key; those that it lacks are found by usual names.
      keys: Keys that are looked for, of `KEYS` and "feature".
      place: What messages call the names.

    Returns:
      The name by key, for the keys that were found.

    Raises:
      DataError: If a given name is not there, or a usual one is there twice.
    """
    found = dict(given.explicit)
    for key, name in found.items():
        if key not in keys:
            raise DataError(f"{place}: found the key {key!r}, expected any of {keys}")
        if name not in names:
            raise DataError(
                f"{place}: found {name!r} for the {key}, expected one of {list(names)}"
            )
    if len(set(found.values())) < len(found):
        raise DataError(f"{place}: found {found}, expected a name for one key alone")
    for key in keys:
        usual = given.usual.get(key)
        if key not in found and usual in names and usual not in found.values():
            found[key] = usual
    for key in keys:
        if key in found:
            continue
        for usual in _USUAL[key]:
            matches = [
                name
                for name in names
                if plain(name) == usual and name not in found.values()
            ]
            if len(matches) > 1:
                raise DataError(
                    f"{place}: found {matches} for the {key}, expected one: say which "
                    f"with {saying(key, matches[0])}"
                )
            if matches:
                found[key] = matches[0]
                break
    return found


def usual_names(key: str) -> str:
    """The first of the usual names, for messages."""
    return ", ".join(repr(name) for name in _USUAL[key][:6])


def saying(key: str, name: str = "NAME") -> str:
    """How to say which column a key is, in Python and in a shell, for messages."""
    shown = name if name == "NAME" else repr(name)
    return f"columns={{{key!r}: {shown}}}, in a shell --columns={key}={name}"


def of_one_entity_each(names: Sequence[str]) -> str:
    """A hint, for messages, if columns such as x_1 and x_2 seem to be entities."""
    groups: dict[str, list[str]] = {}
    for name in names:
        match = _OF_ENTITY.match(name)
        if match:
            groups.setdefault(match.group(1).lower(), []).append(name)
    found = max(groups.values(), key=len, default=[])
    if len(found) < 2:
        return ""
    return (
        f"; {found[0]!r} and {found[1]!r} seem to be columns of one entity each, whose "
        "rows have to stand below each other (docs/guide/data.md shows how)"
    )


def is_usual(name: str, key: str) -> bool:
    """Whether a name is a usual one for a key."""
    return plain(name) in _USUAL[key]


def resolve_columns(entries: Any, names: Sequence[str], role: str) -> tuple[int, ...]:
    """Columns by number, from numbers or names.

    Raises:
      DataError: If an entry is neither, or there is no such column.
    """
    if isinstance(entries, str):
        entries = (entries,)
    try:
        entries = tuple(np.atleast_1d(entries)) if not _is_listed(entries) else entries
    except ValueError as error:
        raise DataError(f"{role}: found {entries!r}, expected columns") from error
    columns = []
    for entry in entries:
        if isinstance(entry, str):
            if entry not in names:
                raise DataError(
                    f"{role}: found the name {entry!r}, expected one of the features "
                    f"{tuple(names)}"
                )
            columns.append(list(names).index(entry))
        elif isinstance(entry, int | np.integer) and not isinstance(entry, bool):
            columns.append(int(entry))
        else:
            raise DataError(
                f"{role}: found {entry!r}, expected numbers or names of columns of the "
                f"features {tuple(names)}"
            )
    return tuple(columns)


def usual_roles(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Positions and velocities among features that are called as usual.

    Both of x and y, or x with its velocity, are positions; velocities count if there is
    one for each of them.
    """

    def columns(prefixes):
        for prefix in prefixes:
            found = [
                [i for i, name in enumerate(names) if plain(name) == f"{prefix}{axis}"]
                for axis in _AXES
            ]
            count = next((i for i, c in enumerate(found) if len(c) != 1), len(_AXES))
            if count:
                return tuple(c[0] for c in found[:count])
        return ()

    positions, velocities = columns(_POSITIONS), columns(_VELOCITIES)
    if len(positions) < 2 and len(positions) != len(velocities):
        return {}
    if not positions:
        return {}
    roles = {"positions": positions}
    if len(velocities) == len(positions):
        roles["velocities"] = velocities
    return roles


def is_usual_role(name: str) -> bool:
    """Whether a column is called as positions or velocities are."""
    return plain(name) in {
        f"{prefix}{axis}" for prefix in _POSITIONS + _VELOCITIES for axis in _AXES
    }


def lone_velocities(names: Sequence[str], roles: Mapping[str, Any]) -> list[str]:
    """Names of velocities of some positions, where others have none.

    Args:
      names: Names of all features.
      roles: What `usual_roles` found.
    """
    if "positions" not in roles or "velocities" in roles:
        return []
    usual = {f"{prefix}{axis}" for prefix in _VELOCITIES for axis in _AXES}
    return [name for name in names if plain(name) in usual]


def _is_listed(entries: Any) -> bool:
    return isinstance(entries, list | tuple | range)
