"""Relations in recordings that others made, beside classical methods.

python -m experiments.real_data.main --config=netsim --data=FILE --workdir=DIR
"""

from absl import flags

from experiments import launcher

_DATA = flags.DEFINE_string(
    "data",
    None,
    "File with the recordings; nothing is downloaded. netsim: an .npz with timeseries "
    "[subjects, nodes, time] and adjacency [receiver, sender]. dream3: an .npz with, "
    "for every network, size10_NAME_timeseries [perturbations, time, genes] and "
    "size10_NAME_adjacency [target, source]. csv: a table with a row per system, time "
    "and entity, or any other form that infer_relations reads; several systems are "
    "recordings of one graph. Of bodies, classical methods see one column, see "
    "--set=series=NAME.",
)
_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "For --config=csv: a CSV matrix of true edges without a heading, row = receiver; "
    "what is not 0 is an edge. Default: no labels, hence scores alone.",
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Training steps. Default: 100.", lower_bound=1
)
_FLAGS = launcher.define_flags(
    {
        "netsim": "simulated fMRI of many subjects with one graph",
        "dream3": "gene expression, ten networks of 10 and 100 genes",
        "csv": "your own series or bodies",
    },
    "max_nodes=10",
    "experiments/real_data/config.py",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    # Imported late: a wrong flag should not wait for JAX.
    from experiments import common
    from experiments.real_data.compute import EXPERIMENT

    values = {
        "file": _DATA.value,
        "labels": _LABELS.value,
        "file_digest": common.digest_of(_DATA.value, _LABELS.value),
        "bouncegrad.num_steps": _NUM_STEPS.value,
    }
    config = launcher.configure(EXPERIMENT, _FLAGS, values)
    launcher.run(EXPERIMENT, config, _FLAGS)


if __name__ == "__main__":
    launcher.start(main)
