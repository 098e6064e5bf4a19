"""Configurations of the relational-inference experiment, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments import common
from modmeta.relational import (
    BounceGradConfig,
    CandidateConfig,
    EnergyConfig,
    InferenceConfig,
    MemoryConfig,
    ModuleConfig,
    MoveConfig,
    ProposalConfig,
    TrainingConfig,
)
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
      domain: Where bodies can be. It is declared, not found in the data.
    """

    num_substeps: int = 0
    domain: Domain = Domain()

    def __post_init__(self) -> None:
        """Checks the number of steps."""
        if self.num_substeps < 0:
            raise ValueError(
                f"num_substeps: found {self.num_substeps}, expected at least 0"
            )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      data: Where trajectories come from.
      modules: Bank of modules.
      proposal: Proposal head.
      energy: What a search minimises.
      moves: How it moves.
      candidates: Which edges may hold a relation.
      memory: What is held at once.
      bouncegrad: Meta-training.
      training: Loop around it.
      inference: Search at meta-test.
      prediction: Integration of laws at meta-test.
      baseline: See `preprocessing.fit_preprocessing`.
      compress: See `preprocessing.FeatureLayout`.
      model: A `model.npz` whose modules are tested instead of training any, with the
        search options of this configuration; empty to train.
      num_restarts: Trainings from different seeds; the one of lowest energy counts, and
        the verdict tells how far they agree.
      auto_relations: Whether the number of relations is found in the data, see
        `modmeta.relational.infer_relations`.
      changing: Whether relations may change within a recording, see
        `modmeta.relational.infer_relations`; edges are then those of stretches.
      seed: Seed of everything random.
    """

    data: DataConfig = DataConfig()
    modules: ModuleConfig = ModuleConfig()
    proposal: ProposalConfig = ProposalConfig()
    energy: EnergyConfig = EnergyConfig()
    moves: MoveConfig = MoveConfig()
    candidates: CandidateConfig = CandidateConfig()
    memory: MemoryConfig = MemoryConfig()
    bouncegrad: BounceGradConfig = BounceGradConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    prediction: PredictionConfig = PredictionConfig()
    baseline: str = "auto"
    compress: bool = True
    model: str = ""
    num_restarts: int = 1
    auto_relations: bool = False
    changing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the restarts, and that the search at meta-test fits the energy."""
        if self.num_restarts < 1:
            raise ValueError(
                f"num_restarts: found {self.num_restarts}, expected at least 1"
            )
        self.energy.check_algorithm(self.inference.algorithm)

    @property
    def search_options(self) -> dict[str, Any]:
        """How a model's structures are searched, as `RelationalModel` takes it."""
        names = ("energy", "moves", "candidates", "memory")
        return {name: getattr(self, name) for name in names}


# The generators of bodies reflect them at the walls of this box.
_BOX = Domain("reflecting", (-5.0, -5.0), (5.0, 5.0))


def springs() -> ExperimentConfig:
    """Five bodies, springs between half of the pairs; a minute on two CPU cores."""
    return ExperimentConfig(
        data=DataConfig(system="springs", num_train=500),
        modules=ModuleConfig(law="central", entities="alike"),
        bouncegrad=BounceGradConfig(num_steps=600),
        training=TrainingConfig(num_evaluations=6),
        prediction=PredictionConfig(num_substeps=20, domain=_BOX),
    )


