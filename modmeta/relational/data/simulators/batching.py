"""What the simulators share: double precision, task keys, chunks, relation draws."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.validation import MINIMUM_FRAMES
from modmeta.runtime import option_types

# Chunks are whole multiples of the vector length, so that a task takes the same path
# through the compiled loops, and gets the same bits, in a chunk of any size.
_LANES = 8
# Nodes in a chunk. XLA divides loops over more than about 500 of them into parallel
# parts, which cost up to half the speed at this size; and pair arrays stay in cache.
_NODES_PER_CHUNK = 480


_task_keys = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


@contextlib.contextmanager
def float64_on_cpu() -> Iterator[None]:
    """Runs a block in double precision on the CPU and restores the settings after.

    The published generators use 64-bit floats, and close encounters of charges
    amplify rounding. The CPU is named so that data do not depend on the accelerator
    at hand; without a CPU backend the default device is used. The settings hold for
    the current thread. They include how keys become numbers, which another thread
    would not take over from a caller who changed it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.threefry_partitionable(True))
        try:
            cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS leaves the CPU out.
            pass
        else:
            stack.enter_context(jax.default_device(cpu))
        yield


def simulate_in_chunks(
    simulate_chunk: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    seed: int,
    num_tasks: int,
    *,
    num_nodes: int,
    task_batch: int | None,
    noise_scales: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Simulates tasks in chunks, several at a time on the cores of the host.

    The result depends neither on the chunk size nor on the number of cores.

    Args:
      simulate_chunk: From keys `[chunk]` to states `[chunk, time, nodes, features]`
        and edges `[chunk, nodes, nodes]`; task `t` may use its own key only.
      seed: Task `t` gets keys of this seed, folded with `t`.
      num_tasks: Number of tasks.
      num_nodes: Number of nodes, for the default chunk size.
      task_batch: Tasks integrated together, rounded up to a multiple of 8; None
        chooses a fast size.
      noise_scales: Standard deviation of the Gaussian noise added to each feature,
        `[features]`.

    Returns:
      States (float32) and edges of all tasks, on the host.

    Raises:
      ValueError: If the seed is none.
    """
    seed = option_types.check_seed(seed)
    if task_batch is None:
        fitting = _NODES_PER_CHUNK // num_nodes
        task_batch = max(fitting - fitting % _LANES, _LANES)
    chunk = -(-min(task_batch, num_tasks) // _LANES) * _LANES

    def simulate(start: int) -> tuple[np.ndarray, np.ndarray]:
        # The surplus tasks of the last chunk keep its shape, hence one compile.
        tasks = np.arange(start, start + chunk, dtype=np.uint32)
        with float64_on_cpu():
            root, noise_root = jax.random.split(
                jax.random.key(seed, impl="threefry2x32")
            )
            states, edges = simulate_chunk(_task_keys(root, tasks))
            if any(noise_scales):
                keys = _task_keys(noise_root, tasks)
                states = _add_noise(keys, states, np.asarray(noise_scales))
            return np.asarray(states, np.float32), np.asarray(edges)

    # The first chunk compiles, which threads at the same time would all do.
    chunks = [simulate(0)]
    with concurrent.futures.ThreadPoolExecutor(_num_cores()) as executor:
        chunks += executor.map(simulate, range(chunk, num_tasks, chunk))
    states, edges = map(np.concatenate, zip(*chunks, strict=True))
    return states[:num_tasks], edges[:num_tasks]


def check_simulation(
    *, num_tasks: int, num_nodes: int, num_frames: int, observation_noise: float
) -> None:
    """Raises a ValueError on sizes or a noise level that make no data set."""
    least = {
        "num_tasks": (num_tasks, 1),
        "num_nodes": (num_nodes, 1),
        "num_frames": (num_frames, MINIMUM_FRAMES),
        "observation_noise": (observation_noise, 0.0),
    }
    for name, (value, bound) in least.items():
        kind = float if name == "observation_noise" else int
        option_types.check(name, value, kind)
        if not value >= bound:
            raise ValueError(f"{name}: found {value}, expected at least {bound}")


def check_types(
    name: str, values: Sequence[float], probabilities: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the values of the types and their probabilities, uniform for None.

    Raises:
      ValueError: If values repeat or are not finite, or the probabilities are not as
        many non-negative numbers with sum one.
    """
    values = _numbers(name, values)
    if not values or len(set(values)) != len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name}: found {values}, expected distinct finite numbers")
    if probabilities is None:
        probabilities = (1.0 / len(values),) * len(values)
    probabilities = _numbers("probabilities", probabilities)
    if (
        len(probabilities) != len(values)
        or min(probabilities) < 0.0
        or not np.isclose(sum(probabilities), 1.0)
    ):
        raise ValueError(
            f"probabilities: found {probabilities}, expected {len(values)} "
            f"non-negative numbers with sum 1, one for each of {name} {values}"
        )
    return values, probabilities


def _numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    is_several = isinstance(values, Iterable) and not isinstance(values, str)
    listed = tuple(values) if is_several else values
    return option_types.check(name, listed, tuple[float, ...])


def draw_relations(
    rng_key: jax.Array,
    num_nodes: int,
    probabilities: tuple[float, ...],
    *,
    directed: bool,
) -> jax.Array:
    """Draws a relation type per ordered pair, `[nodes, nodes]`, -1 on the diagonal.

    Undirected graphs repeat the draws above the diagonal below it.
    """
    types = jax.random.choice(
        rng_key,
        len(probabilities),
        (num_nodes, num_nodes),
        p=jnp.asarray(probabilities),
    ).astype(jnp.int32)
    if not directed:
        upper = jnp.triu(types, 1)
        types = upper + upper.T
    return jnp.where(jnp.eye(num_nodes, dtype=bool), -1, types)


def _num_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not have it.
        return os.cpu_count() or 1


@jax.jit
def _add_noise(rng_keys: jax.Array, states: jax.Array, scales: jax.Array) -> jax.Array:
    def noise(rng_key: jax.Array) -> jax.Array:
        return jax.random.normal(rng_key, states.shape[1:])

    return states + scales[None, None, None] * jax.vmap(noise)(rng_keys)
