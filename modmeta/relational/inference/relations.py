"""What inference finds in a data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.tasks.structures import TaskStructures


class Relations(NamedTuple):
    """What inference finds for every task, in the layout of labels.

    Attributes:
      edges: `[tasks, nodes, nodes]` int32, relations of lowest energy, row = receiver,
        column = sender, -1 where there is no candidate edge.
      node_modules: `[tasks, nodes]` int32.
      probabilities: `[tasks, nodes, nodes, K]` share of samples in which a module sat
        on an edge; zeros where there is no edge, or without samples.
      proposal_logits: `[tasks, nodes, nodes, K]` of the proposal head; zeros where
        there is no edge.
      energies: `[tasks]` energies of the structures, prior included, in nats.
      num_proposals: `[tasks]` int32, structures evaluated in the search of a task,
        samples excluded; with independent receivers, summed over these.
      best_energies: `[tasks, num_steps]` lowest energy of the first chain after every
        step, summed over the receivers of a system.
    """

    edges: Any
    node_modules: Any
    probabilities: Any
    proposal_logits: Any
    energies: Any
    num_proposals: Any
    best_energies: Any

    @property
    def is_sampled(self) -> bool:
        """Whether there are probabilities: whether the search ended in samples."""
        return bool(np.any(self.probabilities))

    @property
    def proposal_edges(self) -> np.ndarray:
        """`[tasks, nodes, nodes]` most likely relation under the proposal head."""
        likeliest = np.argmax(self.proposal_logits, axis=-1).astype(np.int32)
        return np.where(np.asarray(self.edges) >= 0, likeliest, NO_EDGE)

    @property
    def structures(self) -> TaskStructures:
        """The structures as the search takes them."""
        edges = np.maximum(np.asarray(self.edges), 0)
        return jax.device_put(TaskStructures(edges, np.asarray(self.node_modules)))
