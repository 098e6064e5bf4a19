"""What the launchers of all experiments share; imports neither JAX nor modmeta.

A wrong flag is answered before anything slow is imported. A launcher defines its own
flags, and imports its experiment in `main`::

    _FLAGS = launcher.define_flags({"tiny": "ends in a minute"}, "seed=1", "config.py")

    def main(argv: list[str]) -> None:
        launcher.check_arguments(argv)
        from experiments.mine.compute import EXPERIMENT

        config = launcher.configure(EXPERIMENT, _FLAGS, {"num_steps": _STEPS.value})
        launcher.run(EXPERIMENT, config, _FLAGS)
"""

from __future__ import annotations

import time

# Total time starts before anything slow is imported.
_STARTED = time.perf_counter()

import contextlib  # noqa: E402
from collections.abc import Callable, Iterator, Mapping  # noqa: E402
from typing import TYPE_CHECKING, Any, NamedTuple  # noqa: E402

from absl import app, flags, logging  # noqa: E402

if TYPE_CHECKING:
    from experiments.common import Experiment

# Flags belong to the launcher that asks for them: its --help shows them.
flags.disclaim_key_flags()


class CommonFlags(NamedTuple):
    """Flags that every launcher has.

    Attributes:
      config: `--config`, the preset.
      workdir: `--workdir`, required.
      seed: `--seed`.
      smoke: `--smoke`.
      assignments: `--set`, any option by its path.
      tensorboard: `--tensorboard`.
    """

    config: flags.FlagHolder
    workdir: flags.FlagHolder
    seed: flags.FlagHolder
    smoke: flags.FlagHolder
    assignments: flags.FlagHolder
    tensorboard: flags.FlagHolder


def define_flags(
    presets: Mapping[str, str],
    example: str,
    config_file: str,
    *,
    seed: str = "Seed of everything random.",
    smoke: str = "Run the whole pipeline in seconds, with meaningless numbers.",
) -> CommonFlags:
    """Defines the flags that every launcher has.

    Args:
      presets: What every preset of the experiment is, by its name; the first one is
        the default. They are named here since configurations are slow to import.
      example: An assignment, for the help of `--set`.
      config_file: Where the options are described.
      seed: Help of `--seed`.
      smoke: Help of `--smoke`.
    """
    explained = "; ".join(f"{name}: {text}" for name, text in presets.items())
    common = CommonFlags(
        config=flags.DEFINE_enum(
            "config",
            next(iter(presets)),
            list(presets),
            f"Preset of all options. {explained}.",
        ),
        workdir=flags.DEFINE_string(
            "workdir",
            None,
            "Directory of the run; an interrupted run in it is resumed. Required.",
        ),
        seed=flags.DEFINE_integer(
            "seed", 0, seed, lower_bound=0, upper_bound=2**32 - 1
        ),
        smoke=flags.DEFINE_bool("smoke", False, smoke),
        assignments=flags.DEFINE_multi_string(
            "set",
            [],
            f"Any option by its path, for instance --set={example}; repeat for "
            f"several. See {config_file}. Default: none.",
        ),
        tensorboard=flags.DEFINE_bool(
            "tensorboard", False, "Write TensorBoard event files too."
        ),
    )
    flags.mark_flag_as_required("workdir")
    return common


def define_zoo() -> flags.FlagHolder:
    """Defines `--zoo`, for experiments on networks."""
    return flags.DEFINE_string(
        "zoo",
        None,
        "Directory of the networks; they are trained where they are missing. Several "
        "runs may share it. Default: in the working directory.",
    )


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


