"""What an energy with observed frames as input must say of the receivers of a problem.

Letters: R receivers of a problem, D slots, K edge modules, P residuals.
"""

from __future__ import annotations

from typing import Protocol

import jax

from modmeta import search


class ReceiverEnergies(Protocol):
    """Energies of the receivers of one problem; messages kept or computed anew."""

    def local(self, structure: search.Structure, receivers: jax.Array) -> jax.Array:
        """Energies of some receivers under a structure, one node update each.

        Args:
          structure: Modules of all R receivers of the problem.
          receivers: `[r]` receivers to evaluate.

        Returns:
          `[r]`, zero at padded receivers.
        """

    def relaxed(self, edge_weights: jax.Array, node_modules: jax.Array) -> jax.Array:
        """Energies of all receivers under soft assignments of their edges.

        A receiver sums the messages of all modules, weighted: with one-hot weights
        this is `local`, and it is differentiable in the weights.

        Args:
          edge_weights: `[R, D, K]`.
          node_modules: `[R]`.

        Returns:
          `[R]`, zero at padded receivers.
        """

    def residuals(
        self, edge_weights: jax.Array, node_module: jax.Array, receiver: jax.Array
    ) -> jax.Array:
        """Residuals of one receiver under soft assignments, see `BoundBank.residuals`.

        Args:
          edge_weights: `[D, K]`.
          node_module: `()`.
          receiver: `()`.

        Returns:
          `[P]`, zero at a padded receiver.
        """
