"""Trained models and other arrays to take away, in one `.npz` file.

`save_artifact` and `load_artifact` hold a nested dict of arrays and its metadata. Plain
NumPy reads the file as well::

    with np.load("model.npz") as file:
        kernel = file["encoder/kernel"]
        header = json.loads(str(file["__header__"]))
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from modmeta.runtime.checkpoint import is_key
from modmeta.runtime.files import atomic_write, check_file

ARTIFACT_FORMAT = "modmeta.artifact"
ARTIFACT_VERSION = 1
_HEADER = "__header__"
# What `numpy.dtype.isbuiltin` says of bfloat16 and its relatives.
_REGISTERED_BY_EXTENSION = 2


def save_artifact(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    *,
    kind: str,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a nested dict of arrays and its metadata to one `.npz` file.

    The array at `arrays["encoder"]["kernel"]` becomes the entry `encoder/kernel`.
    The entry `__header__` is a JSON text with the kind, the metadata and the shape
    and dtype of every array. Dtypes that NumPy does not know are stored as unsigned
    integers of the same width, typed PRNG keys as their key data; `load_artifact`
    turns both back.

    Args:
      path: the file to write; one that exists is replaced, in one step.
      arrays: nested dict whose leaves are arrays or numbers of any shape. Names are
        non-empty strings without a slash.
      kind: says what the file holds, for example "modmeta.simulator";
        `load_artifact` checks it.
      metadata: anything that JSON can hold.

    Raises:
      TypeError: if a leaf is not numeric, if a name is not a string, or if the
        metadata does not fit JSON.
      ValueError: if a name is reserved, empty or holds a slash, or if a dict inside
        `arrays` is empty.
    """
    schema, entries = {}, {}
    for name, leaf in _flatten(arrays):
        entries[name], schema[name] = _encode_leaf(name, leaf)
    header = {
        "format": ARTIFACT_FORMAT,
        "version": ARTIFACT_VERSION,
        "kind": kind,
        "arrays": schema,
        "metadata": dict(metadata or {}),
    }
    text = json.dumps(header, allow_nan=False)
    with atomic_write(path) as file:
        content: dict[str, Any] = {_HEADER: np.array(text), **entries}
        np.savez(file, **content)


def load_artifact(
    path: str | os.PathLike[str], *, kind: str | tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `save_artifact` wrote, and checks it against its schema.

    Args:
      path: the file to read. Its content is never executed (no pickle).
      kind: the kind that the file must have, or those that it may have.

    Returns:
      The nested dict of NumPy arrays (typed keys come back as JAX arrays), and the
      metadata.

    Raises:
      FileNotFoundError: if there is no such file.
      IsADirectoryError: if there is a folder.
      ValueError: if the path is none, the file is not an artifact, is damaged, is of
        another kind or a later version, or if its arrays differ from its schema.
    """
    path = check_file(path)
    with path.open("rb") as raw:
        # Damage shows itself in half a dozen types of exception, all meaning the same.
        try:
            with np.load(raw, allow_pickle=False) as file:
                entries = {name: file[name] for name in file.files}
            header = json.loads(str(entries.pop(_HEADER)))
        except Exception as error:
            raise ValueError(
                f"{path}: found no readable file, expected a {ARTIFACT_FORMAT}"
            ) from error
    if not isinstance(header, dict) or header.get("format") != ARTIFACT_FORMAT:
        raise ValueError(f"{path}: found another file, expected a {ARTIFACT_FORMAT}")
    if header["version"] > ARTIFACT_VERSION:
        raise ValueError(
            f"{path}: found format version {header['version']}, expected at most "
            f"{ARTIFACT_VERSION}: a newer modmeta wrote it"
        )
    kinds = (kind,) if isinstance(kind, str) else kind
    if header["kind"] not in kinds:
        expected = " or ".join(map(repr, kinds))
        raise ValueError(f"{path}: found {header['kind']!r}, expected {expected}")
    schema = header["arrays"]
    if schema.keys() != entries.keys():
        raise ValueError(
            f"{path}: found {sorted(entries.keys() - schema.keys())} beyond its "
            f"schema, expected {sorted(schema.keys() - entries.keys())} too"
        )
    arrays: dict[str, Any] = {}
    for name, entry in entries.items():
        *parents, last = name.split("/")
        node = arrays
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _decode_leaf(f"{path}: {name}", entry, schema[name])
    return arrays, header["metadata"]


def _flatten(
    arrays: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, np.ndarray | jax.Array]]:
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"names: found {name!r} below {prefix!r}, expected strings")
        if not name or "/" in name or name == _HEADER:
            raise ValueError(
                f"names: found {name!r} below {prefix!r}, expected one without /"
            )
        if not isinstance(value, Mapping):
            yield prefix + name, value
        elif value:
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            raise ValueError(f"{prefix + name}: found an empty dict, expected arrays")


def _encode_leaf(name: str, leaf: Any) -> tuple[np.ndarray, dict[str, Any]]:
    if is_key(leaf):
        data = np.asarray(jax.random.key_data(leaf))
        implementation = str(jax.random.key_impl(leaf))
        return data, {
            "shape": list(data.shape),
            "dtype": str(data.dtype),
            "prng": implementation,
        }
    if isinstance(leaf, list | tuple | str | bytes) or leaf is None:
        raise TypeError(f"{name}: found a {type(leaf).__name__}, expected an array")
    array = np.asarray(leaf)
    schema = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.dtype.kind in "biufc":
        return array, schema
    if array.dtype.isbuiltin == _REGISTERED_BY_EXTENSION:
        return array.view(f"u{array.dtype.itemsize}"), schema
    raise TypeError(f"{name}: found dtype {array.dtype}, expected numbers or booleans")


def _decode_leaf(place: str, entry: np.ndarray, schema: Mapping[str, Any]) -> Any:
    dtype = np.dtype(schema["dtype"])
    if dtype.isbuiltin == _REGISTERED_BY_EXTENSION and (
        entry.dtype == f"u{dtype.itemsize}"
    ):
        entry = entry.view(dtype)
    found = (list(entry.shape), str(entry.dtype))
    expected = (schema["shape"], schema["dtype"])
    if found != expected:
        raise ValueError(
            f"{place}: found {found[1]}{found[0]}, expected {expected[1]}{expected[0]} "
            "by its schema"
        )
    if "prng" in schema:
        return jax.random.wrap_key_data(jax.numpy.asarray(entry), impl=schema["prng"])
    return entry
