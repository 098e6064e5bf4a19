"""Imports of packages that only some functions need."""

import importlib
from types import ModuleType


def import_optional(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional dependency.

    Args:
      module: dotted name, for example "matplotlib.figure".
      extra: the extra of modmeta that installs it, for example "plots".

    Returns:
      The module itself, not its top-level package.

    Raises:
      ImportError: if the package is not installed; the message holds the command that
        installs it. The error of an installed package that fails to import passes
        unchanged.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"This function needs {package}: pip install 'modmeta[{extra}]'.",
            name=package,
        ) from error
    return importlib.import_module(module)