def charged() -> ExperimentConfig:
    """Five charged particles that attract or repel each other."""
    return ExperimentConfig(
        data=DataConfig(system="charged", num_train=2000),
        # Bound pairs circle each other within a frame.
        modules=ModuleConfig(
            path="two_body", law="mutual", num_points=16, entities="alike"
        ),
        bouncegrad=BounceGradConfig(num_steps=2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=PredictionConfig(num_substeps=100, domain=_BOX),
    )


def kuramoto() -> ExperimentConfig:
    """Five phase oscillators, coupled along half of the directed pairs."""
    return ExperimentConfig(
        data=DataConfig(system="kuramoto", num_train=1000),
        modules=ModuleConfig(attributes=False, null_relation=True, entities="alike"),
        bouncegrad=BounceGradConfig(num_steps=1000, learning_rate=6e-3),
        training=TrainingConfig(num_evaluations=5),
    )


def springs4() -> ExperimentConfig:
    """Five bodies, no spring or one of three strengths between every pair."""
    return ExperimentConfig(
        data=DataConfig(system="springs4", num_train=1000),
        modules=ModuleConfig(law="central", num_relations=4, entities="alike"),
        bouncegrad=BounceGradConfig(num_steps=1500),
        training=TrainingConfig(num_evaluations=6),
        prediction=PredictionConfig(num_substeps=20, domain=_BOX),
    )


def gravity() -> ExperimentConfig:
    """Five bodies of different mass, gravity between half of the pairs."""
    return ExperimentConfig(
        data=DataConfig(system="gravity", num_train=1000),
        modules=ModuleConfig(
            path="two_body", law="mutual", num_points=16, entities="alike"
        ),
        bouncegrad=BounceGradConfig(num_steps=2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=PredictionConfig(num_substeps=100, domain=_BOX),
    )


def lennard_jones() -> ExperimentConfig:
    """Five bodies, half of the pairs attract and repel as neutral atoms do."""
    return ExperimentConfig(
        data=DataConfig(system="lennard_jones", num_train=1000),
        modules=ModuleConfig(path="two_body", law="mutual", entities="alike"),
        bouncegrad=BounceGradConfig(num_steps=2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=PredictionConfig(num_substeps=100, domain=_BOX),
    )


def mixed() -> ExperimentConfig:
    """Five bodies; nothing, a spring, or charges of one sign between every pair."""
    return ExperimentConfig(
        data=DataConfig(system="mixed", num_train=1000),
        modules=ModuleConfig(
            path="two_body", law="mutual", num_relations=3, entities="alike"
        ),
        bouncegrad=BounceGradConfig(num_steps=2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=PredictionConfig(num_substeps=100, domain=_BOX),
    )


def flocks() -> ExperimentConfig:
    """Five bodies that follow half of the others: cohesion, separation, alignment."""
    return ExperimentConfig(
        data=DataConfig(system="flocks", num_train=500),
        modules=ModuleConfig(entities="alike"),
        bouncegrad=BounceGradConfig(num_steps=1000),
        training=TrainingConfig(num_evaluations=6),
        prediction=PredictionConfig(num_substeps=20, domain=_BOX),
    )


def neurons() -> ExperimentConfig:
    """Five neurons that fire, gap junctions along half of the directed pairs."""
    return ExperimentConfig(
        data=DataConfig(system="neurons", num_train=500),
        modules=ModuleConfig(path="interpolated", entities="alike"),
        bouncegrad=BounceGradConfig(num_steps=1000),
        training=TrainingConfig(num_evaluations=6),
    )


def general() -> ExperimentConfig:
    """Data that no simulator made; without a file, simulated springs."""
    return ExperimentConfig(
        data=DataConfig(system="springs", num_train=100, num_test=100),
        bouncegrad=BounceGradConfig(num_steps=1000),
        training=TrainingConfig(num_evaluations=5),
        num_restarts=2,
    )


CONFIGS = {
    "springs": springs,
    "springs4": springs4,
    "charged": charged,
    "kuramoto": kuramoto,
    "gravity": gravity,
    "lennard_jones": lennard_jones,
    "mixed": mixed,
    "flocks": flocks,
    "neurons": neurons,
    "general": general,
}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in seconds; its numbers mean nothing."""
    return common.override(
        config,
        {
            "data.num_train": min(config.data.num_train, 64),
            "data.num_test": 32,
            "modules.edge_sizes": (16,),
            "modules.message_size": 16,
            "modules.node_sizes": (16, 16),
            "proposal.width": 16,
            "bouncegrad.num_steps": 40,
            "bouncegrad.batch_size": 16,
            "training.num_evaluations": 4,
            "inference.num_steps": 32,
            "inference.num_samples": 16,
            "num_restarts": 1,
        },
    )


def values_of_file(path: str, num_train: int | None = None) -> dict[str, Any]:
    """What a user's trajectories change, by dotted path.

    Args:
      path: The file or directory.
      num_train: Systems that training may see; None for four fifths of them.
    """
    return {
        "data.file": path,
        "data.file_digest": common.digest_of(path),
        "data.num_train": num_train or 0,
        "data.num_observed": 0,
        # The walls of the simulators are not those of other data.
        "prediction.domain.kind": "open",
    }
