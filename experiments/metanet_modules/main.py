"""Reads which law a module of a bank encodes, and how strong, from its weights.

python -m experiments.metanet_modules.main --config=laws --workdir=DIR
"""

from absl import flags

from experiments import launcher

_ZOO = launcher.define_zoo()
_MODELS = flags.DEFINE_list(
    "models",
    [],
    "Files model.npz of experiments.relational_inference, between commas; the edge "
    "modules of their banks are read, too. Default: none.",
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
    "Training steps of readers of graphs. Default: the preset's.",
    lower_bound=1,
)
_FLAGS = launcher.define_flags(
    {"laws": "4,000 networks of ten laws, half an hour on two cores"},
    "zoo.shape.sizes=(16,)",
    "experiments/metanet_modules/config.py",
    seed="Seed of everything random but the zoo (zoo.seed).",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.metanet_modules.train import EXPERIMENT

    config = launcher.configure(
        EXPERIMENT,
        _FLAGS,
        {"num_train": _NUM_TRAIN.value, "training.num_steps": _NUM_STEPS.value},
    )
    launcher.run(
        EXPERIMENT,
        config,
        _FLAGS,
        zoo_directory=_ZOO.value,
        models=tuple(_MODELS.value),
    )


if __name__ == "__main__":
    launcher.start(main)
