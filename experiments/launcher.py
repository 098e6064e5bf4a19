"""What the launchers of all experiments share; imports neither JAX nor modmeta.

A wrong flag is answered before anything slow is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import app, flags, logging

# Flags belong to the launcher that asks for them: its --help shows them.
flags.disclaim_key_flags()


class CommonFlags(NamedTuple):
    """Flags that every launcher has.

    Attributes:
      workdir: `--workdir`, required.
      seed: `--seed`.
      smoke: `--smoke`.
      assignments: `--set`, any option by its path.
    """

    workdir: flags.FlagHolder
    seed: flags.FlagHolder
    smoke: flags.FlagHolder
    assignments: flags.FlagHolder


def define_flags(
    example: str,
    config_file: str,
    *,
    seed: str = "Seed of everything random.",
    smoke: str = "Run the whole pipeline in seconds, with meaningless numbers.",
) -> CommonFlags:
    """Defines the flags that every launcher has.

    Args:
      example: An assignment, for the help of `--set`.
      config_file: Where the options are described.
      seed: Help of `--seed`.
      smoke: Help of `--smoke`.
    """
    common = CommonFlags(
        flags.DEFINE_string(
            "workdir",
            None,
            "Directory of the run; an interrupted run in it is resumed.",
        ),
        flags.DEFINE_integer("seed", 0, seed, lower_bound=0),
        flags.DEFINE_bool("smoke", False, smoke),
        flags.DEFINE_multi_string(
            "set",
            [],
            f"Any option by its path, for instance --set={example}; repeat for "
            f"several. See {config_file}.",
        ),
    )
    flags.mark_flag_as_required("workdir")
    return common


def integers(holder: flags.FlagHolder) -> tuple[int, ...] | None:
    """The numbers of a list flag, None if it is absent.

    Raises:
      ValueError: If something else is in the list.
    """
    if holder.value is None:
        return None
    try:
        return tuple(int(word) for word in holder.value)
    except ValueError:
        raise ValueError(
            f"{holder.name}: found {','.join(holder.value)!r}, expected whole numbers "
            "between commas"
        ) from None


def define_tensorboard() -> flags.FlagHolder:
    """Defines `--tensorboard`."""
    return flags.DEFINE_bool("tensorboard", False, "Write TensorBoard event files too.")


def check_arguments(argv: list[str]) -> None:
    """Refuses words that are no flags, and quiets the libraries.

    Raises:
      app.UsageError: If there are any.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Found extra arguments {argv[1:]}.")
    if not flags.FLAGS["verbosity"].present:
        # Orbax tells of every file it writes.
        logging.set_verbosity(logging.WARNING)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns a ValueError, which a flag caused, into the usage and one message."""
    try:
        yield
    except ValueError as error:
        raise app.UsageError(str(error)) from error


@contextlib.contextmanager
def refusals(*errors: type[Exception]) -> Iterator[None]:
    """Turns errors that a user's files caused into one message and exit status 1."""
    try:
        yield
    except (
        FileExistsError,
        FileNotFoundError,
        ImportError,
        MemoryError,
        *errors,
    ) as error:
        raise SystemExit(f"FATAL: {error}") from error


def finish(
    summary: dict[str, Any] | None,
    format_summary: Callable[[dict[str, Any]], str],
    files: str,
    workdir: str,
) -> None:
    """Prints the last words of a run.

    Args:
      summary: What it returned; None if it was asked to stop.
      format_summary: Makes a table of it.
      files: What lies in the directory beside `summary.json`.
      workdir: The directory.
    """
    if summary is None:
        print("Stopped. The same command goes on from here.")
        return
    print(format_summary(summary))
    print(f"\n{files} and summary.json are in {workdir}.")
