"""Options of inference: moves, memory, and the search of new systems."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.core import FrozenDict

from modmeta import search
from modmeta.relational.energies.config import EnergyConfig
from modmeta.runtime import option_types

MESSAGES = ("cache", "recompute")
# The search that suits the number of entities.
AUTO = "auto"
# What a search gets from the model; the user chooses the rest.
GIVEN_OPTIONS = (
    "propose",
    "hastings",
    "uniform_fraction",
    "num_node_modules",
    "crossover",
)


@dataclasses.dataclass(frozen=True)
class MoveConfig:
    """How a search moves from one structure to another.

    Attributes:
      flip_weight: Share of moves that flip one edge.
      redraw_weight: Share of moves that redraw all incoming edges of a node. Most do: a
        head that is right on 0.94 of the edges is worth most where all are drawn.
      uniform_fraction: Share of the moves that ignore the learned probabilities; of
        flips at least a half, for what these are surely wrong about.
      hastings: Whether asymmetric proposals are corrected for.
    """

    flip_weight: float = 0.25
    redraw_weight: float = 0.75
    uniform_fraction: float = 0.1
    hastings: bool = True

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        for field in ("flip_weight", "redraw_weight"):
            if not getattr(self, field) >= 0.0:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 0"
                )
        if not self.flip_weight + self.redraw_weight > 0.0:
            raise ValueError(
                "flip_weight and redraw_weight: found 0 and 0, expected one above 0"
            )
        if not 0.0 <= self.uniform_fraction <= 1.0:
            raise ValueError(
                f"uniform_fraction: found {self.uniform_fraction}, expected a share "
                "in [0, 1]"
            )


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """What a search holds at once; the result is the same, slower where it is less.

    Attributes:
      messages: For the one-step energy. "cache": the messages of all modules on all
        edges are kept. "recompute": those that a proposal needs are computed at every
        proposal, slower, in memory that does not grow with the number of edges.
      receiver_chunk: Receivers whose messages are held at once when new systems are
        searched; the search of a chunk ends before that of the next begins. 0 for all
        at once. Without effect where receivers are coupled: see `messages`.
      batch_size: Systems searched at once, on every device.
    """

    messages: str = "cache"
    receiver_chunk: int = 0
    batch_size: int = 100

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        if self.messages not in MESSAGES:
            raise ValueError(
                f"messages: found {self.messages!r}, expected one of {MESSAGES}"
            )
        if self.receiver_chunk < 0:
            raise ValueError(
                f"receiver_chunk: found {self.receiver_chunk}, expected at least 0"
            )
        if self.batch_size < 1:
            raise ValueError(
                f"batch_size: found {self.batch_size}, expected at least 1"
            )


# From so many entities on, annealing does not find the best structures.
_MANY_ENTITIES = 16
# Decodings of a receiver: of 49 senders nearly all are right after two, of 99 after 16,
# and four times as many for those that stand out.
_LEAST_DECODINGS, _ENTITIES_PER_DECODING, _MORE_DECODINGS = 8, 3, 4


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How structures are inferred.

    Attributes:
      algorithm: One of `modmeta.search.SEARCHES`, or "auto" for the one that suits the
        number of entities, see `resolved`. "integer_least_squares" finds in
        tens of steps, at any number of entities, what annealing does in small systems
        alone, where messages add up.
      options: Options of the search by name, for instance `{"beam_size": 16}`; what is
        not named has its default. Moves are those of `MoveConfig`.
      num_steps: Steps per chain and problem: per receiver, or per system where a
        prior or a roll-out couples receivers. A step of annealing is one proposal, one
        of integer least squares decodes a receiver, or under a prior all of a system.
      num_chains: Chains per problem; the best structure of all counts. Where receivers
        are independent and all chains together have at least as many steps as a
        receiver has assignments, all of these are tried besides.
      more_steps: Further steps per chain for the twentieth of the receivers whose
        edges leave most unexplained; 0 for none, and where receivers are coupled. A
        receiver that a search has missed stands out.
      initial_temperature: Nats, at the first proposal; 0 takes, for every problem,
        the standard deviation of the energy over a few random structures, at which
        nearly every move is accepted.
      final_temperature: Nats, at the last.
      num_samples: Further proposals per chain, of annealing, over which edge
        probabilities are averaged; 0 for none.
      sample_temperature: Their temperature in nats, at least; 1 is that of the
        likelihood.
      tempered: Whether samples are as much warmer as errors are larger than the model
        expects and as they go on from one frame to the next: then frames are not
        independent witnesses. Where there are no residuals, as with roll-outs, they
        are not.
      learned: Whether proposals follow the proposal head.
    """

    algorithm: str = "simulated_annealing"
    options: Mapping[str, Any] = FrozenDict()
    num_steps: int = 128
    num_chains: int = 2
    more_steps: int = 0
    initial_temperature: float = 0.0
    final_temperature: float = 1.0
    num_samples: int = 64
    sample_temperature: float = 1.0
    tempered: bool = True
    learned: bool = True

    def resolved(
        self, num_entities: int, energy: EnergyConfig, *, is_additive: bool
    ) -> InferenceConfig:
        """The same, with the search that suits a number of entities for "auto".

        Among many, or where a prior ties receivers together, it is integer least
        squares, with as many steps as these ask for; else annealing.

        Args:
          num_entities: Of the largest system.
          energy: What is minimised; edges can be solved for where it scores frame by
            frame.
          is_additive: Whether messages add up, without which they cannot be either.
        """
        if self.algorithm != AUTO:
            return self
        can_solve = is_additive and energy.traits.residuals
        is_easy = num_entities < _MANY_ENTITIES and not energy.couples_receivers
        if is_easy or not can_solve:
            return dataclasses.replace(self, algorithm="simulated_annealing")
        num_steps = max(_LEAST_DECODINGS, num_entities // _ENTITIES_PER_DECODING)
        more_steps = 0 if energy.couples_receivers else _MORE_DECODINGS * num_steps
        return dataclasses.replace(
            self,
            algorithm="integer_least_squares",
            num_steps=num_steps,
            more_steps=more_steps,
        )

    def __post_init__(self) -> None:
        """Checks the options, and freezes those of the search."""
        option_types.settle(self)
        object.__setattr__(self, "options", FrozenDict(self.options))
        self._check_search()
        for name in ("num_steps", "more_steps", "num_samples"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, expected at least 0"
                )
        if self.num_chains < 1:
            raise ValueError(
                f"num_chains: found {self.num_chains}, expected at least 1"
            )
        if not self.initial_temperature >= 0.0 or not self.final_temperature > 0.0:
            raise ValueError(
                f"temperatures: found {self.initial_temperature} and "
                f"{self.final_temperature}, expected at least 0 and above 0"
            )
        if not self.sample_temperature > 0.0:
            raise ValueError(
                f"sample_temperature: found {self.sample_temperature}, expected above 0"
            )

    def _check_search(self) -> None:
        """Checks the options of the search."""
        if self.algorithm == AUTO:
            if self.options:
                raise ValueError(
                    f"options: found {sorted(self.options)} with algorithm 'auto', "
                    "expected a search by name, which they belong to"
                )
            return
        spec = search.spec_of(self.algorithm)
        known = sorted(set(spec.options) - set(GIVEN_OPTIONS))
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise ValueError(
                f"options: found {unknown} for {self.algorithm!r}, expected "
                f"{'some of ' + str(known) if known else 'none'}"
            )
        for name, value in self.options.items():
            kind = type(spec.defaults[name])
            if type(value) is not kind and (type(value), kind) != (int, float):
                raise ValueError(
                    f"options.{name}: found {value!r}, expected something like "
                    f"{spec.defaults[name]!r}"
                )
        # The builder knows what else an option may be.
        moves = {"propose": search.flip_edge()} if spec.needs_proposal else {}
        spec.build(**moves, **self.options)
