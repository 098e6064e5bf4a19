"""Weights as files of many kinds hold them: arrays by name."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs.leaves import path_names
from modmeta.metanet.zoo.specification import ZooError
from modmeta.runtime.optional import import_optional

WEIGHT_SUFFIXES = (".safetensors", ".msgpack", ".npz", ".pt", ".pth")

# Types of safetensors that NumPy and JAX have.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file of weights, or the folder of an orbax checkpoint.

    Args:
      path: `.safetensors`, `.npz`, `.msgpack` as Flax writes it, `.pt` or `.pth` of
        PyTorch (needs the extra `torch`; nothing but tensors is read), or a folder.

    Returns:
      Arrays by name, or a tree of them where the file holds one.

    Raises:
      ZooError: If there is nothing, the file is damaged or of another kind; the message
        names it.
      ImportError: If PyTorch is needed and not there.
    """
    path = Path(path)
    if path.is_dir():
        return _read_orbax(path)
    readers = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        ".msgpack": _read_msgpack,
        ".pt": _read_torch,
        ".pth": _read_torch,
    }
    if path.suffix not in readers:
        raise ZooError(
            f"{path}: found suffix {path.suffix!r}, expected one of "
            f"{', '.join(sorted(readers))}, or a folder of orbax"
        )
    if not path.is_file():
        raise ZooError(f"{path}: found no file, expected weights")
    try:
        found = readers[path.suffix](path)
    except (ImportError, ZooError):
        raise
    except Exception as error:  # every reader has errors of its own
        raise ZooError(
            f"{path}: found a damaged file ({error}), expected weights"
        ) from (error)
    if not isinstance(found, Mapping):
        raise ZooError(f"{path}: found {type(found).__name__}, expected arrays by name")
    return dict(found)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """A header in JSON, then the arrays one after another."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        size = path.stat().st_size - 8
        if length > size:
            raise ZooError(f"{path}: found a header of {length} bytes in {size}")
        header = json.loads(file.read(length))
        body = file.read()
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ZooError(
                f"{path}: found {name} of type {entry['dtype']}, expected one of "
                f"{', '.join(_DTYPES)}"
            )
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= len(body) or (
            stop - start != math.prod(entry["shape"]) * dtype.itemsize
        ):
            raise ZooError(
                f"{path}: found {name} at {start} to {stop}, expected "
                f"{math.prod(entry['shape']) * dtype.itemsize} bytes of {len(body)}"
            )
        arrays[name] = np.frombuffer(body[start:stop], dtype).reshape(entry["shape"])
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # NumPy leaves a damaged file open.
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_msgpack(path: Path) -> Any:
    from flax import serialization

    return serialization.msgpack_restore(path.read_bytes())


def _read_torch(path: Path) -> Any:
    torch = import_optional("torch", "torch")
    found = torch.load(path, map_location="cpu", weights_only=True)
    nested = [key for key in ("state_dict", "model_state_dict") if key in found]
    return found[nested[0]] if nested else found


def _read_orbax(path: Path) -> Any:
    import orbax.checkpoint

    try:
        with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
            return jax.tree.map(np.asarray, checkpointer.restore(path.absolute()))
    except (ValueError, FileNotFoundError, KeyError) as error:
        raise ZooError(
            f"{path}: found a folder that is no checkpoint of orbax ({error}), "
            "expected one"
        ) from error


def _name(path: Any) -> str:
    """The path of an array; files may join its parts by dots."""
    return "/".join(path_names(path)).replace(".", "/")


def fill(variables: Any, weights: Mapping[str, Any]) -> Any:
    """Variables with the arrays of a file whose names are their paths.

    Args:
      variables: Tree of arrays or `jax.ShapeDtypeStruct`.
      weights: A tree like it, or arrays by name, "params/Dense_0/kernel" or
        "params.Dense_0.kernel"; the first part may be missing where there is one
        collection.

    Returns:
      A tree like the variables, NumPy arrays.

    Raises:
      ZooError: If names are missing or left over, or a shape differs.
    """
    leaves = jax.tree_util.tree_leaves_with_path(dict(weights))
    given = {_name(path): leaf for path, leaf in leaves}
    paths, structure = jax.tree_util.tree_flatten_with_path(variables)
    names = [_name(path) for path, _ in paths]
    for field, found, count in (
        ("weights", given, len(leaves)),
        ("variables", set(names), len(names)),
    ):
        if len(found) < count:
            raise ZooError(
                f"{field}: found names that differ by dots and slashes alone, expected "
                "others, or a function that converts them"
            )
    heads = {name.partition("/")[0] for name in names}
    if len(heads) == 1 and not any(name in given for name in names):
        (head,) = heads
        given = {f"{head}/{name}": leaf for name, leaf in given.items()}
    missing, left = sorted(set(names) - set(given)), sorted(set(given) - set(names))
    if missing or left:
        raise ZooError(
            f"weights: found {left} left over and no {missing}, expected the names of "
            "the variables, or a function that converts them"
        )
    arrays = []
    for name, (_, leaf) in zip(names, paths, strict=True):
        array = np.asarray(given[name])
        if array.shape != tuple(leaf.shape):
            raise ZooError(
                f"{name}: found shape {array.shape}, expected {tuple(leaf.shape)}"
            )
        arrays.append(array)
    return jax.tree.unflatten(structure, arrays)
