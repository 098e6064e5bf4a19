"""How structures are inferred."""

from __future__ import annotations

import dataclasses

from modmeta import search


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How structures are inferred.

    Attributes:
      algorithm: One of `modmeta.search.SEARCHES`. "integer_least_squares" finds in
        tens of steps, at any number of entities, what annealing does in small systems
        alone, where messages add up.
      num_steps: Steps per chain and problem: per receiver, or per system where a
        prior or a roll-out couples receivers. A step of annealing is one proposal.
      num_chains: Chains per problem; the best structure of all counts.
      initial_temperature: Nats, at the first proposal; 0 takes, for every problem,
        the standard deviation of the energy over a few random structures, at which
        nearly every move is accepted.
      final_temperature: Nats, at the last.
      num_samples: Further proposals per chain, of annealing at temperature 1, over
        which edge probabilities are averaged; 0 for none.
      learned: Whether proposals follow the proposal head.
      receiver_chunk: Receivers whose messages are held at once; the search of a chunk
        ends before that of the next begins, with the same result. 0 for all at once.
        Without effect where receivers are coupled: see `SearchConfig.messages`.
      batch_size: Systems whose messages are held at once, on every device.
    """

    algorithm: str = "simulated_annealing"
    num_steps: int = 128
    num_chains: int = 2
    initial_temperature: float = 0.0
    final_temperature: float = 1.0
    num_samples: int = 64
    learned: bool = True
    receiver_chunk: int = 0
    batch_size: int = 100

    def __post_init__(self) -> None:
        """Checks the options."""
        search.options_of(self.algorithm)
        if self.batch_size < 1:
            raise ValueError(
                f"batch_size: found {self.batch_size}, expected at least 1"
            )
        if self.receiver_chunk < 0:
            raise ValueError(
                f"receiver_chunk: found {self.receiver_chunk}, expected at least 0"
            )
