"""Configuration of the situations experiment."""

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


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      situations: Names of `generators.SITUATIONS`; empty for all of them.
      modules: Bank of modules; nothing about a situation is declared.
      proposal: Proposal head.
      bouncegrad: Meta-training.
      training: Loop around it.
      inference: Final search.
      num_restarts: Trainings per situation.
      seed: Seed of everything random.
    """

    situations: tuple[str, ...] = ()
    modules: ModuleConfig = ModuleConfig()
    proposal: ProposalConfig = ProposalConfig()
    bouncegrad: BounceGradConfig = BounceGradConfig(num_steps=600)
    training: TrainingConfig = TrainingConfig(num_evaluations=4)
    inference: InferenceConfig = InferenceConfig()
    num_restarts: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the names."""
        from experiments.situations.generators import SITUATIONS

        unknown = sorted(set(self.situations) - set(SITUATIONS))
        if unknown:
            raise ValueError(
                f"situations: found {unknown}, expected some of {list(SITUATIONS)}"
            )


def all_kinds() -> ExperimentConfig:
    """All kinds of data."""
    return ExperimentConfig()


CONFIGS = {"all": all_kinds}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """Two of them in seconds; the numbers mean nothing."""
    return common.override(
        config,
        {
            "situations": ("springs", "white noise"),
            "modules.edge_sizes": (8,),
            "modules.message_size": 8,
            "modules.node_sizes": (8,),
            "proposal.width": 8,
            "bouncegrad.num_steps": 8,
            "bouncegrad.batch_size": 8,
            "training.num_evaluations": 2,
            "inference.num_steps": 8,
            "inference.num_samples": 8,
            "num_restarts": 1,
        },
    )
