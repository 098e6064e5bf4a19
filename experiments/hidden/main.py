"""Finds bodies that were left out of the recordings.

python -m experiments.hidden.main --config=springs --workdir=DIR
"""

from absl import flags

from experiments import launcher

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A model.npz, trained on complete systems, to use instead of training one. "
    "Default: one is trained.",
)
_NUM_TEST = flags.DEFINE_integer(
    "num_test",
    None,
    "Systems for every number of hidden bodies. Default: 40.",
    lower_bound=1,
)
_HIDDEN = flags.DEFINE_list(
    "hidden", None, "Numbers of hidden bodies. Default: 0,1,2; 1 for charges."
)
_FLAGS = launcher.define_flags(
    {
        "springs": "bodies joined by springs",
        "charged": "charged bodies, one of them hidden",
    },
    "search.num_fits=16",
    "experiments/hidden/config.py",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    with launcher.usage_errors():
        hidden = launcher.integers(_HIDDEN)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.hidden.compute import EXPERIMENT

    values = {
        "model": _MODEL.value,
        "num_test": _NUM_TEST.value,
        "hidden": hidden,
    }
    config = launcher.configure(EXPERIMENT, _FLAGS, values)
    launcher.run(EXPERIMENT, config, _FLAGS)


if __name__ == "__main__":
    launcher.start(main)
