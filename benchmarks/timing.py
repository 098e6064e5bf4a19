"""How all benchmarks measure time."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

_REPEATS = flags.DEFINE_integer(
    "repeats", 3, "Timings of each, of which the fastest counts.", lower_bound=1
)
LARGE_MATRIX = 2048


def fastest(function: Callable, *arguments) -> tuple[Any, float]:
    """Result and fastest time of several calls, after one that compiles."""
    result = jax.block_until_ready(function(*arguments))
    timings = []
    for _ in range(_REPEATS.value):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        timings.append(time.perf_counter() - started)
    return result, min(timings)


def seconds_of(function: Callable, *arguments) -> float:
    """Fastest time of several calls, after one that compiles."""
    return fastest(function, *arguments)[1]


def peak_rate() -> float:
    """Floating-point operations per second of a large matrix product."""
    matrix = jnp.ones((LARGE_MATRIX, LARGE_MATRIX))
    return 2 * LARGE_MATRIX**3 / seconds_of(jax.jit(jnp.matmul), matrix, matrix)
