"""How searches over structures scale with the number of entities.

python -m experiments.search_scaling.main --config=springs --workdir=DIR
"""

from absl import flags

from experiments import launcher

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "model.npz of a relational_inference run on small systems. Default: one is "
    "trained first.",
)
_NUM_PROBLEMS = flags.DEFINE_integer(
    "num_problems",
    None,
    "Receivers searched per size, rounded up to whole systems. Default: 100.",
    lower_bound=1,
)
_MEAN_DEGREE = flags.DEFINE_float(
    "mean_degree",
    None,
    "Expected relations per entity at every size; 0 for one between every second "
    "pair. Default: 2; charges have none.",
    lower_bound=0.0,
)
_FLAGS = launcher.define_flags(
    {
        "springs": "springs, two per entity",
        "charged": "charges, which attract or repel all others",
        "kuramoto": "phase oscillators, two couplings per entity",
    },
    "measurement.num_chains=4",
    "experiments/search_scaling/config.py",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.search_scaling.run import EXPERIMENT

    config = launcher.configure(
        EXPERIMENT,
        _FLAGS,
        {
            "model": _MODEL.value,
            "systems.num_problems": _NUM_PROBLEMS.value,
            "training.data.mean_degree": _MEAN_DEGREE.value,
            "training.seed": _FLAGS.seed.value,
        },
    )
    launcher.run(EXPERIMENT, config, _FLAGS)


if __name__ == "__main__":
    launcher.start(main)
