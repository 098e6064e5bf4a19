"""Checkpoints of running experiments, and trained models to take away.

Two formats, for two purposes:

* `CheckpointStore` keeps the last few states of a run, so that an interrupted run
  goes on where it stopped. It takes any pytree and needs a template to read it back.
* `save_artifact` and `load_artifact` hold a nested dict of arrays and its metadata
  in one `.npz` file, which plain NumPy reads as well::

      with np.load("model.npz") as file:
          kernel = file["encoder/kernel"]
          header = json.loads(str(file["__header__"]))
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocp_managers

from modmeta.runtime.files import atomic_write

PyTree = Any

ARTIFACT_FORMAT = "modmeta.artifact"
ARTIFACT_VERSION = 1
_HEADER = "__header__"
# What `numpy.dtype.isbuiltin` says of bfloat16 and its relatives.
_REGISTERED_BY_EXTENSION = 2


class CheckpointMismatchError(ValueError):
    """The stored tree and the template differ in structure, shape or dtype."""


class CheckpointStore:
    """The checkpoints of one run, in one directory.

    Trees may hold arrays, typed PRNG keys, Python numbers, NamedTuples, dataclasses
    registered as pytrees, and optimiser states. `save` returns once the checkpoint
    is on disk. A process that dies inside `save` leaves the earlier checkpoints
    readable; the unfinished one never counts, and goes with the next `save`.

    Example::

        with CheckpointStore(workdir / "checkpoints") as store:
            if store.latest_step is not None:
                state = store.restore(state)
            for step in range(first_step, num_steps):
                state = train_step(state)
                store.save(step + 1, state)

    Args:
      directory: created where it does not exist.
      max_to_keep: how many of the latest checkpoints to keep.
      keep_best: how many of the best checkpoints to keep besides; if positive,
        every `save` needs a metric.
      best_mode: whether the best metric is the smallest or the largest.

    Raises:
      ValueError: if `max_to_keep` is below one, `keep_best` is negative, or
        `best_mode` is unknown.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_to_keep: int = 3,
        keep_best: int = 0,
        best_mode: Literal["min", "max"] = "min",
    ):
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep: found {max_to_keep}, expected at least 1")
        if keep_best < 0:
            raise ValueError(f"keep_best: found {keep_best}, expected at least 0")
        if best_mode not in ("min", "max"):
            raise ValueError(f"best_mode: found {best_mode!r}, expected 'min' or 'max'")
        self._directory = Path(directory).absolute()
        self._keep_best = keep_best
        sign = 1.0 if best_mode == "max" else -1.0

        def score(metrics: Mapping[str, float]) -> float:
            value = metrics["metric"]
            return -math.inf if math.isnan(value) else sign * value

        policies: list[ocp_managers.PreservationPolicy] = [
            ocp_managers.LatestN(max_to_keep)
        ]
        if keep_best:
            policies.append(
                ocp_managers.BestN(
                    get_metric_fn=score,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                best_fn=score if keep_best else None,
                best_mode="max",
                preservation_policy=ocp_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The steps of the stored checkpoints, in increasing order."""
        return tuple(sorted(self._manager.all_steps()))

    @property
    def latest_step(self) -> int | None:
        """The step of the latest checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint with the best metric, None if there is none.

        Raises:
          ValueError: if the store does not keep the best checkpoints.
        """
        if not self._keep_best:
            raise ValueError("keep_best: found 0, expected at least 1 for best_step")
        return self._manager.best_step()

    def save(self, step: int, tree: PyTree, *, metric: float | None = None) -> None:
        """Writes one checkpoint, then deletes those that need not be kept.

        Args:
          step: number of steps done to reach `tree`; above that of every stored
            checkpoint.
          tree: what to store.
          metric: ranks the checkpoint when the store keeps the best ones. NaN ranks
            last.

        Raises:
          ValueError: if `step` is not above the latest one, or if `metric` is given
            to a store that keeps no best checkpoints, or missing from one that does.
        """
        latest = self.latest_step
        if latest is not None and step <= latest:
            raise ValueError(
                f"step: found {step} with checkpoint {latest} in {self._directory}, "
                "expected a later one"
            )
        if (metric is None) == bool(self._keep_best):
            raise ValueError(
                f"metric: found {metric} with keep_best {self._keep_best}, expected "
                "one if and only if keep_best is at least 1"
            )
        self._manager.save(
            step,
            args=ocp.args.StandardSave(tree),
            metrics=None if metric is None else {"metric": float(metric)},
        )

    def restore(self, template: PyTree, *, step: int | None = None) -> PyTree:
        """Reads one checkpoint.

        Args:
          template: a tree with the structure, shapes and dtypes of the stored one:
            either such a state or what `jax.eval_shape` gives for it. Arrays are put
            where those of the template are, on the first device if that is open; it
            then stays open.
          step: which checkpoint to read; the latest by default.

        Returns:
          The stored tree, with the container types of `template`.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          CheckpointMismatchError: if the checkpoint does not match the template. The
            message names each leaf, what was found and what was expected.
        """
        if step is None:
            step = self.latest_step
            if step is None:
                raise FileNotFoundError(f"No checkpoint in {self._directory}.")
        elif step not in self.all_steps:
            raise FileNotFoundError(
                f"No checkpoint {step} in {self._directory}; there are "
                f"{list(self.all_steps)}."
            )
        place = f"Checkpoint {step} in {self._directory}"
        stored = self._manager.item_metadata(step).tree
        _raise_on_mismatch(place, _describe(stored), _describe(template))
        tree = self._manager.restore(
            step,
            args=ocp.args.StandardRestore(jax.tree.map(_abstract_leaf, template)),
        )
        # The metadata does not tell a typed key from the integers that it is made of.
        _raise_on_mismatch(
            place, _describe(tree, keys=True), _describe(template, keys=True)
        )
        return jax.tree.map(_leave_open, tree, template)

    def close(self) -> None:
        """Releases the resources of the store. Idempotent."""
        self._manager.close()


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _abstract_leaf(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    sharding = leaf.sharding
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _leave_open(leaf: Any, template: Any) -> Any:
    """Frees an array from its device where that of the template is free.

    Programs for arrays that are bound to a device are others: a run that goes on would
    compile all of its own once more.
    """
    if isinstance(template, jax.Array):
        is_bound = template.committed
    else:
        is_bound = getattr(template, "sharding", None) is not None
    if is_bound or not isinstance(leaf, jax.Array):
        return leaf
    if _is_key(leaf):
        data = jax.device_put(np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.device_put(np.asarray(leaf))


def _describe(tree: PyTree, *, keys: bool = False) -> dict[str, str]:
    """Maps the path of each leaf to its dtype and shape.

    Keys count as the integers that they are made of, unless `keys` is set. Python
    numbers count by their kind, since their width is not part of what they are.
    """
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_key(leaf) and not keys:
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        if type(leaf) in (bool, int, float, ocp.metadata.ScalarMetadata):
            dtype = getattr(leaf, "dtype", type(leaf))
            kinds = {"b": "bool", "i": "int", "u": "int", "f": "float"}
            text = "Python " + kinds.get(np.dtype(dtype).kind, str(dtype))
        elif hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            text = f"{leaf.dtype}{list(leaf.shape)}"
        else:
            text = type(leaf).__name__
        described[jax.tree_util.keystr(path, simple=True, separator=".")] = text
    return described


def _raise_on_mismatch(
    place: str, found: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    lines = [
        f"  {name}: found {found.get(name, 'no such leaf')}, "
        f"expected {expected.get(name, 'no such leaf')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if lines:
        raise CheckpointMismatchError(
            f"{place} does not match the template:\n" + "\n".join(lines)
        )


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
    path: str | os.PathLike[str], *, kind: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `save_artifact` wrote, and checks it against its schema.

    Args:
      path: the file to read. Its content is never executed (no pickle).
      kind: the kind that the file must have.

    Returns:
      The nested dict of NumPy arrays (typed keys come back as JAX arrays), and the
      metadata.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is not an artifact, is damaged, is of another kind or
        a later version, or if its arrays differ from its schema.
    """
    path = Path(path)
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
    if header["kind"] != kind:
        raise ValueError(f"{path}: found {header['kind']!r}, expected {kind!r}")
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
    if _is_key(leaf):
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
