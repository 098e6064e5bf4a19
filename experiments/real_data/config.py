"""Configuration of the experiment on real data."""

from __future__ import annotations

import dataclasses

from experiments import common
from modmeta.relational import (
    BounceGradConfig,
    InferenceConfig,
    ModuleConfig,
    ProposalConfig,
    TrainingConfig,
)
from modmeta.runtime import option_types

SOURCES = ("netsim", "dream3", "csv")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      source: What the file holds, see `sources`.
      file: The file; required.
      labels: File with a matrix of true edges, for "csv"; empty without labels.
      file_digest: Of what both held: a run does not go on with others.
      series: Column that classical methods see, for "csv" with several columns; empty
        for the first velocity that was recorded, else the first column.
      shared_graph: Whether recordings are scored together alone, for "csv"; else one by
        one, too.
      sizes: Numbers of genes of the networks of DREAM3 that are looked at.
      max_nodes: Networks of more nodes get no modules; 0 for all networks.
      max_systems: Recordings per network at most; 0 for all.
      lags: Frames that a change may depend on, see `infer_relations`.
      modules: Bank of modules.
      proposal: Proposal head.
      bouncegrad: Meta-training.
      training: Loop around it.
      inference: Final search.
      num_restarts: Trainings per network.
      seed: Seed of everything random.
    """

    source: str = "netsim"
    file: str = ""
    labels: str = ""
    file_digest: str = ""
    series: str = ""
    shared_graph: bool = False
    sizes: tuple[int, ...] = (10, 100)
    max_nodes: int = 20
    max_systems: int = 0
    lags: int = 0
    modules: ModuleConfig = ModuleConfig()
    proposal: ProposalConfig = ProposalConfig()
    bouncegrad: BounceGradConfig = BounceGradConfig(
        num_steps=100, batch_size=8, search_steps=8
    )
    training: TrainingConfig = TrainingConfig(num_evaluations=2)
    inference: InferenceConfig = InferenceConfig(num_steps=64)
    num_restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.source not in SOURCES:
            raise ValueError(
                f"source: found {self.source!r}, expected one of {SOURCES}"
            )
        option_types.settle(self)
        least = {"max_nodes": 0, "max_systems": 0, "lags": 0, "num_restarts": 1}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least {bound}"
                )


def netsim() -> ExperimentConfig:
    """Simulated fMRI of 50 subjects with one graph."""
    return ExperimentConfig()


def dream3() -> ExperimentConfig:
    """Expression of genes in 10 networks, several perturbations each."""
    return ExperimentConfig(source="dream3")


def csv() -> ExperimentConfig:
    """A user's series."""
    return ExperimentConfig(source="csv")


CONFIGS = {"netsim": netsim, "dream3": dream3, "csv": csv}


def check(preset: str, config: ExperimentConfig) -> None:
    """Refuses a run without a file."""
    if not config.file:
        raise ValueError(
            f"data: found no file, expected --data=FILE for --config={preset}: nothing "
            "is downloaded"
        )
    if config.labels and config.source != "csv":
        raise ValueError(
            f"labels: found {config.labels!r}, expected none for --config={preset}, "
            "whose file has them"
        )


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """A few recordings in seconds; the numbers mean nothing."""
    return common.override(
        config,
        {
            "sizes": (10,),
            "max_systems": 1,
            "proposal.encoder": "none",
            "modules.edge_sizes": (8,),
            "modules.message_size": 8,
            "modules.node_sizes": (8,),
            "proposal.width": 8,
            "bouncegrad.num_steps": 8,
            "training.num_evaluations": 2,
            "inference.num_steps": 8,
            "inference.num_samples": 8,
        },
    )
