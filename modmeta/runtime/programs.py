"""Room for compiled programs, of which a process can hold only so many.

On Linux every program that JAX compiles for the CPU keeps some memory maps, as many as
it has kernels, and stays for as long as it could be called again. The kernel allows a
process 65,530 maps unless told otherwise (`vm.max_map_count`). Beyond, the compiler
ends the process. Models of other sizes or options are other programs: a notebook that
trains twenty of them would get there.
"""

from __future__ import annotations

import gc
import logging
import pathlib

import jax

_MAPS = pathlib.Path("/proc/self/maps")
_LIMIT = pathlib.Path("/proc/sys/vm/max_map_count")
# What is left is for the programs of one training and one search; together they take
# a tenth at most.
_SHARE = 0.5


def count_maps() -> int:
    """Memory maps of this process; 0 where the system does not tell."""
    return _MAPS.read_bytes().count(b"\n") if _MAPS.exists() else 0


def max_maps() -> int | None:
    """Memory maps that the system allows a process; None where it does not tell."""
    return int(_LIMIT.read_text()) if _LIMIT.exists() else None


def drop() -> None:
    """Drops all compiled programs of this process, also those of the caller.

    Nothing else is lost: what is called again is compiled again.
    """
    jax.clear_caches()
    gc.collect()


def make_room() -> bool:
    """Drops compiled programs if half of the memory maps are taken.

    Trainings and searches call this before they compile. With several processes it
    does nothing: on some devices they compile together.

    Returns:
      Whether programs were dropped.
    """
    limit = max_maps()
    if limit is None or jax.process_count() > 1:
        return False
    found = count_maps()
    if found <= _SHARE * limit:
        return False
    drop()
    logging.getLogger(__name__).info(
        "Dropped compiled programs: %d of %d memory maps were taken, now %d.",
        found,
        limit,
        count_maps(),
    )
    return True
