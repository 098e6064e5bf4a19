"""Configurations of the experiment on modules, as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from experiments import common
from experiments.metanet_modules.law_zoo import NUM_TWINS, LawZooConfig
from modmeta.metanet.learning.prediction import PredictionConfig
from modmeta.metanet.models.gmn import MetanetConfig

READERS = ("gmn", "gmn_responses", "deep_sets", "statistics", "probing")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      zoo: The networks that are read.
      models: Members of `READERS`, in the order of the table.
      metanet: The graph metanetwork. All other readers get as many parameters, but
        "gmn_responses", which also reads what units compute at some inputs, in one
        block.
      embedding_size: Numbers that describe a network, before the law is told.
      training: Training of readers of graphs.
      learning_rates: Tried for readers of graphs; validation networks choose.
      vector_training: Training of readers of a few features of a network.
      vector_learning_rates: Tried for these.
      constant_weight: Weight of the squared error of logarithms of constants, against
        the cross-entropy of the law.
      num_train: Networks of the training split that are used; 0 for all.
      num_resamples: Bootstrap draws behind every interval.
      seed: Seed of everything random but the zoo, which has its own.
    """

    zoo: LawZooConfig = LawZooConfig()
    models: tuple[str, ...] = READERS
    metanet: MetanetConfig = MetanetConfig(
        width=24, num_blocks=3, reverse_messages=True
    )
    embedding_size: int = 32
    training: PredictionConfig = PredictionConfig(
        num_steps=5000, batch_size=16, num_evaluations=10
    )
    learning_rates: tuple[float, ...] = (3e-3,)
    vector_training: PredictionConfig = PredictionConfig(
        num_steps=4000, batch_size=64, num_evaluations=10
    )
    vector_learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    constant_weight: float = 5.0
    num_train: int = 0
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what concerns several parts."""
        unknown = sorted(set(self.models) - set(READERS))
        if unknown or not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(
                f"models: found {self.models}, expected some of {', '.join(READERS)}, "
                "each once"
            )
        for name in ("learning_rates", "vector_learning_rates"):
            rates = getattr(self, name)
            if not rates or min(rates) <= 0.0:
                raise ValueError(f"{name}: found {rates}, expected some above 0")
        if self.constant_weight < 0.0:
            raise ValueError(
                f"constant_weight: found {self.constant_weight}, expected >= 0"
            )
        for name in ("embedding_size", "num_resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected >= 1")
        num_train = NUM_TWINS * self.zoo.num_train
        if not 0 <= self.num_train <= num_train:
            raise ValueError(
                f"num_train: found {self.num_train}, expected 0 to {num_train}, the "
                "training networks of the zoo"
            )


def laws() -> ExperimentConfig:
    """4,000 networks of ten laws; half an hour on two cores."""
    return ExperimentConfig()


CONFIGS = {"laws": laws}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in seconds; its numbers mean nothing."""
    return common.override(
        config,
        {
            "zoo.num_train": 24,
            "zoo.num_valid": 8,
            "zoo.num_test": 12,
            "zoo.shape.sizes": (4, 4),
            "zoo.num_points": 8,
            "zoo.num_steps": 20,
            "zoo.chunk_size": 44,
            "metanet.width": 4,
            "metanet.num_blocks": 1,
            "embedding_size": 4,
            "training.num_steps": 6,
            "training.num_evaluations": 2,
            "training.batch_size": 8,
            "vector_training.num_steps": 6,
            "vector_training.num_evaluations": 2,
            "vector_training.batch_size": 8,
            "vector_learning_rates": (3e-3,),
            "num_resamples": 20,
        },
    )
