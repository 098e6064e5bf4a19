"""Edits images by changing the weights of networks, and classifies them by these.

python -m experiments.metanet_editing.main --config=digits --workdir=DIR
"""

from absl import flags

from experiments import launcher

_DATA = flags.DEFINE_string(
    "data",
    None,
    "Images: an .npz file with `images` [images, height, width, channels] in [0, 1] or "
    "bytes, and `labels` [images]; see experiments.metanet_accuracy.prepare_images. "
    "Default: the digits of scikit-learn.",
)
_ZOO = launcher.define_zoo()
_EDIT = flags.DEFINE_enum(
    "edit",
    None,
    ["dilate", "contrast", "none"],
    "What is done to an image. Default: dilate.",
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "Training steps of every editor and reader. Default: the preset's.",
    lower_bound=1,
)
_FLAGS = launcher.define_flags(
    {
        "digits": "1,797 digits of 8x8 pixels, some minutes on two cores",
        "images": "5,000 images of --data, five networks of each, for a GPU",
    },
    "metanet.width=32",
    "experiments/metanet_editing/config.py",
    seed="Seed of everything random but the zoo (zoo.seed).",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.metanet_editing.train import EXPERIMENT

    config = launcher.configure(
        EXPERIMENT,
        _FLAGS,
        {
            "images": _DATA.value,
            "edit": _EDIT.value,
            "training.num_steps": _NUM_STEPS.value,
            "reading.num_steps": _NUM_STEPS.value,
        },
    )
    launcher.run(EXPERIMENT, config, _FLAGS, zoo_directory=_ZOO.value)


if __name__ == "__main__":
    launcher.start(main)
