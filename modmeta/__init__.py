"""Relational inference by modular meta-learning and graph metanetworks, in JAX."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PARTS = ("graphs", "metanet", "relational", "runtime", "search")


def __getattr__(name: str) -> Any:
    """Imports a part when it is first used: JAX and Flax take seconds."""
    if name not in _PARTS:
        raise AttributeError(
            f"module 'modmeta' has no attribute {name!r}; its parts are "
            + ", ".join(_PARTS)
        )
    return importlib.import_module(f"modmeta.{name}")


def __dir__() -> list[str]:
    """What completion offers."""
    return sorted((*globals(), *_PARTS))
