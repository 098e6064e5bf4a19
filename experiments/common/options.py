"""Fields of nested configurations by their dotted paths, as `--set` names them."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Config = TypeVar("Config")

_MOST_SUGGESTIONS = 3


class _Value(NamedTuple):
    """A new value, told apart from a mapping of further changes."""

    value: Any


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Replaces fields named by dotted paths, all at once.

    A configuration that checks itself sees the new fields together: their order does
    not matter. A path may lead into a mapping, whose owner then decides which names it
    accepts.

    Args:
      config: Nested frozen dataclasses, and mappings in them.
      values: New values by dotted path, for instance "training.num_steps". Integers
        serve as floats, lists as tuples.

    Returns:
      The configuration with these fields replaced.

    Raises:
      ValueError: If there is no such field, or a value is not of its kind.
    """
    changes: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        node = changes
        for parent in parents:
            node = node.setdefault(parent, {})
            if isinstance(node, _Value):
                raise ValueError(
                    f"config: found {path!r} beside a value for all of {parent!r}, "
                    "expected one of them"
                )
        if last in node:
            raise ValueError(
                f"config: found {path!r} beside fields of it, expected one of them"
            )
        node[last] = _Value(value)
    return _replaced(config, changes, (), config)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Reads "path=value" strings; later ones win.

    Args:
      assignments: The strings; values in Python or plain text.

    Returns:
      Values by dotted path, for `override`.

    Raises:
      ValueError: If an assignment is malformed.
    """
    values = {}
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set: found {assignment!r}, expected path=value")
        try:
            values[path] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            values[path] = text
    return values


def apply_assignments(config: Config, assignments: Sequence[str]) -> Config:
    """Replaces the fields that `--set` flags name: `parse_assignments`, `override`."""
    return override(config, parse_assignments(assignments))


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _replaced(
    owner: Any, changes: Mapping[str, Any], parents: tuple[str, ...], root: Any
) -> Any:
    """A copy of a dataclass or mapping with some of its values replaced."""
    if _is_config(owner):
        hints = typing.get_type_hints(type(owner))
        present = {f.name: getattr(owner, f.name) for f in dataclasses.fields(owner)}
    elif isinstance(owner, Mapping):
        hints, present = {}, owner
    else:
        hints, present = {}, {}
    replaced = {}
    for name, change in changes.items():
        place = (*parents, name)
        is_known = name in present
        if not is_known and (_is_config(owner) or not isinstance(owner, Mapping)):
            raise ValueError(_unknown(_first_path(place, change), root))
        if isinstance(change, _Value):
            hint = hints.get(name, Any if present.get(name) is None else None)
            replaced[name] = _checked(
                ".".join(place), change.value, present.get(name), hint
            )
        elif is_known:
            replaced[name] = _replaced(present[name], change, place, root)
        else:
            raise ValueError(_unknown(_first_path(place, change), root))
    if _is_config(owner):
        return dataclasses.replace(owner, **replaced)
    return type(owner)({**owner, **replaced})


def _first_path(place: tuple[str, ...], change: Any) -> str:
    while not isinstance(change, _Value):
        name, change = next(iter(change.items()))
        place = (*place, name)
    return ".".join(place)


def _paths(owner: Any, prefix: str = "") -> Iterator[str]:
    """Paths of all values below a configuration."""
    if _is_config(owner):
        for field in dataclasses.fields(owner):
            yield from _paths(getattr(owner, field.name), f"{prefix}.{field.name}")
    else:
        yield prefix.removeprefix(".")


def _unknown(path: str, root: Any) -> str:
    """Says that there is no such field, and which are near."""
    known = list(_paths(root))
    last = path.rpartition(".")[2]
    near = [other for other in known if other.rpartition(".")[2] == last]
    near += difflib.get_close_matches(path, known, n=_MOST_SUGGESTIONS)
    near = list(dict.fromkeys(near))[:_MOST_SUGGESTIONS]
    message = f"config: found no field {path!r}"
    if near:
        return f"{message}; did you mean {' or '.join(map(repr, near))}?"
    names = dict.fromkeys(other.partition(".")[0] for other in known)
    return f"{message}, expected one of {', '.join(names)}"


def _checked(path: str, value: Any, present: Any, hint: Any) -> Any:
    """A value of the kind that a field holds."""
    try:
        return _converted(value, type(present) if hint is None else hint, present)
    except TypeError:
        pass
    if _is_config(present):
        names = [field.name for field in dataclasses.fields(present)]
        raise ValueError(
            f"config: found {value!r} for {path!r}, expected values of its fields, as "
            f"{path}.{names[0]}=...: {', '.join(names)}"
        )
    expected = f"something like {present!r}"
    if present is None or _accepts_none(hint):
        expected = _name_of(hint)
    raise ValueError(f"config: found {value!r} for {path!r}, expected {expected}")


def _accepts_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _name_of(hint: Any) -> str:
    options = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(map(_name_of, options))
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not options else str(hint)


def _converted(value: Any, hint: Any, present: Any) -> Any:
    """The value as its annotation wants it.

    Raises:
      TypeError: If it is of another kind.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        for option in options:
            try:
                return _converted(value, option, present)
            except TypeError:
                continue
        raise TypeError
    if origin is typing.Literal:
        if value in options:
            return value
        raise TypeError
    kind = origin or hint
    if kind is tuple and isinstance(value, list | tuple):
        if not options:
            return tuple(value)
        if options[-1] is Ellipsis:
            options = options[:1] * len(value)
        if len(options) != len(value):
            raise TypeError
        return tuple(map(_converted, value, options, [None] * len(value)))
    if isinstance(kind, type) and issubclass(kind, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError
        return type(present)(value) if isinstance(present, Mapping) else value
    if kind is float and type(value) is int:
        return float(value)
    if kind is Any or not isinstance(kind, type):
        # Values of a mapping are told apart by its owner, who wants to hash them.
        return tuple(value) if isinstance(value, list) else value
    if type(value) is kind or (_is_config(value) and isinstance(value, kind)):
        return value
    raise TypeError
