"""Makes files for --config=csv of wiring that others published.

python -m experiments.real_data.prepare \
    --source=grid --path=pypower/case14.py --output=case14.npz
"""

from absl import flags

from experiments import launcher

_SOURCE = flags.DEFINE_enum(
    "source",
    None,
    ["grid", "connectome"],
    "What is simulated. Fetch the package first; nothing is downloaded here. grid: "
    "transients of the swing equation on the lines of a case of PYPOWER. connectome: "
    "fMRI on a connectivity of tvb-data.",
)
_PATH = flags.DEFINE_string(
    "path",
    None,
    "The file: grid: such as pypower/case14.py, whose tables are read and not run; "
    "connectome: such as tvb_data/connectivity/connectivity_66.zip.",
)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, an .npz.")
_NUM_RECORDINGS = flags.DEFINE_integer(
    "num_recordings", 10, "Recordings of the same graph.", lower_bound=1
)
_NUM_FRAMES = flags.DEFINE_integer(
    "num_frames", 200, "Frames of a recording.", lower_bound=3
)
_NUM_NODES = flags.DEFINE_integer(
    "num_nodes", 16, "Regions of a connectome, the strongest.", lower_bound=2
)
_DENSITY = flags.DEFINE_float(
    "density",
    0.2,
    "Share of the pairs of regions that are connected, the strongest.",
    lower_bound=0.01,
    upper_bound=1.0,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)
flags.mark_flags_as_required(["source", "path", "output"])


def main(argv: list[str]) -> None:
    """Reads the wiring, simulates, and writes."""
    launcher.check_arguments(argv)
    from experiments.real_data import networks
    from modmeta.relational import data

    counts = (_NUM_RECORDINGS.value, _NUM_FRAMES.value, _SEED.value)
    try:
        if _SOURCE.value == "grid":
            wiring = networks.grid_of(_PATH.value)
            dataset = networks.simulate_transients(wiring, *counts)
        else:
            wiring = networks.connectome_of(
                _PATH.value, _NUM_NODES.value, _DENSITY.value
            )
            dataset = networks.simulate_fmri(wiring, *counts)
        path = data.save_npz(_OUTPUT.value, dataset)
    except (data.DataError, OSError) as error:
        raise SystemExit(f"FATAL: {error}") from error
    num_edges = int((dataset.edges[0] > 0).sum())
    print(f"{dataset!r}, {num_edges} directed edges, are in {path}.")


if __name__ == "__main__":
    launcher.start(main)
