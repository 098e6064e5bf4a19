"""Predicts how accurate networks are from their weights.

python -m experiments.metanet_accuracy.main --config=digits --workdir=DIR
"""

import time

STARTED = time.perf_counter()

from absl import app, flags  # noqa: E402

from experiments import launcher  # noqa: E402
from experiments.metanet_accuracy import config as config_lib  # noqa: E402

_CONFIG = flags.DEFINE_enum(
    "config", "digits", list(config_lib.CONFIGS), "Preset of all options."
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Images that the networks classify: an .npz file with `images` [images, height, "
    "width, channels] and `labels` [images]; see "
    "experiments.metanet_accuracy.prepare_images. Default: the digits of scikit-learn.",
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
    "num_steps",
    None,
    "Training steps of models that read weights. Default: the preset's.",
    lower_bound=1,
)
_COMMON = launcher.define_flags(
    "training.learning_rate=1e-3",
    "experiments/metanet_accuracy/config.py",
    seed="Seed of everything random but the zoo (zoo.seed).",
    smoke="Run the whole pipeline in minutes, with meaningless numbers.",
)
_TENSORBOARD = launcher.define_tensorboard()


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    with launcher.usage_errors():
        config = config_lib.from_flags(
            _CONFIG.value,
            smoke_test=_COMMON.smoke.value,
            file=_DATA.value,
            assignments=_COMMON.assignments.value,
            values={
                "num_train": _NUM_TRAIN.value,
                "training.num_steps": _NUM_STEPS.value,
                "seed": _COMMON.seed.value,
            },
        )
    from experiments.metanet_accuracy import report, train
    from modmeta.metanet.zoo import ZooError
    from modmeta.metanet.zoo.images import ImageError
    from modmeta.runtime.progress import TqdmProgress

    with launcher.refusals(ImageError, ZooError):
        summary = train.run(
            config,
            _COMMON.workdir.value,
            zoo_directory=_ZOO.value,
            progress=TqdmProgress(["loss", "valid_loss"]),
            tensorboard=_TENSORBOARD.value,
            started=STARTED,
        )
    launcher.finish(
        summary, report.format_summary, "Predictions, figures", _COMMON.workdir.value
    )


if __name__ == "__main__":
    app.run(main)
