"""Learns what sine networks compute from their weights, without labels.

python -m experiments.metanet_sine.main --config=sine --workdir=DIR
"""

import time

STARTED = time.perf_counter()

from absl import app, flags, logging  # noqa: E402

from experiments.metanet_sine import config as config_lib  # noqa: E402

_CONFIG = flags.DEFINE_enum(
    "config", "sine", list(config_lib.CONFIGS), "Preset of all options."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; an interrupted run in it is resumed."
)
_ZOO = flags.DEFINE_string(
    "zoo",
    None,
    "Directory of the networks; they are trained where they are missing. Several runs "
    "may share it. Default: in the working directory.",
)
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train",
    None,
    "Training networks of the zoo that are used. Default: all.",
    lower_bound=1,
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Training steps. Default: the preset's.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of everything random but the zoo (zoo.seed).", lower_bound=0
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Run the whole pipeline in seconds, with meaningless numbers."
)
_TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False, "Write TensorBoard event files too."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Any option by its path, for instance --set=training.learning_rate=1e-3; "
    "repeat for several. See experiments/metanet_sine/config.py.",
)
flags.mark_flag_as_required("workdir")


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Found extra arguments {argv[1:]}.")
    if not flags.FLAGS["verbosity"].present:
        # Orbax tells of every file it writes.
        logging.set_verbosity(logging.WARNING)
    try:
        config = config_lib.from_flags(
            _CONFIG.value,
            smoke_test=_SMOKE.value,
            assignments=_SET.value,
            values={
                "num_train": _NUM_TRAIN.value,
                "training.num_steps": _NUM_STEPS.value,
                "seed": _SEED.value,
            },
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    from experiments.metanet_sine import report, train
    from modmeta.progress import TqdmProgress

    summary = train.run(
        config,
        _WORKDIR.value,
        zoo_directory=_ZOO.value,
        progress=TqdmProgress(["loss", "valid_loss", "valid_mse"]),
        tensorboard=_TENSORBOARD.value,
        started=STARTED,
    )
    if summary is None:
        print("Stopped. The same command goes on from here.")
        return
    print(report.format_summary(summary))
    print(f"\nEmbeddings, figures, model and summary.json are in {_WORKDIR.value}.")


if __name__ == "__main__":
    app.run(main)
