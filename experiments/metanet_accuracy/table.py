"""The table of the accuracy experiment: every model, cell and seed, from one command.

python -m experiments.metanet_accuracy.table --config=diverse --data=IMAGES.npz \
    --num_seeds=3 --workdir=DIR

Cells are those of Lim et al. 2023 (arXiv 2312.04501): all training networks, a part of
them (`counts` of the preset), and networks wider than any that was trained on. Every
run is one of `experiments.metanet_accuracy.main`, in a directory of its own; all share
one zoo. Finished runs are not run again.
"""

from __future__ import annotations

from absl import flags

from experiments import launcher
from experiments.metanet_accuracy.presets import CELLS, PRESETS

_DATA = flags.DEFINE_string(
    "data", None, "Images, as for experiments.metanet_accuracy.main."
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 3, "Seeds that every cell is run with.", lower_bound=1
)
_CELLS = flags.DEFINE_multi_enum(
    "cell",
    list(CELLS),
    list(CELLS),
    "Which cells: networks of all widths, with all training networks and with the "
    "numbers that the preset counts; networks wider than any of training. Repeat for "
    "several; another length of training for each is a table of its own.",
)
_MAX_TRAIN_WIDTH = flags.DEFINE_integer(
    "max_train_width",
    8,
    "Width above which networks are to test alone, in the cell of wider networks.",
    lower_bound=1,
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    1,
    "Runs at once, each in a process of its own; more than one for machines with many "
    "cores or a GPU.",
    lower_bound=1,
)
_ZOO = launcher.define_zoo()
_FLAGS = launcher.define_flags(
    PRESETS,
    "training.num_steps=500",
    "experiments/metanet_accuracy/config.py",
    seed="The first seed; others count on from it. The zoo has its own (zoo.seed).",
    smoke="Run the whole table in minutes, with meaningless numbers.",
)


def main(argv: list[str]) -> None:
    """Runs what is missing of the table that the flags describe, and prints it."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.metanet_accuracy import cells
    from experiments.metanet_accuracy.train import EXPERIMENT

    base = launcher.configure(EXPERIMENT, _FLAGS, {"images": _DATA.value})
    with launcher.usage_errors():
        configs = cells.configs_of(
            base, _NUM_SEEDS.value, _MAX_TRAIN_WIDTH.value, _CELLS.value
        )
    try:
        summaries = cells.run_all(
            configs, _FLAGS.workdir.value, _ZOO.value, _NUM_PROCESSES.value
        )
    except (OSError, ImportError, MemoryError, *EXPERIMENT.refusals) as error:
        raise SystemExit(f"FATAL: {error}") from error
    if summaries is None:
        print("Stopped. The same command goes on from here.")
        return
    table = cells.collect(summaries)
    cells.write(table, _FLAGS.workdir.value)
    print(cells.format_rows(table))
    print(f"\ntable.json, table.png and the runs are in {_FLAGS.workdir.value}.")


if __name__ == "__main__":
    launcher.start(main)
