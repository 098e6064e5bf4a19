"""Whether answers can be believed, on many kinds of data.

python -m experiments.situations.main --config=all --workdir=DIR
"""

from absl import flags

from experiments import launcher

_SITUATIONS = flags.DEFINE_list(
    "situations",
    None,
    "Names of situations, for instance 'springs,white noise'. Default: all of them.",
)
_NUM_RESTARTS = flags.DEFINE_integer(
    "num_restarts", None, "Trainings per situation. Default: 2.", lower_bound=1
)
_FLAGS = launcher.define_flags(
    {"all": "all kinds of data"},
    "bouncegrad.num_steps=300",
    "experiments/situations/config.py",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.situations.compute import EXPERIMENT

    names = _SITUATIONS.value
    config = launcher.configure(
        EXPERIMENT,
        _FLAGS,
        {
            "situations": None if names is None else tuple(names),
            "num_restarts": _NUM_RESTARTS.value,
        },
    )
    launcher.run(EXPERIMENT, config, _FLAGS)


if __name__ == "__main__":
    launcher.start(main)
