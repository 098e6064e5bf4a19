"""Predicts how accurate networks are from their weights.

python -m experiments.metanet_accuracy.main --config=digits --workdir=DIR
"""

from absl import flags

from experiments import launcher
from experiments.metanet_accuracy.presets import PRESETS

_DATA = flags.DEFINE_string(
    "data",
    None,
    "Images that the networks classify: an .npz file with `images` [images, height, "
    "width, channels] and `labels` [images]; see "
    "experiments.metanet_accuracy.prepare_images. Default: the digits of scikit-learn.",
)
_ZOO = launcher.define_zoo()
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train",
    None,
    "Training networks of the zoo that are used. Default: all.",
    lower_bound=1,
)
_MAX_TRAIN_WIDTH = flags.DEFINE_integer(
    "max_train_width",
    None,
    "Train on networks no wider than this and test on all wider ones. Default: train "
    "and test on networks of any width.",
    lower_bound=1,
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "Training steps of models that read weights. Default: the preset's.",
    lower_bound=1,
)
_FLAGS = launcher.define_flags(
    PRESETS,
    "training.learning_rate=1e-3",
    "experiments/metanet_accuracy/config.py",
    seed="Seed of everything random but the zoo (zoo.seed).",
    smoke="Run the whole pipeline in minutes, with meaningless numbers.",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.metanet_accuracy.train import EXPERIMENT

    config = launcher.configure(
        EXPERIMENT,
        _FLAGS,
        {
            "images": _DATA.value,
            "num_train": _NUM_TRAIN.value,
            "max_train_width": _MAX_TRAIN_WIDTH.value,
            "training.num_steps": _NUM_STEPS.value,
        },
    )
    launcher.run(EXPERIMENT, config, _FLAGS, zoo_directory=_ZOO.value)


if __name__ == "__main__":
    launcher.start(main)
