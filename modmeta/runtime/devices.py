"""Work spread over several devices, of one process or of several.

A mesh has two axes. The devices along `BATCHES` take different batches of tasks, those
along `CHAINS` different chains of the same tasks. Whatever is spread is gathered again
at once, in the order that one device would have computed it in, so that what follows,
ties and sums included, sees the same numbers on every device as on a single one.

Everything that is not spread is repeated on every device. Several processes, on one
host or many, all run the same program on the same arguments and all get the result.

Only inference is spread. Meta-training stays on one device: the gradient is a sum over
the systems of a batch, which several devices would add up in another order.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCHES = "batches"
CHAINS = "chains"

# Coordinator that stands for what the cluster's scheduler says.
AUTOMATIC = "auto"


def connect(
    coordinator: str, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a run; before anything else is asked of JAX.

    Args:
      coordinator: "host:port" of the first process, the same for all; "auto" to ask
        the cluster's scheduler, which then knows the other two as well.
      num_processes: Number of processes.
      process_id: Which of them this is, from 0.

    Raises:
      ValueError: If an argument is missing, superfluous, or out of range.
      RuntimeError: If JAX has been used already, or the others do not come.
    """
    numbers = f"num_processes={num_processes}, process_id={process_id}"
    if coordinator == AUTOMATIC:
        if num_processes is not None or process_id is not None:
            raise ValueError(f"coordinator: found 'auto' with {numbers}, expected none")
        jax.distributed.initialize()
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"coordinator: found {coordinator!r}, expected 'host:port' or 'auto'"
        )
    if num_processes is None or process_id is None:
        raise ValueError(f"coordinator: found {numbers}, expected both numbers")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"coordinator: found {numbers}, expected 0 <= process_id < num_processes"
        )
    jax.distributed.initialize(
        coordinator, num_processes, process_id, cluster_detection_method="deactivate"
    )


def build_mesh(num_devices: int = 1, *, num_chain_groups: int = 1) -> Mesh:
    """A mesh of the first devices of every process.

    Args:
      num_devices: Devices of every process.
      num_chain_groups: Devices, of all processes together, that share the chains of a
        batch; the others take other batches.

    Returns:
      A mesh `[batches, chains]`.

    Raises:
      ValueError: If a process has fewer devices, or they cannot be grouped so.
    """
    available = jax.local_device_count()
    if not 1 <= num_devices <= available:
        raise ValueError(
            f"num_devices: found {num_devices}, expected 1 to {available}, the "
            f"{jax.default_backend()} devices of this process"
        )
    chosen = [
        device
        for process in range(jax.process_count())
        for device in [d for d in jax.devices() if d.process_index == process][
            :num_devices
        ]
    ]
    if num_chain_groups < 1 or len(chosen) % num_chain_groups:
        raise ValueError(
            f"num_chain_groups: found {num_chain_groups}, expected a divisor of "
            f"{len(chosen)}, the devices of all processes"
        )
    grid = np.array(chosen).reshape(-1, num_chain_groups)
    return Mesh(grid, (BATCHES, CHAINS), axis_types=(AxisType.Auto,) * 2)


def is_first_process() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def on_every_device(function: Callable[..., Any], mesh: Mesh | None) -> Callable:
    """Runs a function of arrays on every device of a mesh, on the same arguments.

    Args:
      function: Uses `spread` for what the devices share; returns the same everywhere.
      mesh: The mesh; None leaves the function as it is.
    """
    if mesh is None:
        return function
    everywhere = PartitionSpec()
    # Gathered values are the same on all devices, which JAX cannot tell by itself.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=everywhere,
        out_specs=everywhere,
        check_vma=False,
    )


def spread(
    function: Callable[[Any], Any], items: Any, axis_name: str, mesh: Mesh | None
) -> Any:
    """Applies a function to items that the devices along an axis share.

    Args:
      function: From items, leaves `[n, ...]`, to results, leaves `[n, ...]`, each
        from its own item alone.
      items: Leaves `[items, ...]`. Where their number is no multiple of the number
        of devices, the last one is computed more than once.
      axis_name: `BATCHES` or `CHAINS`.
      mesh: The mesh whose `on_every_device` this runs in; None for a single device.

    Returns:
      The results of all items, leaves `[items, ...]`, on every device.
    """
    if mesh is None or mesh.shape[axis_name] == 1:
        return function(items)
    num_items = jax.tree.leaves(items)[0].shape[0]
    share = -(-num_items // mesh.shape[axis_name])
    rows = jax.lax.axis_index(axis_name) * share + jnp.arange(share)
    rows = jnp.minimum(rows, num_items - 1)
    found = function(jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], items))
    return jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True)[:num_items],
        found,
    )


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Puts a copy of arrays on every device of a mesh.

    Args:
      tree: Arrays and typed keys; the same in every process.
      mesh: The mesh; None returns them as they are.

    Raises:
      ValueError: If the processes do not agree on the arrays.
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def is_key(leaf):
        return isinstance(leaf, jax.Array) and jnp.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        )

    arrays = jax.tree.map(
        lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf),
        tree,
    )
    _check_agreement(arrays)

    def put(leaf, array):
        # Without the comparison of `device_put`, to which no NaN equals itself.
        copies = jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )
        if not is_key(leaf):
            return copies
        return jax.random.wrap_key_data(copies, impl=jax.random.key_impl(leaf))

    return jax.tree.map(put, tree, arrays)


def to_local(tree: Any, mesh: Mesh | None) -> Any:
    """One copy of replicated arrays, on this process's first device of the mesh."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def from_first_process(tree: Any) -> Any:
    """The first process's arrays, in every process.

    Args:
      tree: Arrays and numbers, of the same shapes in every process.

    Returns:
      NumPy arrays.
    """
    # Gathered, not summed: the bits stay, and the others may be waited for.
    return jax.tree.map(
        lambda leaf: multihost_utils.process_allgather(np.asarray(leaf))[0], tree
    )


def _check_agreement(arrays: Any) -> None:
    leaves, structure = jax.tree.flatten(arrays)
    found = str([(leaf.shape, leaf.dtype.name) for leaf in leaves]) + str(structure)
    checksum = zlib.crc32(found.encode())
    for leaf in leaves:
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    checksums = multihost_utils.process_allgather(np.uint32(checksum))
    if len(np.unique(checksums)) > 1:
        raise ValueError(
            "arguments: found different arrays in the processes, expected the same; "
            "do all of them use the same data, seed and kind of machine?"
        )
