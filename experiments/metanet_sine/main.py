"""Learns what sine networks compute from their weights, without labels.

python -m experiments.metanet_sine.main --config=sine --workdir=DIR
"""

from absl import flags

from experiments import launcher

_ZOO = launcher.define_zoo()
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train",
    None,
    "Training networks of the zoo that are used. Default: all.",
    lower_bound=1,
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Training steps. Default: the preset's.", lower_bound=1
)
_FLAGS = launcher.define_flags(
    {
        "sine": "all networks and a small metanetwork, for a CPU",
        "published": "sizes of the published experiment, for a GPU",
    },
    "training.learning_rate=1e-3",
    "experiments/metanet_sine/config.py",
    seed="Seed of everything random but the zoo (zoo.seed).",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.metanet_sine.train import EXPERIMENT

    config = launcher.configure(
        EXPERIMENT,
        _FLAGS,
        {"num_train": _NUM_TRAIN.value, "training.num_steps": _NUM_STEPS.value},
    )
    launcher.run(EXPERIMENT, config, _FLAGS, zoo_directory=_ZOO.value)


if __name__ == "__main__":
    launcher.start(main)
