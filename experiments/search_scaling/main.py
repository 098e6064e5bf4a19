"""How searches over structures scale with the number of entities.

python -m experiments.search_scaling.main --config=springs --workdir=DIR
"""

import time

STARTED = time.perf_counter()

from absl import app, flags, logging  # noqa: E402

from experiments.search_scaling import config as config_lib  # noqa: E402

_CONFIG = flags.DEFINE_enum(
    "config", "springs", list(config_lib.CONFIGS), "System and preset of all options."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; an interrupted run in it is resumed."
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
    "pair. Default: 2.",
    lower_bound=0.0,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Run the whole pipeline in seconds, with meaningless numbers."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Any option by its path, for instance --set=measurement.num_chains=4; repeat for "
    "several. See experiments/search_scaling/config.py.",
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
                "model": _MODEL.value,
                "systems.num_problems": _NUM_PROBLEMS.value,
                "systems.mean_degree": _MEAN_DEGREE.value,
                "seed": _SEED.value,
                "training.seed": _SEED.value,
            },
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    from experiments.search_scaling import report, run
    from modmeta.progress import TqdmProgress

    summary = run.run(
        config,
        _WORKDIR.value,
        progress=TqdmProgress(["loss", "valid_energy", "entities"]),
        started=STARTED,
    )
    if summary is None:
        print("Stopped. The same command goes on from here.")
        return
    print(report.format_summary(summary))
    print(f"\nCurves, figures and summary.json are in {_WORKDIR.value}.")


if __name__ == "__main__":
    app.run(main)
