"""A relational model: the network, and how its structures are searched."""

from __future__ import annotations

import dataclasses
import math

from modmeta.graphs.edges import EdgeLists
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.neighbors import CandidateConfig, candidate_edges
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.config import MemoryConfig, MoveConfig
from modmeta.relational.inference.features import check_features
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.network import RelationalNetwork

# Intervals that differ by less than this share are the same.
_SAME_INTERVAL = 1e-3
# Over longer intervals laws are evaluated so many times as often, at most.
_MOST_POINTS = 4


@dataclasses.dataclass(frozen=True)
class RelationalModel:
    """Static description of a model; its arrays are `ModelParams`.

    Attributes:
      network: Bank of modules and proposal head.
      energy: What a search minimises.
      moves: How it moves.
      candidates: Which edges may hold a relation.
      memory: What is held at once.
    """

    network: RelationalNetwork
    energy: EnergyConfig = EnergyConfig()
    moves: MoveConfig = MoveConfig()
    candidates: CandidateConfig = CandidateConfig()
    memory: MemoryConfig = MemoryConfig()

    def __post_init__(self) -> None:
        """Checks that the energy is one of what the modules say."""
        if self.energy.form == "rollout" and self.bank.has_laws:
            raise ValueError(
                f"form: found 'rollout' with path {self.bank.config.path!r}, expected "
                "'one_step', or path 'start': a message of a law needs both ends of "
                "its interval"
            )

    def read(self, dataset: TrajectoryDataset) -> TrajectoryDataset:
        """The data set in the model's unit of time.

        Columns must have the roles of those of the training data, whatever their names;
        systems may have any size and number of frames. Laws do not depend on how far
        frames are apart; other messages do.

        Raises:
          DataError: If the model cannot read trajectories of this kind.
        """
        check_features(self.bank.layout.spec, dataset.features)
        dataset.check_pairs()
        span = self.bank.config.span
        if dataset.num_frames < span + 2:
            raise DataError(
                f"states: found {dataset.num_frames} frames with messages over {span}, "
                f"expected at least {span + 2}"
            )
        path = self.bank.config.path
        interval = self.bank.layout.frame_interval
        if interval and not math.isclose(
            dataset.frame_interval, interval, rel_tol=_SAME_INTERVAL
        ):
            if not self.bank.has_laws:
                raise DataError(
                    f"frame_interval: found {dataset.frame_interval} with path "
                    f"{path!r}, expected {interval}, that of the training data: only "
                    "laws hold at others"
                )
            times = dataset.times
            if times is None:
                times = dataset.frame_interval * dataset.clock
            dataset = dataclasses.replace(dataset, times=times, frame_interval=interval)
        if not (self.bank.has_laws or dataset.is_regular):
            raise DataError(
                f"times: found irregular ones with path {path!r}, expected laws, which "
                "name positions or angles, or frames at equal intervals"
            )
        has_gaps = dataset.frame_mask is not None or dataset.breaks is not None
        if self.energy.form == "rollout" and has_gaps:
            raise DataError(
                "form: found 'rollout' with missing frames or breaks, expected "
                "'one_step': roll-outs are scored at every frame"
            )
        return dataset

    def reaching(self, interval: float | None) -> RelationalModel:
        """The same with laws evaluated as often per unit of time over longer intervals.

        Args:
          interval: Time between frames of the data that it is for.
        """
        config, usual = self.bank.config, self.bank.layout.frame_interval
        if not (self.bank.has_laws and usual and interval):
            return self
        times = min(math.ceil(interval / usual - _SAME_INTERVAL), _MOST_POINTS)
        if times <= 1:
            return self
        config = dataclasses.replace(config, num_points=times * config.num_points)
        bank = dataclasses.replace(self.bank, config=config)
        network = dataclasses.replace(self.network, bank=bank)
        return dataclasses.replace(self, network=network)

    @property
    def bank(self) -> ModuleBank:
        """The bank of the network."""
        return self.network.bank

    @property
    def num_relations(self) -> int:
        """Number of edge modules K."""
        return self.network.num_relations

    @property
    def num_node_modules(self) -> int:
        """Number of node modules M."""
        return self.network.num_node_modules

    @property
    def keeps_messages(self) -> bool:
        """Whether the search works on a message cache."""
        return self.memory.messages == "cache" and self.energy.form == "one_step"

    def candidate_edges(self, dataset: TrajectoryDataset) -> EdgeLists:
        """Edges that may hold a relation, of every system of a data set."""
        return candidate_edges(dataset, self.candidates)
