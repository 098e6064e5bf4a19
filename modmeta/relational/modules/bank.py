"""The bank of edge and node modules: architectures and parameters.

Letters: K edge modules, M node modules, Y predicted changes, H size of a message as it
enters a node module.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta import networks
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.inputs import edge_inputs, resolve_geometry
from modmeta.relational.modules.node_module import FIRST_OUTPUTS_SCALE, NodeModule
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
)


class ModuleParams(NamedTuple):
    """Parameters of the bank.

    Attributes:
      edge: Parameters of the edge modules, leaves `[K, ...]`.
      node: Parameters of the node modules, leaves `[M, ...]`.
      log_scale: `[Y]` log of the Gaussian scale of every predicted feature.
    """

    edge: Any
    node: Any
    log_scale: jax.Array


@dataclasses.dataclass(frozen=True)
class ModuleBank:
    """Static description of the bank; `BoundBank` evaluates it.

    Attributes:
      config: Sizes and options, geometry and node update resolved.
      layout: Static facts about the features.
    """

    config: ModuleConfig
    layout: FeatureLayout

    def __post_init__(self) -> None:
        """Resolves the geometry against the features, and what follows from it."""
        geometry = resolve_geometry(self.config.geometry, self.layout.spec)
        node_update = self.config.node_update
        if node_update == "auto":
            has_forces = geometry == "relative" and not self.config.activate_messages
            node_update = "additive" if has_forces else "mlp"
        resolved = dataclasses.replace(
            self.config, geometry=geometry, node_update=node_update
        )
        object.__setattr__(self, "config", resolved)

    @property
    def is_additive(self) -> bool:
        """Whether messages are changes of the receiver."""
        return self.config.node_update == "additive"

    @property
    def num_outputs(self) -> int:
        """Outputs of a node module: a change, and how far it is known."""
        num_targets = self.layout.num_targets
        has_scales = (
            self.config.likelihood == "gaussian" and self.config.scale == "state"
        )
        return 2 * num_targets if has_scales else num_targets

    @property
    def num_projected(self) -> int:
        """Size H of a message as it enters a node module."""
        return self.num_outputs if self.is_additive else self.config.node_sizes[0]

    @property
    def edge_module(self) -> networks.MLP:
        """The architecture of an edge module."""
        if self.is_additive:
            return self._contributor(self.config.edge_sizes)
        return networks.MLP(
            (*self.config.edge_sizes, self.config.message_size),
            activation=self.config.activation,
            activate_output=self.config.activate_messages,
        )

    @property
    def node_module(self) -> NodeModule | networks.MLP:
        """The architecture of a node module."""
        if self.is_additive:
            return self._contributor(self.config.node_sizes)
        return NodeModule(
            self.config.node_sizes, self.num_outputs, self.config.activation
        )

    def _contributor(self, hidden_sizes: tuple[int, ...]) -> networks.MLP:
        """A module whose outputs are terms of a sum, see `BoundBank`."""
        return networks.MLP(
            (*hidden_sizes, self.num_outputs),
            activation=self.config.activation,
            output_scale=FIRST_OUTPUTS_SCALE,
        )

    def init(self, rng_key: jax.Array, preprocessing: Preprocessing) -> ModuleParams:
        """Draws parameters; consumes the key."""
        key_edge, key_node = jax.random.split(rng_key)
        state = jnp.zeros((self.layout.num_features,))
        inputs = edge_inputs(
            self.config.geometry, preprocessing, self.layout, state, state
        )
        message = jnp.zeros((self.config.message_size,))
        node_inputs = (state,) if self.is_additive else (message, state)
        return ModuleParams(
            edge=networks.init_bank(
                self.edge_module, key_edge, self.config.num_relations, inputs
            ),
            node=networks.init_bank(
                self.node_module,
                key_node,
                self.config.num_node_modules,
                *node_inputs,
            ),
            log_scale=jnp.zeros((self.layout.num_targets,)),
        )
