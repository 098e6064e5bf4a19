"""Finds relations and learns dynamics from trajectories, without labels.

python -m experiments.relational_inference.main --config=springs --workdir=DIR
"""

from absl import flags

from experiments import launcher

_DATA = flags.DEFINE_string(
    "data",
    None,
    "Your trajectories: an .npz file with `states` [tasks, time, nodes, features]; a "
    "table that ends in .csv, .tsv or .parquet, with a row per system, time and "
    "entity; or a directory with loc_*/vel_*/edges_* .npy files, also of train, valid "
    "and test. Default: they are simulated.",
)
_COLUMNS = flags.DEFINE_list(
    "columns",
    None,
    "Which columns of a table are which, as in system=run,time=t,entity=fish. Default: "
    "those with usual names.",
)
_FEATURES = flags.DEFINE_list(
    "features",
    None,
    "Columns of a table that are features. Default: all others that hold numbers.",
)
_POSITIONS = flags.DEFINE_list(
    "positions",
    None,
    "Names or numbers of the columns of --data that are positions; none for none. "
    "Default: what the file says, or those called x, y, z.",
)
_VELOCITIES = flags.DEFINE_list(
    "velocities",
    None,
    "The same for the velocities of these positions. Default: what the file says, or "
    "those called vx, vy, vz.",
)
_INPUTS = flags.DEFINE_list(
    "inputs",
    None,
    "Names or numbers of the columns of --data that are given and not predicted, such "
    "as a stimulus. Default: what the file says.",
)
_BOX = flags.DEFINE_list(
    "box",
    None,
    "Box that positions of --data wrap in: its sides from lower to upper, one per "
    "position, as in 0:10,0:10; open for an axis that does not wrap. Default: none.",
)
_FRAME_INTERVAL = flags.DEFINE_float(
    "frame_interval",
    None,
    "Time between the frames of --data, in the time unit of the velocities. Default: "
    "what the file says, or 1.",
)
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train",
    None,
    "Systems that training may see, validation included. Default: the preset's; with "
    "--data four fifths of the file.",
    lower_bound=1,
)
_NUM_TEST = flags.DEFINE_integer(
    "num_test", None, "Simulated test systems. Default: 1000.", lower_bound=1
)
_NUM_NODES = flags.DEFINE_list(
    "num_nodes",
    None,
    "Entities per simulated system; several sizes, as in 5,10, share the systems. "
    "Default: 5.",
)
_MEAN_DEGREE = flags.DEFINE_float(
    "mean_degree",
    None,
    "Expected relations per entity of springs and oscillators, whatever the size; 0 "
    "for one between every second pair. Default: 0.",
    lower_bound=0.0,
)
_NUM_RELATIONS = flags.DEFINE_string(
    "num_relations",
    None,
    "Relations to tell apart, no relation among them; 'auto' trains with 4, counts "
    "those that the data tell apart, and trains again with as many. Default: 2.",
)
_CHANGING = flags.DEFINE_bool(
    "changing",
    None,
    "Whether relations may change within a recording; edges are then those of its "
    "stretches, and labels are not used. Default: they do not.",
)
_HIDDEN = flags.DEFINE_enum(
    "hidden",
    None,
    ["none", "auto", "1", "2", "3"],
    "Entities that were not recorded, to be looked for in the systems whose edges are "
    "written: how many in every system, or auto for as many as the data tell. For "
    "bodies with positions and velocities. Default: none.",
)
_NUM_RESTARTS = flags.DEFINE_integer(
    "num_restarts",
    None,
    "Trainings from different seeds, whose agreement the verdict tells. Default: the "
    "preset's, 2 for general and 1 for the others.",
    lower_bound=1,
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Training steps. Default: the preset's.", lower_bound=1
)
_PRIOR = flags.DEFINE_enum(
    "prior", "none", ["none", "symmetric"], "Structural prior of the search."
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A model.npz to test on the data instead of training one. Default: one is trained.",
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices",
    1,
    "Devices of every process that share the test systems; training stays on one.",
    lower_bound=1,
)
_NUM_CHAIN_GROUPS = flags.DEFINE_integer(
    "num_chain_groups",
    1,
    "Devices that share the chains of the same test systems, a divisor of all devices.",
    lower_bound=1,
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of the first of several processes, the same for all, or 'auto' on a "
    "cluster that JAX knows. Needs --model; the first process writes. Default: one "
    "process.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "Number of processes, with --coordinator. Default: what the cluster says.",
    lower_bound=1,
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id",
    None,
    "Which process this is, from 0, with --coordinator. Default: what the cluster "
    "says.",
    lower_bound=0,
)
_FLAGS = launcher.define_flags(
    {
        "springs": "five bodies, springs between half of the pairs",
        "springs4": "springs of three strengths, or none",
        "charged": "five charged particles",
        "kuramoto": "five phase oscillators",
        "gravity": "bodies of different mass",
        "lennard_jones": "bodies that act as neutral atoms do",
        "mixed": "springs, charges of one sign, or nothing",
        "flocks": "bodies that follow others",
        "neurons": "FitzHugh-Nagumo neurons, joined or not",
        "general": "data that no simulator made",
    },
    "bouncegrad.learning_rate=1e-3",
    "experiments/relational_inference/config.py",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    launcher.check_arguments(argv)
    with launcher.usage_errors():
        _check_processes()
        _check_file_flags()
        _check_model_flags()
        num_nodes = launcher.integers(_NUM_NODES)
        num_relations, is_auto = _relations()
        corners = _corners()
    # Imported late: a wrong flag should not wait for JAX.
    from experiments.relational_inference.config import values_of_file
    from experiments.relational_inference.train import EXPERIMENT
    from modmeta.runtime import devices

    hidden = _HIDDEN.value
    values = {
        "data.num_train": _NUM_TRAIN.value,
        "data.num_test": _NUM_TEST.value,
        "data.num_nodes": num_nodes,
        "data.mean_degree": _MEAN_DEGREE.value,
        "modules.num_relations": num_relations,
        "auto_relations": is_auto,
        "changing": _CHANGING.value,
        "hidden": int(hidden) if hidden and hidden.isdigit() else hidden,
        "num_restarts": _NUM_RESTARTS.value,
        "bouncegrad.num_steps": _NUM_STEPS.value,
        "energy.prior": _PRIOR.value,
        "inference.algorithm": _search(),
        "model": _MODEL.value,
    }
    said = {
        "columns": _COLUMNS.value,
        "features": _FEATURES.value,
        "positions": _POSITIONS.value,
        "velocities": _VELOCITIES.value,
        "inputs": _INPUTS.value,
        "frame_interval": _FRAME_INTERVAL.value,
    }
    if _DATA.value:
        for name in ("positions", "velocities", "inputs"):
            if said[name] == []:
                said[name] = ["none"]
        values |= values_of_file(_DATA.value, _NUM_TRAIN.value)
        values |= {f"data.{name}": value for name, value in said.items()}
        if corners:
            values |= {"data.domain.kind": "periodic", **corners}
    config = launcher.configure(EXPERIMENT, _FLAGS, values)
    mesh = None
    with launcher.usage_errors():
        if _COORDINATOR.value:
            devices.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        if _COORDINATOR.value or _NUM_DEVICES.value * _NUM_CHAIN_GROUPS.value > 1:
            mesh = devices.build_mesh(
                _NUM_DEVICES.value, num_chain_groups=_NUM_CHAIN_GROUPS.value
            )
    launcher.run(EXPERIMENT, config, _FLAGS, mesh=mesh)


def _relations() -> tuple[int | None, bool | None]:
    """Number of relations, and whether it is to be found; None where not said."""
    value = _NUM_RELATIONS.value
    if value is None:
        return None, None
    if value == "auto":
        return None, True
    if not value.isdigit() or int(value) < 2:
        raise ValueError(
            f"num_relations: found {value!r}, expected a number from 2 on or 'auto'"
        )
    return int(value), False


def _search() -> str | None:
    """The search, where other options of it are named: that which they are meant for.

    None where it is named too, or nothing is said, so that it follows the data.
    """
    said = [word.partition("=")[0] for word in _FLAGS.assignments.value]
    is_open = not any(name.startswith("inference.") for name in said)
    return None if is_open or "inference.algorithm" in said else "simulated_annealing"


def _corners() -> dict[str, tuple[float, ...]]:
    """The corners of the box that positions wrap in; nothing where none is said."""
    if not _BOX.value:
        return {}
    sides = []
    for side in _BOX.value:
        words = ["-inf", "inf"] if side == "open" else side.split(":")
        try:
            low, high = map(float, words)
        except ValueError:
            raise ValueError(
                f"box: found {side!r}, expected lower:upper, as 0:10, or open"
            ) from None
        sides.append((low, high))
    lower, upper = zip(*sides, strict=True)
    return {"data.domain.lower": lower, "data.domain.upper": upper}


def _check_file_flags() -> None:
    """Refuses what is said of a file where there is none, and no file of one's own."""
    holders = (
        _COLUMNS,
        _FEATURES,
        _POSITIONS,
        _VELOCITIES,
        _INPUTS,
        _BOX,
        _FRAME_INTERVAL,
    )
    for holder in holders:
        if holder.present and not _DATA.value:
            raise ValueError(
                f"{holder.name}: found {holder.value} without --data, expected a file "
                "that it speaks of"
            )
    simulates = any(word.startswith("data.") for word in _FLAGS.assignments.value)
    if _FLAGS.config.value == "general" and not _DATA.value and not simulates:
        raise ValueError(
            "data: found none with --config=general, expected a file; other presets, "
            "or --set=data.system=NAME, simulate systems"
        )
    if _FRAME_INTERVAL.present and not _FRAME_INTERVAL.value > 0.0:
        raise ValueError(
            f"frame_interval: found {_FRAME_INTERVAL.value}, expected a positive number"
        )


def _check_model_flags() -> None:
    """Refuses what would be trained where a trained model is given."""
    if not _MODEL.value:
        return
    found = [
        f"--{holder.name}"
        for holder in (_NUM_RELATIONS, _NUM_STEPS, _NUM_RESTARTS)
        if holder.present
    ]
    trained = ("modules.", "proposal.", "bouncegrad.")
    found += [word for word in _FLAGS.assignments.value if word.startswith(trained)]
    if found:
        raise ValueError(
            f"model: found {found[0]} beside it, expected nothing that is trained: "
            "modules and their options come from the file"
        )


def _check_processes() -> None:
    if _COORDINATOR.value and not _MODEL.value:
        raise ValueError(
            "model: found none, expected a trained one for several processes: training "
            "runs on one device"
        )
    if not _COORDINATOR.value and (_NUM_PROCESSES.present or _PROCESS_ID.present):
        raise ValueError("coordinator: found none, expected one for several processes")


if __name__ == "__main__":
    launcher.start(main)
