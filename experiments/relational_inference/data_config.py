"""Options of the data of a run, and of predictions."""

from __future__ import annotations

import dataclasses

from modmeta.relational.data.domains import Domain
from modmeta.relational.data.simulators.kuramoto import OBSERVATIONS
from modmeta.runtime import option_types

SYSTEMS = (
    "springs",
    "springs4",
    "charged",
    "kuramoto",
    "gravity",
    "lennard_jones",
    "mixed",
    "flocks",
    "neurons",
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where trajectories come from.

    Attributes:
      system: Simulator, one of `SYSTEMS`; with `file`, the preset in use.
      file: User's trajectories, of any form that `as_dataset` reads; empty to simulate.
      file_digest: Of what `file` held: a run does not go on with others.
      columns: Which columns of a table are which, as "entity=fish"; the others are
        found by their usual names.
      features: Columns of a table that are features; none for all with numbers.
      positions: Names or numbers of the columns of `file` that are positions; none for
        what the file says, or those called x, y, z; "none" for none.
      velocities: The same for their velocities.
      inputs: Columns of `file` that are given and not predicted.
      domain: Box that positions of `file` wrap in; open for none.
      frame_interval: Time between the frames of `file`; 0 for what the file says.
      num_train: Systems that training may see, validation included; 0 with `file`
        for four fifths of them.
      num_test: Unseen systems that are scored; ignored with `file`.
      num_nodes: Entities per simulated system; of several sizes, every one has an
        equal share of the systems.
      mean_degree: Expected number of relations that end at an entity of a simulated
        system, whatever its size; 0 for one between every second pair. Charges have
        none: there, every pair is related.
      observation: Features of simulated oscillators, see `simulate_kuramoto`.
      num_observed: Frames that infer the structure; 0 with `file` for all but
        `num_predicted`.
      num_predicted: Frames predicted after them; with `file`, at most a quarter of
        the frames.
      observation_noise: Standard deviation of noise on simulated observations, in the
        unit of every feature.
      derive_velocities: Whether positions of `file` without velocities get them.
      shared_graph: Whether the systems of `file` are recordings of one graph, which is
        then searched on all of them as one.
    """

    system: str = "springs"
    file: str = ""
    file_digest: str = ""
    columns: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    velocities: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    domain: Domain = Domain()
    frame_interval: float = 0.0
    num_train: int = 500
    num_test: int = 1000
    num_nodes: tuple[int, ...] = (5,)
    mean_degree: float = 0.0
    observation: str = "state"
    num_observed: int = 49
    num_predicted: int = 20
    observation_noise: float = 0.0
    derive_velocities: bool = True
    shared_graph: bool = False

    def __post_init__(self) -> None:
        """Checks the sizes of simulated systems, and what is said of a file."""
        option_types.settle(self)
        if not self.file and self.system not in SYSTEMS:
            raise ValueError(
                f"system: found {self.system!r}, expected one of {SYSTEMS}"
            )
        if self.domain.kind != "open" and not (
            self.file and self.domain.kind == "periodic"
        ):
            raise ValueError(
                f"data.domain: found {self.domain.kind!r}, expected 'periodic' with a "
                "file whose positions wrap; walls are prediction.domain"
            )
        if self.observation not in OBSERVATIONS:
            raise ValueError(
                f"observation: found {self.observation!r}, expected one of "
                f"{OBSERVATIONS}"
            )
        if not 0.0 <= self.observation_noise < float("inf"):
            raise ValueError(
                f"observation_noise: found {self.observation_noise}, expected a number "
                "from 0 on"
            )
        # Of a file, 0 stands for what it has.
        least = {"num_predicted": 0, "num_test": 1}
        least |= {"num_train": 0} if self.file else {"num_train": 1, "num_observed": 3}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least {bound}"
                )
        if not self.num_nodes or min(self.num_nodes) < 2:
            raise ValueError(
                f"num_nodes: found {self.num_nodes}, expected numbers from 2 on"
            )
        if len(set(self.num_nodes)) < len(self.num_nodes):
            raise ValueError(
                f"num_nodes: found {self.num_nodes}, expected every size once"
            )
        if not 0.0 <= self.mean_degree <= min(self.num_nodes) - 1:
            raise ValueError(
                f"mean_degree: found {self.mean_degree}, expected 0 to "
                f"{min(self.num_nodes) - 1}, the neighbours in the smallest system"
            )
        if self.mean_degree and self.system == "charged":
            raise ValueError(
                f"mean_degree: found {self.mean_degree} with charges, expected 0: "
                "every pair is related"
            )
        for assignment in self.columns:
            key, _, name = assignment.partition("=")
            if key not in ("system", "time", "entity") or not name:
                raise ValueError(
                    f"columns: found {assignment!r}, expected system=NAME, time=NAME "
                    "or entity=NAME"
                )
        if not 0.0 <= self.frame_interval < float("inf"):
            raise ValueError(
                f"frame_interval: found {self.frame_interval}, expected a positive "
                "number, or 0 for what the file says"
            )


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """How laws are integrated into the future.

    Attributes:
      num_substeps: Steps per frame; 0 takes as many as the prediction needs.
      num_samples: Futures drawn with the errors of observed frames, whose mean is the
        prediction, see `futures.ensembles`; 0 for the one without errors.
      domain: Where bodies can be. It is declared, not found in the data.
    """

    num_substeps: int = 0
    num_samples: int = 0
    domain: Domain = Domain()

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for field in ("num_substeps", "num_samples"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 0"
                )
