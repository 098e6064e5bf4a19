"""Configurations of the scaling experiment, as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from experiments import common
from experiments.relational_inference import config as relational_config
from modmeta.search import SEARCHES


@dataclasses.dataclass(frozen=True)
class SystemsConfig:
    """Systems that are searched, none of which training has seen.

    Attributes:
      sizes: Entities per system, ascending.
      num_problems: Receivers searched per size, rounded up to whole systems.
    """

    sizes: tuple[int, ...] = (5, 10, 20, 50, 100)
    num_problems: int = 100

    def __post_init__(self) -> None:
        """Checks the options."""
        ascends = all(a < b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        if not self.sizes or not ascends or self.sizes[0] < 2:
            raise ValueError(
                f"sizes: found {self.sizes}, expected ascending numbers from 2 on"
            )
        if self.num_problems < 1:
            raise ValueError(
                f"num_problems: found {self.num_problems}, expected at least 1"
            )

    def num_systems(self, size: int) -> int:
        """Systems of a size that are simulated."""
        return -(-self.num_problems // size)


@dataclasses.dataclass(frozen=True)
class MeasurementConfig:
    """How searches are run and judged.

    Attributes:
      searches: Names of `modmeta.search.SEARCHES`; empty for all.
      proposals_per_edge: Proposals of a chain per candidate edge of its receiver,
      min_proposals: and at least so many in all.
      num_chains: Chains per problem, each judged by itself.
      initial_temperature: Nats; 0 takes, for every problem, the standard deviation of
        the energy over a few random structures.
      final_temperature: Nats, reached after `annealed_fraction` of the proposals.
      annealed_fraction: Share of the proposals during which the temperature falls.
      tolerance: Nats above the best-known energy that count as having reached it.
      max_enumerated: The best-known energy is the exact minimum where a receiver has
        at most so many structures.
      num_points: Numbers of proposals at which searches are judged, spaced evenly on
        a logarithmic scale.
      chunk_size: Problems searched at once; bounds the memory.
    """

    searches: tuple[str, ...] = ()
    proposals_per_edge: int = 32
    min_proposals: int = 512
    num_chains: int = 1
    initial_temperature: float = 0.0
    final_temperature: float = 1.0
    annealed_fraction: float = 0.5
    tolerance: float = 0.01
    max_enumerated: int = 4096
    num_points: int = 96
    chunk_size: int = 25

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in self.searches:
            if name not in SEARCHES:
                raise ValueError(
                    f"searches: found {name!r}, expected some of {tuple(SEARCHES)}"
                )
        for field in (
            "proposals_per_edge",
            "min_proposals",
            "num_chains",
            "num_points",
            "chunk_size",
        ):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 1"
                )
        if self.initial_temperature < 0.0 or self.final_temperature <= 0.0:
            raise ValueError(
                f"temperatures: found {self.initial_temperature} and "
                f"{self.final_temperature}, expected at least 0 and above 0"
            )
        if not 0.0 < self.annealed_fraction <= 1.0:
            raise ValueError(
                f"annealed_fraction: found {self.annealed_fraction}, expected a share "
                "in (0, 1]"
            )
        if self.tolerance < 0.0 or self.max_enumerated < 0:
            raise ValueError(
                f"tolerance: found {self.tolerance}, max_enumerated: found "
                f"{self.max_enumerated}, expected at least 0"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The searches that are run."""
        return self.searches or tuple(SEARCHES)

    def budget(self, size: int) -> int:
        """Proposals of every chain at a receiver of a system of a size."""
        return max(self.proposals_per_edge * (size - 1), self.min_proposals)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      training: Small systems and meta-training on them. Where a model is given, its
        `data` still say what systems look like and its `search` how moves are drawn.
      systems: Systems that are searched.
      measurement: How they are searched.
      model: A `model.npz` of the relational-inference experiment; empty to train.
      seed: Seed of systems and searches.
    """

    training: relational_config.ExperimentConfig = relational_config.springs()
    systems: SystemsConfig = SystemsConfig()
    measurement: MeasurementConfig = MeasurementConfig()
    model: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks that systems of every size can be simulated and searched."""
        if self.training.data.file:
            raise ValueError(
                f"file: found {self.training.data.file}, expected none: systems of "
                "other sizes are simulated"
            )
        energy = self.training.energy
        if energy.couples_receivers:
            raise ValueError(
                f"energy: found {energy}, expected independent receivers: form "
                "'one_step' without prior"
            )


# Training on them, whatever the system.
_SMALL_SYSTEMS = {
    "data.num_nodes": (5, 10),
    "data.num_test": 100,
    "bouncegrad.search_steps": 16,
    "training.num_evaluations": 6,
    "training.search_steps": 64,
}


def springs() -> ExperimentConfig:
    """Springs, two per entity at every size; training sees 5 and 10 entities.

    A proposal head that has seen one size knows little of others. And what "no
    relation" sends must be nothing, not a constant that training on one size makes up
    for: in larger systems there is more of it.
    """
    training = common.override(
        relational_config.springs(),
        {
            **_SMALL_SYSTEMS,
            "data.mean_degree": 2.0,
            "data.num_train": 3000,
            "modules.null_relation": True,
            "bouncegrad.num_steps": 1500,
        },
    )
    return ExperimentConfig(training=training)


def charged() -> ExperimentConfig:
    """Charges, which attract or repel all others at every size.

    Training sees 5 and 10 entities. From trajectories alone a head has to guess charges
    of so many neighbours; what the modules say tells more.
    """
    training = common.override(
        relational_config.charged(),
        {
            **_SMALL_SYSTEMS,
            "proposal.encoder": "evidence",
            "bouncegrad.num_steps": 6000,
        },
    )
    return ExperimentConfig(training=training)


def kuramoto() -> ExperimentConfig:
    """Phase oscillators, two couplings per entity; training sees 5 and 10 of them."""
    training = common.override(
        relational_config.kuramoto(),
        {
            **_SMALL_SYSTEMS,
            "data.mean_degree": 2.0,
            "data.num_train": 3000,
            "bouncegrad.num_steps": 3000,
        },
    )
    return ExperimentConfig(training=training)


CONFIGS = {"springs": springs, "charged": charged, "kuramoto": kuramoto}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in seconds; its numbers mean nothing."""
    return common.override(
        dataclasses.replace(config, training=relational_config.smoke(config.training)),
        {
            "systems.sizes": (4, 6, 9),
            "systems.num_problems": 12,
            "measurement.proposals_per_edge": 4,
            "measurement.min_proposals": 64,
            "measurement.chunk_size": 12,
        },
    )
