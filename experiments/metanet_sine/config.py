"""Configurations of the sine experiment, as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from experiments import common
from modmeta.metanet.learning.contrastive import ViewConfig
from modmeta.metanet.models.gmn import MetanetConfig
from modmeta.metanet.zoo.sine import SineConfig

SELECTIONS = ("loss", "probe")
OBJECTIVES = ("nt_xent", "vicreg")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Contrastive training.

    Attributes:
      num_steps: Training steps.
      num_evaluations: How often validation networks are embedded and scored.
      batch_size: Networks per step; each gives two views.
      learning_rate: Largest of AdamW; it rises over the first twentieth of the steps
        and then follows a cosine down to nothing.
      weight_decay: Of AdamW, decoupled.
      clip_norm: Largest norm of a gradient.
      objective: "nt_xent" tells views of different networks apart, "vicreg" spreads
        networks over all numbers of a projection.
      temperature: Of "nt_xent".
      select_by: What chooses the parameters, on validation networks: "loss", the
        contrastive loss, which sees no label, or "probe", the error of the probe.
    """

    num_steps: int = 400
    num_evaluations: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    clip_norm: float = 1.0
    objective: str = "nt_xent"
    temperature: float = 0.1
    select_by: str = "loss"

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("num_steps", "num_evaluations", "learning_rate", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, expected above 0"
                )
        if self.batch_size < 2:
            raise ValueError(f"batch_size: found {self.batch_size}, expected >= 2")
        for name, members in (("select_by", SELECTIONS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in members:
                raise ValueError(
                    f"{name}: found {getattr(self, name)!r}, expected one of {members}"
                )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      zoo: The networks that are embedded.
      metanet: The network that embeds them.
      views: How a network is disturbed for its second view.
      training: Contrastive training.
      bidirectional: Whether the parameter graph holds every edge reversed, too.
      pooling: See `modmeta.metanet.models.options.POOLINGS`.
      embedding_size: Numbers that describe a network.
      components: Principal components of the embeddings of training networks that the
        probe sees; 0 for the embeddings themselves.
      canonical: Whether, of all weights of one function that differ by signs and half
        turns of sines, one kind alone is read; views are disturbed from there.
      half_turns: Views are other weights of the same waves: hidden units are negated,
        and their phases turned by up to so many half turns; -1 for neither.
      readout_width: Width of the read-out that pools the edges.
      num_train: Networks of the training split that are used; 0 for all.
      num_restarts: Trainings from other starts, whose seeds count up; that of the best
        score on validation networks is kept.
      seed: Seed of everything random but the zoo, which has its own.
    """

    zoo: SineConfig = SineConfig()
    metanet: MetanetConfig = MetanetConfig()
    views: ViewConfig = ViewConfig()
    training: TrainingConfig = TrainingConfig()
    bidirectional: bool = False
    pooling: str = "mean"
    embedding_size: int = 16
    components: int = 0
    canonical: bool = False
    half_turns: int = -1
    readout_width: int = 64
    num_train: int = 0
    num_restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what concerns several parts."""
        num_train = self.zoo.num_train
        if not 0 <= self.num_train <= num_train:
            raise ValueError(
                f"num_train: found {self.num_train}, expected 0 to {num_train}, the "
                "training networks of the zoo"
            )
        if (
            not 0
            <= self.components
            <= min(self.embedding_size, self.num_train or num_train)
        ):
            raise ValueError(
                f"components: found {self.components}, expected 0 to "
                f"{min(self.embedding_size, self.num_train or num_train)}, the smaller "
                "of embedding_size and the training networks"
            )
        if self.half_turns < -1:
            raise ValueError(
                f"half_turns: found {self.half_turns}, expected at least -1"
            )
        if self.num_restarts < 1:
            raise ValueError(
                f"num_restarts: found {self.num_restarts}, expected at least 1"
            )
        smallest = min(self.num_train or num_train, self.zoo.num_valid)
        if self.training.batch_size > smallest:
            raise ValueError(
                f"batch_size: found {self.training.batch_size}, expected at most "
                f"{smallest}, the networks of the smaller split"
            )


def sine() -> ExperimentConfig:
    """All networks with fewer points and steps each, a small metanet; for a CPU."""
    return ExperimentConfig(
        zoo=SineConfig(num_points=128, num_steps=600),
        metanet=MetanetConfig(width=16, num_blocks=3, reverse_messages=True),
    )


def published() -> ExperimentConfig:
    """Sizes of the published experiment; for a GPU.

    500 epochs of 5 batches, views as in the released code of Navon et al. The width and
    depth of the published metanet are unknown; its AMSGrad, constant learning rate and
    statistics per weight are not followed.
    """
    return ExperimentConfig(
        zoo=SineConfig(num_points=2000, num_steps=1500, chunk_size=1000),
        metanet=MetanetConfig(width=64, num_blocks=4, reverse_messages=True),
        views=ViewConfig(noise_kind="constant"),
        training=TrainingConfig(
            num_steps=2500,
            num_evaluations=50,
            batch_size=512,
            learning_rate=5e-3,
        ),
    )


CONFIGS = {"sine": sine, "published": published}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in seconds; its numbers mean nothing."""
    return common.override(
        config,
        {
            "zoo.num_train": 48,
            "zoo.num_valid": 16,
            "zoo.num_test": 16,
            "zoo.hidden_sizes": (4, 4),
            "zoo.num_points": 16,
            "zoo.num_steps": 8,
            "zoo.chunk_size": 40,
            "metanet.width": 4,
            "metanet.num_blocks": 1,
            "training.num_steps": 12,
            "training.num_evaluations": 3,
            "training.batch_size": 8,
        },
    )
