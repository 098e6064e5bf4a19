import os

# These variables are read when jax is imported, hence before the imports below.
_DEVICE_COUNT = "--xla_force_host_platform_device_count"
if _DEVICE_COUNT not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICE_COUNT}=2"
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
def quick_compilation():
    """Leaves out most compiler passes, for tests that compile much and compute little.

    For one module as a whole, since what it compiled would be found again.
    """
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
