"""Options of the graph metanetwork."""

from __future__ import annotations

import dataclasses
import math

from modmeta.metanet.models.encoders import SCALAR_ENCODINGS
from modmeta.networks import ACTIVATIONS
from modmeta.runtime import option_types

AGGREGATIONS = ("sum", "mean", "typed_mean")
POOLINGS = ("mean", "layer_mean", "layer_statistics")


@dataclasses.dataclass(frozen=True)
class MetanetConfig:
    """Options of the graph metanetwork.

    Attributes:
      width: Size of all embeddings, even.
      num_blocks: Number of message passing steps. Zero leaves the encoded edges: with
        an edge read-out, a DeepSets of parameters.
      aggregation: How a node combines its incoming messages: "sum", "mean", or
        "typed_mean", the sum over edge types of the mean within each. The last does
        not notice when units are duplicated.
      activation: See `modmeta.networks.ACTIVATIONS`.
      encoding: See `modmeta.metanet.models.encoders.ScalarEncoder`.
      use_globals: Whether every graph has a global vector, too.
      reverse_messages: Whether every edge also sends a message to its sender, by
        weights of its own. With it, a graph without reversed edges suffices: half the
        edges at the same reach.
      direction_flag: Whether the encoder tells reversed edges from their originals.
      rescale_by_fan_in: Whether edge values are multiplied by the fan-in.
      value_scales: Factors at which edge values enter, as inverse hyperbolic sines of
        `factor value` and `factor value sqrt(fan-in)`; empty: as they are. Small values
        of different size are told from each other then, and huge ones are in range.
      outputs_nodes: Whether the last block updates nodes as well, for read-outs that
        use them.
      checkpoint_blocks: Whether blocks are computed again in the backward pass, which
        saves memory.
      edge_window: Edges whose embeddings are held at once, None for all. With it,
        embeddings of edges are computed again for every block, and memory grows with
        nodes, not with edges. The same result.
    """

    width: int = 64
    num_blocks: int = 4
    aggregation: str = "mean"
    activation: str = "relu"
    encoding: str = "sine"
    use_globals: bool = False
    reverse_messages: bool = False
    direction_flag: bool = True
    rescale_by_fan_in: bool = False
    value_scales: tuple[float, ...] = ()
    outputs_nodes: bool = False
    checkpoint_blocks: bool = False
    edge_window: int | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        for field, choices in (
            ("aggregation", AGGREGATIONS),
            ("activation", tuple(sorted(ACTIVATIONS))),
            ("encoding", SCALAR_ENCODINGS),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field}: found {getattr(self, field)!r}, expected one of "
                    f"{choices}"
                )
        if self.width < 2 or self.width % 2:
            raise ValueError(
                f"width: found {self.width}, expected an even positive number"
            )
        if self.num_blocks < 0:
            raise ValueError(
                f"num_blocks: found {self.num_blocks}, expected at least 0"
            )
        if not all(0.0 < scale < math.inf for scale in self.value_scales):
            raise ValueError(
                f"value_scales: found {self.value_scales}, expected positive numbers"
            )
        if self.edge_window is not None and self.edge_window < 1:
            raise ValueError(
                f"edge_window: found {self.edge_window}, expected at least 1, or None"
            )
