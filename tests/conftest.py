import ctypes
import gc
import importlib.metadata
import os
import pathlib
import sys

# These variables are read when jax is imported, hence before the imports below.
_XLA_FLAGS = {
    "--xla_force_host_platform_device_count": "2",
    # For what is compiled under `tests.fixtures.compiled_for_speed`; else, see below.
    "--xla_backend_optimization_level": "1",
    "--xla_llvm_disable_expensive_passes": "true",
}
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # With few compiler passes, a third of the time to compile. XLA ends the process at
    # flags that it does not know: later releases may be without this one.
    _XLA_FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _name, _value in _XLA_FLAGS.items():
    if _name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_name}={_value}"
# Tests compile much and compute little; also in the processes that they start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Else every thread of the compiler keeps a heap of its own; read by the workers.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile(
    "modmeta",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
)
hypothesis.settings.load_profile("modmeta")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_WORKERS] = {}
    config.stash[_NEXT_DROP] = _HIGH_GIGABYTES
    cache = getattr(config, "cache", None)
    if cache is not None:
        os.environ.setdefault(
            "JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax-compilation"))
        )
    # Also the small programs, which every file would compile again.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

    import jax

    # The environment is for other processes: where pytest was given a folder with a
    # `conftest.py` of its own, jax is imported by now and has read it.
    jax.config.update(
        "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR")
    )
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs",
        float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
    )
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tracing makes many small objects, and a collection looks at all that live.

    What was imported stays; the rest is looked at every 50,000 objects for every 700,
    and between files.
    """
    del session
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


# What a worker should take at most: four fit a laptop of 16 GB, two one of 8 GB.
# The kernel allows a process 65,530 memory maps; every compiled program keeps some.
_MAX_GIGABYTES = 2.5
_MAX_MAPS = 20_000
_WORKERS = pytest.StashKey[dict[str, tuple[float, int]]]()
# Beyond, programs are dropped also within a file.
_HIGH_GIGABYTES = 1.8
_GROWTH = 0.6
_NEXT_DROP = pytest.StashKey[float]()


def _gigabytes() -> float:
    """Memory of this process now; 0 where that cannot be told."""
    status = pathlib.Path("/proc/self/statm")
    if not status.exists():
        return 0.0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def _peak_gigabytes() -> float:
    """Largest memory that this process ever had; 0 where that cannot be told."""
    if sys.platform != "linux":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _clear_caches() -> None:
    """Clears the caches of functions, whose results hold arrays and programs."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("tests", "modmeta", "experiments"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _drop_programs(config: pytest.Config) -> None:
    """Gives back what compiled programs hold; what they took is kept in mind."""
    from modmeta.runtime import programs

    _, maps = config.stash[_WORKERS].get("", (0.0, 0))
    maps = max(maps, programs.count_maps())
    config.stash[_WORKERS][""] = (_peak_gigabytes(), maps)
    programs.drop()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    config.stash[_NEXT_DROP] = max(_HIGH_GIGABYTES, _gigabytes() + _GROWTH)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    result = yield
    is_last = nextitem is None or nextitem.path != item.path
    if is_last:  # fixtures of the file are gone by now
        _clear_caches()
    if is_last or _gigabytes() > item.config.stash[_NEXT_DROP]:
        _drop_programs(item.config)
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    del error
    found = getattr(node, "workeroutput", {}).get("modmeta_usage")
    if found is not None:
        node.config.stash[_WORKERS][node.gateway.id] = tuple(found)


def _largest(config: pytest.Config) -> tuple[float, int]:
    usages = config.stash[_WORKERS].values() or [(0.0, 0)]
    return tuple(max(column) for column in zip(*usages, strict=True))


def pytest_sessionfinish(session: pytest.Session) -> None:
    gigabytes, maps = _largest(session.config)
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["modmeta_usage"] = (gigabytes, maps)
    elif gigabytes > _MAX_GIGABYTES or maps > _MAX_MAPS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    gigabytes, maps = _largest(config)
    if not gigabytes:
        return
    line = f"largest worker: {gigabytes:.1f} GB, {maps:,} memory maps"
    if gigabytes > _MAX_GIGABYTES or maps > _MAX_MAPS:
        line += f", more than {_MAX_GIGABYTES} GB or {_MAX_MAPS:,} maps"
    terminalreporter.write_line(line)


@pytest.fixture
def strict_dtype_promotion():
    """Makes implicit changes of dtype an error, for tests that opt in.

    It cannot be the rule: the bias correction of `optax.adam` relies on them.
    """
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield
