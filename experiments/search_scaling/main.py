"""How searches over structures scale with the number of entities.

python -m experiments.search_scaling.main --config=springs --workdir=DIR
"""

import time

STARTED = time.perf_counter()

from absl import app, flags  # noqa: E402

from experiments import launcher  # noqa: E402
from experiments.search_scaling import config as config_lib  # noqa: E402

_CONFIG = flags.DEFINE_enum(
    "config", "springs", list(config_lib.CONFIGS), "System and preset of all options."
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "model.npz of a relational_inference run on small systems; trained if absent.",
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
_COMMON = launcher.define_flags(
    "measurement.num_chains=4",
    "experiments/search_scaling/config.py",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    with launcher.usage_errors():
        config = config_lib.from_flags(
            _CONFIG.value,
            smoke_test=_COMMON.smoke.value,
            assignments=_COMMON.assignments.value,
            values={
                "model": _MODEL.value,
                "systems.num_problems": _NUM_PROBLEMS.value,
                "training.data.mean_degree": _MEAN_DEGREE.value,
                "seed": _COMMON.seed.value,
                "training.seed": _COMMON.seed.value,
            },
        )
    from experiments.relational_inference.trained import ModelMismatchError
    from experiments.search_scaling import report, run
    from modmeta.runtime.checkpoint import CheckpointMismatchError
    from modmeta.runtime.progress import TqdmProgress

    with launcher.refusals(CheckpointMismatchError, ModelMismatchError):
        summary = run.run(
            config,
            _COMMON.workdir.value,
            progress=TqdmProgress(["loss", "valid_energy", "entities"]),
            started=STARTED,
        )
    launcher.finish(
        summary, report.format_summary, "Curves, figures", _COMMON.workdir.value
    )


if __name__ == "__main__":
    app.run(main)
