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
from modmeta.relational.data import FeatureSpec
from modmeta.relational.modules import entities
from modmeta.relational.modules.config import DEFAULT_POINTS, ModuleConfig
from modmeta.relational.modules.inputs import edge_inputs, resolve_geometry
from modmeta.relational.modules.laws import LawLayout, LawNetwork, OwnLawNetwork
from modmeta.relational.modules.messages import LawMessages
from modmeta.relational.modules.node_module import FIRST_OUTPUTS_SCALE, NodeModule
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
)


def resolve(config: ModuleConfig, spec: FeatureSpec) -> ModuleConfig:
    """What "auto" stands for, given the roles of the features.

    Raises:
      ValueError: If the features do not allow what is asked for.
    """
    has_geometry = spec.has_motion or bool(spec.angles)
    path = config.path
    if path == "auto":
        is_plain = config.node_update != "mlp" and config.geometry == "auto"
        is_plain = is_plain and not config.activate_messages
        path = "interpolated" if has_geometry and is_plain else "start"
    if path == "two_body" and not spec.has_motion:
        raise ValueError(
            f"path: found 'two_body' with positions {spec.positions} and velocities "
            f"{spec.velocities}, expected columns of both"
        )
    if config.max_rate and not spec.positions:
        raise ValueError(
            f"max_rate: found {config.max_rate} with positions {spec.positions}, "
            "expected 0, or columns of positions, whose rates are bounded"
        )
    geometry = resolve_geometry(config.geometry, spec)
    node_update = config.node_update
    if path != "start":
        if node_update == "mlp":
            raise ValueError(
                f"node_update: found 'mlp' with path {path!r}, expected 'additive': "
                "rates add up"
            )
        node_update = "additive"
    elif node_update == "auto":
        has_forces = geometry == "relative" and not config.activate_messages
        node_update = "additive" if has_forces else "mlp"
    kind = config.entities
    if kind == "auto":
        kind = "alike" if path == "start" else "differ"
    if kind == "differ" and path == "start":
        raise ValueError(
            "entities: found 'differ' with path 'start', expected laws, whose messages "
            "are changes"
        )
    likelihood = config.likelihood
    if likelihood == "auto":
        likelihood = "gaussian" if path == "start" else "student"
    return dataclasses.replace(
        config,
        path=path,
        num_points=config.num_points or DEFAULT_POINTS[path],
        span=config.span or 1,
        geometry=geometry,
        node_update=node_update,
        likelihood=likelihood,
        entities=kind,
    )


class ModuleParams(NamedTuple):
    """Parameters of the bank.

    Attributes:
      edge: Parameters of the edge modules, leaves `[K, ...]`.
      node: Parameters of the node modules, leaves `[M, ...]`.
      log_scale: `[Y]` log of the Gaussian scale of every predicted feature.
      spreads: How much entities differ, see `entities.init_spreads`; None where they
        are alike.
    """

    edge: Any
    node: Any
    log_scale: jax.Array
    spreads: jax.Array | None = None


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
        resolved = resolve(self.config, self.layout.spec)
        object.__setattr__(self, "config", resolved)
        if resolved.path != "start" and self.layout.compress:
            raise ValueError(
                "compress: found True with laws, expected False: changes are what "
                "their rates integrate to"
            )
        if resolved.path == "start" and self.layout.spec.periodic:
            raise ValueError(
                "path: found 'start' with positions that wrap, expected laws, which "
                "see the nearest image of a sender"
            )
        if resolved.path == "two_body" and self.laws.law.others:
            raise ValueError(
                "path: found 'two_body' where other features than positions and "
                "velocities change, expected 'interpolated'"
            )

    @property
    def has_laws(self) -> bool:
        """Whether edge modules are laws, and messages their integrals."""
        return self.config.path != "start"

    @property
    def has_effects(self) -> bool:
        """Whether entities differ in what is in no column."""
        return self.config.entities == "differ"

    @property
    def laws(self) -> LawMessages:
        """How laws make messages."""
        config = self.config
        return LawMessages(
            LawLayout(config.law, config.attributes, self.layout, config.max_rate),
            config.path,
            config.num_points,
            config.span,
            config.edge_sizes,
            config.node_sizes,
            config.activation,
        )

    @property
    def is_additive(self) -> bool:
        """Whether messages are changes of the receiver."""
        return self.config.node_update == "additive"

    @property
    def num_outputs(self) -> int:
        """Outputs of a node module: a change, and how far it is known."""
        num_targets = self.layout.num_targets
        has_scales = (
            self.config.likelihood != "squared_error" and self.config.scale == "state"
        )
        return 2 * num_targets if has_scales else num_targets

    @property
    def num_projected(self) -> int:
        """Size H of a message as it enters a node module."""
        if not self.is_additive:
            return self.config.node_sizes[0]
        # What the messages alone add is kept apart where it has a factor.
        return self.num_outputs + self.has_effects * self.layout.num_targets

    @property
    def edge_module(self) -> LawNetwork | networks.MLP:
        """The architecture of an edge module."""
        if self.has_laws:
            return self.laws.edge_module
        if self.is_additive:
            return self._contributor(self.config.edge_sizes)
        return networks.MLP(
            (*self.config.edge_sizes, self.config.message_size),
            activation=self.config.activation,
            activate_output=self.config.activate_messages,
        )

    @property
    def node_module(self) -> OwnLawNetwork | NodeModule | networks.MLP:
        """The architecture of a node module."""
        if self.has_laws:
            return self.laws.node_module
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
        if self.has_laws:
            inputs = self.laws.edge_examples(preprocessing)
        else:
            inputs = (
                edge_inputs(
                    self.config.geometry, preprocessing, self.layout, state, state
                ),
            )
        spreads = None
        if self.has_effects:
            spreads = entities.init_spreads(self.laws.num_rates)
        message = jnp.zeros((self.config.message_size,))
        node_inputs = (state,) if self.is_additive else (message, state)
        return ModuleParams(
            edge=networks.init_bank(
                self.edge_module, key_edge, self.config.num_relations, *inputs
            ),
            node=networks.init_bank(
                self.node_module,
                key_node,
                self.config.num_node_modules,
                *node_inputs,
            ),
            log_scale=jnp.zeros((self.layout.num_targets,)),
            spreads=spreads,
        )
