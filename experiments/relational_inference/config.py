"""Configurations of the relational-inference experiment, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments import common
from experiments.relational_inference.data_config import DataConfig, PredictionConfig
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
from modmeta.relational.data.simulators.particles import MAX_FORCE
from modmeta.relational.hidden.find import MOST_HIDDEN
from modmeta.relational.inference.config import AUTO
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.verdict import stretches

HIDDEN = ("none", "auto", *range(1, MOST_HIDDEN + 1))


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
      baseline: See `fitting.fit_preprocessing`.
      compress: See `preprocessing.FeatureLayout`.
      model: A `model.npz` whose modules are tested instead of training any, with the
        search options of this configuration; empty to train.
      num_restarts: Trainings from different seeds; the one of lowest energy counts, and
        the verdict tells how far they agree.
      auto_relations: Whether the number of relations is found in the data, see
        `modmeta.relational.infer_relations`.
      changing: Whether relations may change within a recording, see
        `modmeta.relational.infer_relations`; edges are then those of stretches.
      hidden: Entities that were not recorded, looked for in the systems whose
        edges are written: their number in every system, "auto" for as many as the data
        tell, "none" to look for none.
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
    inference: InferenceConfig = InferenceConfig(algorithm=AUTO)
    prediction: PredictionConfig = PredictionConfig()
    baseline: str = "auto"
    compress: bool = True
    model: str = ""
    num_restarts: int = 1
    auto_relations: bool = False
    changing: bool = False
    hidden: int | str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the restarts, and that the search at meta-test fits the energy."""
        if self.num_restarts < 1:
            raise ValueError(
                f"num_restarts: found {self.num_restarts}, expected at least 1"
            )
        if self.inference.algorithm != AUTO:
            self.energy.check_algorithm(self.inference.algorithm)
        if self.changing and self.data.num_observed:
            stretches.check_changing(self.data.num_observed, self.data.shared_graph)
        if self.hidden not in HIDDEN:
            raise ValueError(f"hidden: found {self.hidden!r}, expected one of {HIDDEN}")
        if self.hidden != "none" and (self.changing or self.data.shared_graph):
            raise ValueError(
                f"hidden: found {self.hidden!r} with relations that change or that "
                "recordings share, expected whole recordings, each by itself"
            )
        if self.hidden != "none" and self.modules.path == "start":
            raise ValueError(
                f"hidden: found {self.hidden!r} with modules.path 'start', expected "
                "laws, which say how a hidden entity moves"
            )

    @property
    def search_options(self) -> dict[str, Any]:
        """How a model's structures are searched, as `RelationalModel` takes it."""
        names = ("energy", "moves", "candidates", "memory")
        return {name: getattr(self, name) for name in names}

    def prediction_of(self, bank: ModuleBank) -> PredictionConfig:
        """How a bank predicts: nothing but laws is integrated, or meets walls.

        Messages from the start of an interval have learned what walls do.
        """
        if bank.has_laws:
            return self.prediction
        domain = self.prediction.domain
        return PredictionConfig(
            domain=domain if domain.kind == "periodic" else Domain()
        )


# The generators of bodies reflect them at the walls of this box.
_BOX = Domain("reflecting", (-5.0, -5.0), (5.0, 5.0))
# Bodies that pass each other closely, whose simulators cut forces off.
_ENCOUNTERS = ModuleConfig(
    path="two_body", law="mutual", entities="alike", max_rate=MAX_FORCE
)

# Which amplify errors: the mean of many futures is nearer to what will be than one.
_CHAOTIC = PredictionConfig(num_substeps=100, num_samples=16, domain=_BOX)


def _steps(num_steps: int, **options: Any) -> BounceGradConfig:
    """Steps of as many systems and proposals whatever the number of entities."""
    given = {"batch_size": 32, "search_steps": 8, **options}
    return BounceGradConfig(num_steps=num_steps, **given)


def springs() -> ExperimentConfig:
    """Five bodies, springs between half of the pairs; a minute on two CPU cores."""
    return ExperimentConfig(
        data=DataConfig(system="springs", num_train=500),
        modules=ModuleConfig(law="central", entities="alike"),
        bouncegrad=_steps(600),
        training=TrainingConfig(num_evaluations=6),
        prediction=PredictionConfig(num_substeps=20, domain=_BOX),
    )


def charged() -> ExperimentConfig:
    """Five charged particles that attract or repel each other."""
    return ExperimentConfig(
        data=DataConfig(system="charged", num_train=2000),
        # Bound pairs circle each other within a frame.
        modules=dataclasses.replace(_ENCOUNTERS, num_points=16),
        bouncegrad=_steps(2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=_CHAOTIC,
    )


def kuramoto() -> ExperimentConfig:
    """Five phase oscillators, coupled along half of the directed pairs."""
    return ExperimentConfig(
        data=DataConfig(system="kuramoto", num_train=1000),
        modules=ModuleConfig(attributes=False, null_relation=True, entities="alike"),
        bouncegrad=_steps(1000, learning_rate=6e-3),
        training=TrainingConfig(num_evaluations=5),
    )


def springs4() -> ExperimentConfig:
    """Five bodies, no spring or one of three strengths between every pair."""
    return ExperimentConfig(
        data=DataConfig(system="springs4", num_train=1000),
        modules=ModuleConfig(law="central", num_relations=4, entities="alike"),
        bouncegrad=_steps(1500),
        training=TrainingConfig(num_evaluations=6),
        prediction=PredictionConfig(num_substeps=20, domain=_BOX),
    )


def gravity() -> ExperimentConfig:
    """Five bodies of different mass, gravity between half of the pairs."""
    return ExperimentConfig(
        data=DataConfig(system="gravity", num_train=1000),
        modules=dataclasses.replace(_ENCOUNTERS, num_points=16),
        bouncegrad=_steps(2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=_CHAOTIC,
    )


def lennard_jones() -> ExperimentConfig:
    """Five bodies, half of the pairs attract and repel as neutral atoms do."""
    return ExperimentConfig(
        data=DataConfig(system="lennard_jones", num_train=1000),
        modules=_ENCOUNTERS,
        bouncegrad=_steps(2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=_CHAOTIC,
    )


def mixed() -> ExperimentConfig:
    """Five bodies; nothing, a spring, or charges of one sign between every pair."""
    return ExperimentConfig(
        data=DataConfig(system="mixed", num_train=1000),
        modules=dataclasses.replace(_ENCOUNTERS, num_relations=3),
        bouncegrad=_steps(2000, batch_size=12),
        training=TrainingConfig(num_evaluations=8),
        prediction=_CHAOTIC,
    )


def flocks() -> ExperimentConfig:
    """Five bodies that follow half of the others: cohesion, separation, alignment."""
    return ExperimentConfig(
        data=DataConfig(system="flocks", num_train=500),
        modules=ModuleConfig(entities="alike"),
        bouncegrad=_steps(1000),
        training=TrainingConfig(num_evaluations=6),
        prediction=PredictionConfig(num_substeps=20, domain=_BOX),
    )


def neurons() -> ExperimentConfig:
    """Five neurons that fire, gap junctions along half of the directed pairs."""
    return ExperimentConfig(
        data=DataConfig(system="neurons", num_train=500),
        modules=ModuleConfig(path="interpolated", entities="alike"),
        bouncegrad=_steps(1000),
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
            "prediction.num_samples": min(config.prediction.num_samples, 2),
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
        # Walls and bounds of the simulators are not those of other data.
        "prediction.domain.kind": "open",
        "modules.max_rate": 0.0,
    }
