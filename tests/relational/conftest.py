import jax
import pytest

from tests.relational.springs_run import SpringsRun


@pytest.fixture(scope="session")
def springs_run():
    # Whichever module asks first: this one computes more than it compiles.
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    run = SpringsRun()
    jax.config.update("jax_disable_most_optimizations", before)
    return run
