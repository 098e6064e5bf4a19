import os
import pkgutil
import subprocess
import sys

import pytest

import modmeta

# In a process of its own: here everything is imported already.
PROGRAM = """
import sys
import modmeta
assert "jax" not in sys.modules
assert modmeta.search.__name__ == "modmeta.search"
assert "jax" in sys.modules
"""


def test_parts_are_imported_when_used():
    command = [sys.executable, "-c", PROGRAM]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def test_every_package_is_a_part():
    found = {item.name for item in pkgutil.iter_modules(modmeta.__path__) if item.ispkg}
    assert found <= set(dir(modmeta))
    assert {getattr(modmeta, name).__name__ for name in found} == {
        f"modmeta.{name}" for name in found
    }


def test_unknown_part_is_refused():
    with pytest.raises(AttributeError, match="'laws'; its parts are graphs, metanet"):
        _ = modmeta.laws
