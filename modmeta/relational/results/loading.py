"""Results from their files."""

from __future__ import annotations

import os

from modmeta.relational.results import storage
from modmeta.relational.results.result import RelationalInference


def load(path: str | os.PathLike[str]) -> RelationalInference:
    """Reads what `RelationalInference.save` wrote.

    Args:
      path: File to read.

    Returns:
      The result; it predicts, and infers the relations of new systems, as before.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is damaged, holds something else, or comes from a version
        with other arrays or options.
    """
    return RelationalInference(*storage.read(path))
