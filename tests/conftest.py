import importlib.metadata
import os

# These variables are read when jax is imported, hence before the imports below.
_XLA_FLAGS = {"--xla_force_host_platform_device_count": "2"}
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
    cache = getattr(config, "cache", None)
    if cache is not None:
        os.environ.setdefault(
            "JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax-compilation"))
        )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_dtype_promotion():
    """Makes implicit changes of dtype an error, for tests that opt in.

    It cannot be the rule: the bias correction of `optax.adam` relies on them.
    """
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="module")
def full_compilation():
    """All compiler passes, for modules that measure what the compiler makes.

    For one module as a whole, since what it compiled would be found again.
    """
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
