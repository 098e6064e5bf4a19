"""Options of meta-training: of its step, and of the loop around it."""

from __future__ import annotations

import dataclasses

from modmeta.relational.inference.config import InferenceConfig
from modmeta.runtime import option_types

GRADIENTS = ("chosen", "mixture")


TEMPERATURES = ("geometric", "acceptance")


STARTS = ("auto", "random")


# Systems and proposals of a step where entities are few; edges of a step where they are
# many, and senders that so many proposals are enough for.
_BATCH_SIZE, _SEARCH_STEPS = 32, 8
_EDGES_PER_STEP, FEW_SENDERS = 1800, 7


@dataclasses.dataclass(frozen=True)
class BounceGradConfig:
    """Options of meta-training.

    Attributes:
      num_steps: Gradient steps.
      batch_size: Systems per step; None for as many as suit the number of entities,
        see `resolved`.
      search_steps: Proposals per problem and visit; None likewise.
      temperature: "geometric": from `initial_temperature` to 1 nat over the first
        `annealed_fraction` of training. "acceptance": the reference's control of the
        acceptance rate of worsening moves.
      initial_temperature: Nats.
      annealed_fraction: Share of training after which the temperature stays at 1.
      start: Structures before the first step. "random": drawn. "auto": where receivers
        have more than a few senders, and sparse regression explains what was held out,
        those that it finds, see `classical.sparse`; else drawn.
      held_fraction: Share of training in which structures that were found stay as they
        are; modules learn from them, and then the search goes on from there.
      gradient: "chosen": through the structure of the chain, as in the paper.
        "mixture": through all assignments of a receiver's incoming edges, weighted by
        softmax(-energy / temperature); only where these can be enumerated.
      search_frames: Input frames that the energy of a visit's search sees; 0 for all.
      gradient_frames: Input frames that the gradient sees, at most half of them if
        `held_out`; 0 for as many as possible.
      held_out: Whether the gradient's frames are withheld from the search of the same
        visit, which draws both anew (reference code: meta-training uses the same
        frames for both).
      mean_power: Power of the variance that multiplies the gradient of the mean; above
        0, it keeps asking about what is badly predicted while structures are sought,
        down to 2 nats. From then on it is that of the mean variance, and laws are
        those of maximum likelihood, see `BoundBank.frame_energies`.
      learning_rate: Adam, cosine decay to 0.
      warmup_fraction: Share of training over which the learning rate rises.
      weight_decay: Decoupled weight decay of the modules.
      clip_norm: Largest norm of the modules' gradient.
      proposal_learning_rate: Adam on the proposal head.
      proposal_weight_decay: Decoupled weight decay of the proposal head.
    """

    num_steps: int = 1000
    batch_size: int | None = None
    search_steps: int | None = None
    temperature: str = "geometric"
    initial_temperature: float = 50.0
    annealed_fraction: float = 0.6
    start: str = "auto"
    held_fraction: float = 0.3
    gradient: str = "chosen"
    search_frames: int = 0
    gradient_frames: int = 16
    held_out: bool = True
    mean_power: float = 0.5
    learning_rate: float = 3e-3
    warmup_fraction: float = 0.01
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    proposal_learning_rate: float = 1e-3
    proposal_weight_decay: float = 1e-4

    def resolved(self, num_entities: int) -> BounceGradConfig:
        """The same, with numbers that suit a number of entities where there are none.

        Edges grow with their square, and a step should not: of large systems it sees
        fewer, and searches these longer, as every receiver has more edges.
        """
        num_edges = max(num_entities * (num_entities - 1), 1)
        batch_size = min(max(_EDGES_PER_STEP // num_edges, 1), _BATCH_SIZE)
        search_steps = max((num_entities - 1) // FEW_SENDERS, 1) * _SEARCH_STEPS
        return dataclasses.replace(
            self,
            batch_size=batch_size if self.batch_size is None else self.batch_size,
            search_steps=(
                search_steps if self.search_steps is None else self.search_steps
            ),
        )

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        for field in ("num_steps", "batch_size"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field}: found {value}, expected at least 1")
        if self.search_steps is not None and self.search_steps < 0:
            raise ValueError(
                f"search_steps: found {self.search_steps}, expected at least 0"
            )
        for field in ("search_frames", "gradient_frames"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 0"
                )
        shares = ("annealed_fraction", "held_fraction", "warmup_fraction")
        for field in ("mean_power", *shares):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected 0 to 1"
                )
        rates = ("learning_rate", "proposal_learning_rate")
        for field in (*rates, "weight_decay", "proposal_weight_decay"):
            if not 0.0 <= getattr(self, field) < float("inf"):
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 0"
                )
        for field in ("initial_temperature", "clip_norm"):
            if not getattr(self, field) > 0.0:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected more than 0"
                )
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"gradient: found {self.gradient!r}, expected one of {GRADIENTS}"
            )
        if self.start not in STARTS:
            raise ValueError(f"start: found {self.start!r}, expected one of {STARTS}")
        if self.temperature not in TEMPERATURES:
            raise ValueError(
                f"temperature: found {self.temperature!r}, expected one of "
                f"{TEMPERATURES}"
            )


# Nats: warm enough to leave the structure of the last evaluation, not to forget it.
_REHEATED = 5.0


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Options of the loop around BounceGrad.

    Attributes:
      num_evaluations: How often validation systems are searched and scored.
      search_steps: Proposals per problem at every evaluation; structures of
        validation and warm-start systems persist between evaluations.
      patience: Evaluations without a lower validation energy, once the temperature
        has reached 1, after which training stops; 0 never stops early.
    """

    num_evaluations: int = 20
    search_steps: int = 16
    patience: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        if self.num_evaluations < 1 or self.search_steps < 1 or self.patience < 0:
            raise ValueError(
                f"training: found {self}, expected num_evaluations >= 1, "
                "search_steps >= 1, patience >= 0"
            )

    @property
    def inference(self) -> InferenceConfig:
        """The search of followed systems: one chain, from where it was."""
        return InferenceConfig(
            num_steps=self.search_steps,
            num_chains=1,
            initial_temperature=_REHEATED,
            final_temperature=1.0,
            num_samples=0,
        )