def start(main: Callable[[list[str]], None]) -> None:
    """Runs a program with the flags of its command line."""
    app.run(main, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; what is no value of a flag is told in the words of a refusal.

    Returns:
      The words that are no flags.

    Raises:
      SystemExit: With one message and status 1, if a flag is unknown, or has no such
        value. Other errors would leave a parser of absl with a traceback.
    """
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        message = str(error)
        if isinstance(error, flags.IllegalFlagValueError):
            message = _refusal(message, error.__context__)
        raise SystemExit(f"FATAL: {message}") from error


def _refusal(text: str, reason: BaseException | None) -> str:
    """Which flag, what was found, and what was expected."""
    # As absl writes it: "flag --NAME=VALUE: REASON".
    name, _, rest = text.removeprefix("flag --").partition("=")
    flag = flags.FLAGS[name]
    if flag.value is None and rest.startswith("None: "):
        return f"{name}: found none, expected --{name}=VALUE"
    found = rest.removesuffix(f": {reason}")
    parser = flag.parser
    kinds = {
        flags.BooleanParser: "true or false",
        flags.IntegerParser: "a whole number",
        flags.FloatParser: "a number",
    }
    expected = kinds.get(type(parser), parser.syntactic_help)
    if isinstance(parser, flags.EnumParser):
        expected = f"one of {', '.join(parser.enum_values)}"
    lower, upper = (
        getattr(parser, f"{side}_bound", None) for side in ("lower", "upper")
    )
    if lower is not None:
        expected += (
            f" from {lower} on" if upper is None else f" from {lower} to {upper}"
        )
    return f"{name}: found {found!r}, expected {expected}"


def check_arguments(argv: list[str]) -> None:
    """Refuses words that are no flags and flags without a value; quiets the libraries.

    Raises:
      app.UsageError: If there are any.
    """
    if len(argv) > 1:
        raise app.UsageError(
            f"arguments: found {' '.join(argv[1:])}, expected flags alone, as "
            "--name=value"
        )
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and isinstance(flag.default, str | None) and flag.value == "":
            raise app.UsageError(
                f"--{name}=: found nothing, expected a value, or no --{name}"
            )
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


def configure(
    experiment: Experiment, common_flags: CommonFlags, values: Mapping[str, Any]
) -> Any:
    """Builds the configuration that flags describe.

    Args:
      experiment: The experiment.
      common_flags: What `define_flags` gave.
      values: What the flags of this launcher say: fields by dotted path, None where a
        flag is absent.

    Raises:
      app.UsageError: If there is no such configuration.
    """
    from experiments import common

    with usage_errors():
        return common.configure(
            experiment,
            common_flags.config.value,
            smoke=common_flags.smoke.value,
            values={"seed": common_flags.seed.value, **values},
            assignments=common_flags.assignments.value,
        )


def run(
    experiment: Experiment, config: Any, common_flags: CommonFlags, **options: Any
) -> None:
    """Runs or resumes an experiment and prints its summary.

    Args:
      experiment: The experiment.
      config: Its configuration.
      common_flags: What `define_flags` gave.
      **options: What the `compute` of the experiment takes besides.

    Raises:
      SystemExit: With one message and status 1, if the run is refused.
    """
    from experiments import common
    from modmeta.runtime import devices
    from modmeta.runtime.checkpoint import CheckpointMismatchError
    from modmeta.runtime.progress import TqdmProgress

    workdir = common_flags.workdir.value
    is_finished = common.is_finished(workdir)
    try:
        summary = common.run(
            experiment,
            config,
            workdir,
            progress=TqdmProgress(experiment.shown),
            tensorboard=common_flags.tensorboard.value,
            started=_STARTED,
            **options,
        )
    except (
        OSError,
        ImportError,
        MemoryError,
        CheckpointMismatchError,
        *experiment.refusals,
    ) as error:
        raise SystemExit(f"FATAL: {error}") from error
    if not devices.is_first_process():
        return
    if summary is None:
        print("Stopped. The same command goes on from here.")
        return
    print(experiment.format_summary(summary))
    print(f"\n{experiment.files} and summary.json are in {workdir}.")
    if is_finished:
        print(
            "That run had finished before: nothing was read or computed again. Another "
            "--workdir, or this one removed, makes a new run."
        )
