"""Checkpoints of running experiments: an interrupted run goes on where it stopped.

A store takes any pytree and needs a template to read it back. What is to be taken away
goes into an artifact, see `modmeta.runtime.artifact`.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocp_managers

PyTree = Any


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


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys."""
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
    if is_key(leaf):
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
        if is_key(leaf) and not keys:
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
