"""The zoo of networks that an experiment reads: checked, made, or gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common.runs import Run
from modmeta.metanet import zoo


def open_zoo(
    run: Run,
    directory: str | Path | None,
    expected: dict[str, Any],
    generate: Callable[..., bool],
) -> Path | None:
    """Makes the zoo of a run, or goes on with one.

    The run takes its directory once nothing of the zoo can be refused any more.

    Args:
      run: The run.
      directory: Where the zoo is or shall be; None for `zoo` in the directory of the
        run.
      expected: Its configuration, as the zoo keeps it.
      generate: `(directory, *, progress, should_stop)`, False if stopped.

    Returns:
      The directory of the whole zoo, or None if the run was asked to stop.

    Raises:
      ZooError: If the zoo is damaged or of another configuration.
    """
    directory = Path(directory or run.workdir / "zoo")
    if _is_taken(directory):
        zoo.read_spec(directory, expected)
    run.claim()
    options = {"progress": run.progress, "should_stop": run.should_stop}
    return directory if generate(directory, **options) else None


def _is_taken(directory: Path) -> bool:
    """Whether a zoo or something else is there already."""
    if not directory.is_dir():
        return directory.exists()
    return any(not entry.name.startswith(".") for entry in directory.iterdir())
