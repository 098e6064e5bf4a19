"""Sizes and options of the bank of modules."""

from __future__ import annotations

import dataclasses

from modmeta import networks

NODE_UPDATES = ("auto", "additive", "mlp")


LIKELIHOODS = ("gaussian", "squared_error")


SCALES = ("state", "feature")


@dataclasses.dataclass(frozen=True)
class ModuleConfig:
    """Sizes and options of the bank.

    Attributes:
      num_relations: Number of edge modules K, at least 2.
      num_node_modules: Number of node modules M.
      null_relation: Whether edge module 0 sends no message ("no relation").
      edge_sizes: Hidden layers of an edge module.
      message_size: Size of a message; one of "additive" has that of the outputs.
      node_sizes: Hidden layers of a node module.
      node_update: "additive": a message is what an edge adds to the change of its
        receiver and to the variance of that, the node module says what the own state
        adds, and no message changes what another one means, however many there are.
        "mlp": messages are summed into the first layer of the node module (the paper).
        "auto": additive where edge modules see relative geometry, as forces and
        couplings add up.
      activation: See `modmeta.networks.ACTIVATIONS`.
      activate_messages: Whether the activation is applied to messages (the paper).
      geometry: Inputs of the edge modules, see `preprocessing.resolve_geometry`.
      likelihood: "gaussian": energies are negative log-likelihoods in nats, with
        learned scales. "squared_error": sums of squared errors (the paper up to its
        normaliser).
      scale: "state": the node module predicts a log-scale per output, around one
        learned per feature. "feature": one learned scale per feature alone.
    """

    num_relations: int = 2
    num_node_modules: int = 1
    null_relation: bool = False
    edge_sizes: tuple[int, ...] = (64, 64)
    message_size: int = 64
    node_sizes: tuple[int, ...] = (64, 64)
    node_update: str = "auto"
    activation: str = "relu"
    activate_messages: bool = False
    geometry: str = "auto"
    likelihood: str = "gaussian"
    scale: str = "state"

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.num_relations < 2:
            raise ValueError(
                f"num_relations: found {self.num_relations}, expected at least 2"
            )
        if self.num_node_modules < 1:
            raise ValueError(
                f"num_node_modules: found {self.num_node_modules}, expected at least 1"
            )
        for field in ("edge_sizes", "node_sizes"):
            if not getattr(self, field):
                raise ValueError(f"{field}: found no layer, expected at least one")
        if self.node_update not in NODE_UPDATES:
            raise ValueError(
                f"node_update: found {self.node_update!r}, expected one of "
                f"{NODE_UPDATES}"
            )
        if self.activate_messages and self.node_update == "additive":
            raise ValueError(
                "activate_messages: found True with node_update 'additive', expected "
                "False: messages are changes of the receiver, of either sign"
            )
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(
                f"likelihood: found {self.likelihood!r}, expected one of {LIKELIHOODS}"
            )
        if self.scale not in SCALES:
            raise ValueError(f"scale: found {self.scale!r}, expected one of {SCALES}")
        networks.get_activation(self.activation)
