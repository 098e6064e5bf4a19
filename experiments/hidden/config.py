"""Configuration of the experiment with hidden entities."""

from __future__ import annotations

import dataclasses

from experiments import common
from experiments.relational_inference.config import CONFIGS as TRAININGS
from modmeta.relational import (
    BounceGradConfig,
    HiddenConfig,
    ModuleConfig,
    TrainingConfig,
)
from modmeta.relational.hidden.find import MAX_ROWS, MOST_HIDDEN
from modmeta.runtime import option_types

SYSTEMS = ("springs", "charged")
_LEAST = {"num_train": 1, "num_test": 1, "num_visible": 2}


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run of the experiment.

    Attributes:
      system: Simulator, one of `SYSTEMS`.
      num_train: Complete systems that the modules learn from.
      num_test: Systems for every number of hidden bodies.
      num_visible: Visible bodies of every test system.
      hidden: Numbers of hidden bodies.
      max_hidden: The most that are looked for.
      model: A `model.npz` to use instead of training one; empty to train.
      modules: Bank of modules.
      bouncegrad: Meta-training.
      training: Loop around it.
      search: How hidden bodies are looked for.
      seed: Seed of everything random.
    """

    system: str = "springs"
    num_train: int = 500
    num_test: int = 40
    num_visible: int = 5
    hidden: tuple[int, ...] = (0, 1, 2)
    max_hidden: int = 2
    model: str = ""
    modules: ModuleConfig = ModuleConfig()
    bouncegrad: BounceGradConfig = BounceGradConfig()
    training: TrainingConfig = TrainingConfig()
    search: HiddenConfig = HiddenConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the system and the numbers."""
        if self.system not in SYSTEMS:
            raise ValueError(
                f"system: found {self.system!r}, expected one of {SYSTEMS}"
            )
        option_types.settle(self)
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least {least}"
                )
        if not 1 <= self.max_hidden <= MOST_HIDDEN:
            raise ValueError(
                f"max_hidden: found {self.max_hidden}, expected 1 to {MOST_HIDDEN}"
            )
        numbers = set(self.hidden)
        is_repeated = len(numbers) < len(self.hidden)
        if is_repeated or not numbers or not numbers <= {*range(self.max_hidden + 1)}:
            raise ValueError(
                f"hidden: found {self.hidden}, expected different numbers from 0 to "
                f"max_hidden, {self.max_hidden}"
            )
        count = self.modules.num_relations ** (self.num_visible - 1 + self.max_hidden)
        if count > MAX_ROWS:
            raise ValueError(
                f"num_visible: found {self.num_visible}, of which one with "
                f"{self.max_hidden} hidden may have {count:,} combinations of "
                f"relations, expected at most {MAX_ROWS:,}: they are listed"
            )
        if self.modules.path == "start":
            raise ValueError(
                "modules.path: found 'start', expected laws, which say how a "
                "hidden entity moves"
            )


def _as_trained(system: str, **options) -> ExperimentConfig:
    """Modules trained as in the experiment of the same system."""
    trained = TRAININGS[system]()
    return ExperimentConfig(
        system=system,
        num_train=trained.data.num_train,
        modules=trained.modules,
        bouncegrad=trained.bouncegrad,
        training=trained.training,
        **options,
    )


def springs() -> ExperimentConfig:
    """Bodies joined by springs."""
    return _as_trained("springs", search=HiddenConfig(symmetric=True))


def charged() -> ExperimentConfig:
    """Charged bodies; one is hidden."""
    walls = TRAININGS["charged"]().prediction.domain
    search = HiddenConfig(symmetric=True, domain=walls)
    return _as_trained("charged", hidden=(1,), max_hidden=1, search=search)


CONFIGS = {"springs": springs, "charged": charged}


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same pipeline in seconds; its numbers mean nothing."""
    return common.override(
        config,
        {
            "num_train": 16,
            "num_test": 2,
            "num_visible": 2,
            "hidden": (0, 1),
            "max_hidden": 1,
            "modules.edge_sizes": (4,),
            "modules.node_sizes": (4,),
            "bouncegrad.num_steps": 8,
            "bouncegrad.batch_size": 8,
            "training.num_evaluations": 2,
            "search.num_candidates": 2,
            "search.num_fits": 2,
            "search.num_rounds": 1,
            "search.num_steps": 1,
            "search.is_repeated": False,
        },
    )
