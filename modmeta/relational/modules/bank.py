"""The bank of edge and node modules, and the network that a structure composes.

Letters: N nodes, D slots for incoming edges of a node, K edge modules, M node modules,
T frames, F features, Y predicted changes, H size of a message as it enters a node
module.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import networks
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.inputs import edge_inputs, resolve_geometry
from modmeta.relational.modules.node_module import FIRST_OUTPUTS_SCALE, NodeModule
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
    compressed,
    decode_targets,
    expanded,
)
from modmeta.search import Structure

_LOG_SCALE_RANGE = 5.0
_MIN_LOG_SCALE = -9.0


def _bounded(log_scale: jax.Array) -> jax.Array:
    return _LOG_SCALE_RANGE * jnp.tanh(log_scale / _LOG_SCALE_RANGE)


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
    """The bank's pure functions; holds no arrays.

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
        """A module whose outputs are terms of a sum, see `_contribution`."""
        return networks.MLP(
            (*hidden_sizes, self.num_outputs),
            activation=self.config.activation,
            output_scale=FIRST_OUTPUTS_SCALE,
        )

    def _contribution(self, outputs: jax.Array) -> jax.Array:
        """Outputs `[..., outputs]` as terms of a sum: changes, and their variances."""
        num_targets = self.layout.num_targets
        change, log_scale = outputs[..., :num_targets], outputs[..., num_targets:]
        return jnp.concatenate([change, jnp.exp(2.0 * _bounded(log_scale))], axis=-1)

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

    def projected_messages(
        self,
        params: ModuleParams,
        preprocessing: Preprocessing,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> jax.Array:
        """Messages of every edge module as they enter the node modules.

        Args:
          params: Parameters of the bank.
          preprocessing: Fitted constants.
          senders: `[..., T, F]` normalised states at the senders.
          receivers: `[..., T, F]` at the receivers; the leading axes broadcast.

        Returns:
          `[..., K, M, T, H]`, of which sums may be taken: messages times the first
          layer of every node module, which is linear and without bias, or what they
          add to the outputs. Zeros for edge module 0 if it is the null module.
        """
        inputs = edge_inputs(
            self.config.geometry, preprocessing, self.layout, senders, receivers
        )
        project = self._addition if self.is_additive else self._projection
        # Unrolled: in one product of all modules XLA transposes all messages twice.
        modules = range(int(self.config.null_relation), self.config.num_relations)
        projected = [
            project(params, networks.copy_of(params.edge, k), inputs) for k in modules
        ]
        if self.config.null_relation:
            projected.insert(0, jnp.zeros_like(projected[0]))
        return jnp.stack(projected, axis=-4)

    def _addition(self, params: ModuleParams, edge: Any, inputs: jax.Array):
        """What the messages of one edge module add, `[..., M, T, H]`."""
        del params
        messages = self._contribution(self.edge_module.apply({"params": edge}, inputs))
        shape = list(messages.shape)
        shape.insert(-2, self.config.num_node_modules)
        return jnp.broadcast_to(jnp.expand_dims(messages, -3), shape)

    def _projection(self, params: ModuleParams, edge: Any, inputs: jax.Array):
        """Messages of one edge module in the first layers, `[..., M, T, H]`."""
        first = params.node["message_layer"]["kernel"]
        num_node_modules, _, num_hidden = first.shape
        first = jnp.moveaxis(first, 0, 1).reshape(first.shape[1], -1)
        hidden_module = networks.MLP(
            self.config.edge_sizes, self.config.activation, activate_output=True
        )
        if self.config.activate_messages:
            messages = self.edge_module.apply({"params": edge}, inputs)
            projected = networks.row_product(messages, first)
        else:
            # Two linear layers in a row: multiplied once, not at every message.
            edge = dict(edge)
            last = edge.pop(f"layer_{len(self.config.edge_sizes)}")
            hidden = hidden_module.apply({"params": edge}, inputs)
            projected = networks.row_product(hidden, last["kernel"] @ first)
            bias = last["bias"] @ first
            projected = projected + jnp.broadcast_to(bias, projected.shape)
        shape = (*projected.shape[:-1], num_node_modules, num_hidden)
        return jnp.moveaxis(projected.reshape(shape), -2, -3)

    def embed(self, params: ModuleParams, states: jax.Array) -> jax.Array:
        """Embeds own states `[..., F]` to `[M, ..., H]`, to be added to messages."""
        if self.is_additive:
            outputs = networks.apply_bank(self.node_module, params.node, states)
            return self._contribution(outputs)
        return networks.apply_bank(
            self.node_module, params.node, states, method="embed"
        )

    def update(self, params: ModuleParams, hidden: jax.Array) -> jax.Array:
        """Messages plus own states `[M, ..., H]` to outputs `[M, ..., outputs]`."""
        if self.is_additive:
            return hidden
        module = self.node_module
        return jax.vmap(lambda p, h: module.apply({"params": p}, h, method="update"))(
            params.node, hidden
        )

    def predict(
        self, params: ModuleParams, outputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Splits outputs `[..., outputs]` into mean and log-scale, each `[..., Y]`."""
        num_targets = self.layout.num_targets
        mean, spread = outputs[..., :num_targets], outputs[..., num_targets:]
        log_scale = jnp.broadcast_to(params.log_scale, mean.shape)
        if self.is_additive and self.layout.compress:
            # Messages add up before the change is compressed, as forces do.
            mean = compressed(mean)
        if spread.shape[-1]:
            log_scale = log_scale + (
                0.5 * jnp.log(spread) if self.is_additive else _bounded(spread)
            )
        return mean, jnp.maximum(log_scale, _MIN_LOG_SCALE)

    def frame_energies(
        self, params: ModuleParams, outputs: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Energy of every predicted frame.

        Args:
          params: Parameters of the bank.
          outputs: `[..., outputs]` of a node module.
          targets: `[..., Y]` encoded targets; the leading axes broadcast.

        Returns:
          `[...]`: negative log density in nats, summed over predicted features, of
          the encoded target; or the sum of squared errors.
        """
        mean, log_scale = self.predict(params, outputs)
        if self.config.likelihood == "squared_error":
            return jnp.sum(jnp.square(targets - mean), axis=-1)
        standardized = (targets - mean) * jnp.exp(-log_scale)
        constant = 0.5 * np.log(2.0 * np.pi).astype(np.float32)
        return jnp.sum(0.5 * jnp.square(standardized) + log_scale + constant, axis=-1)

    def residuals(
        self, params: ModuleParams, outputs: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Errors in units of their scale: what `frame_energies` squares and halves.

        Scales are constants to derivatives. Where messages add up, the errors are
        linear in them: large ones are compressed by the slope at the target, which
        agrees with `frame_energies` to first order in the error.

        Args:
          params: Parameters of the bank.
          outputs: `[..., outputs]` of a node module.
          targets: `[..., Y]` encoded targets; the leading axes broadcast.

        Returns:
          `[..., Y]`.
        """
        mean, log_scale = self.predict(params, outputs)
        errors = mean - targets
        if self.is_additive and self.layout.compress:
            change = expanded(targets)
            errors = outputs[..., : mean.shape[-1]] - change
            errors = errors / (1.0 + jnp.abs(change))
        if self.config.likelihood == "squared_error":
            return np.sqrt(2.0).astype(np.float32) * errors
        return errors * jnp.exp(-jax.lax.stop_gradient(log_scale))

    def outputs(
        self,
        params: ModuleParams,
        preprocessing: Preprocessing,
        structure: Structure,
        states: jax.Array,
        slot_senders: jax.Array,
        slot_mask: jax.Array,
    ) -> jax.Array:
        """Evaluates the composed network from states, without any cache.

        Args:
          params: Parameters of the bank.
          preprocessing: Fitted constants.
          structure: Module of every slot `[N, D]` and node `[N]`.
          states: `[N, ..., F]` normalised; axes between are independent frames.
          slot_senders: `[N, D]` node that the edge of a slot comes from.
          slot_mask: `[N, D]` true at real slots.

        Returns:
          `[N, ..., outputs]`.
        """
        inputs = edge_inputs(
            self.config.geometry,
            preprocessing,
            self.layout,
            states[slot_senders],
            states[:, None],
        )
        modules, is_heard = structure.edge_modules, slot_mask
        edge = params.edge
        if self.config.null_relation:
            edge = jax.tree.map(lambda leaf: leaf[1:], edge)
            is_heard = is_heard & (modules > 0)
            modules = jnp.maximum(modules - 1, 0)
        messages = networks.apply_chosen(
            self.edge_module,
            edge,
            modules.reshape(-1),
            inputs.reshape(-1, *inputs.shape[2:]),
        )
        messages = messages.reshape(*slot_mask.shape, *messages.shape[1:])
        is_heard = is_heard.reshape(*slot_mask.shape, *(1,) * (messages.ndim - 2))
        if self.is_additive:
            messages = self._contribution(messages)
        summed = jnp.sum(jnp.where(is_heard, messages, 0.0), axis=1)
        node_inputs = (states,) if self.is_additive else (summed, states)
        outputs = networks.apply_chosen(
            self.node_module, params.node, structure.node_modules, *node_inputs
        )
        return summed + self._contribution(outputs) if self.is_additive else outputs

    def step(
        self,
        params: ModuleParams,
        preprocessing: Preprocessing,
        structure: Structure,
        states: jax.Array,
        slot_senders: jax.Array,
        slot_mask: jax.Array,
    ) -> jax.Array:
        """Most likely next normalised states; arguments as `outputs`.

        Returns:
          `[N, ..., F]`.
        """
        outputs = self.outputs(
            params, preprocessing, structure, states, slot_senders, slot_mask
        )
        mean, _ = self.predict(params, outputs)
        return decode_targets(preprocessing, self.layout, states, mean)


def select_module(values: jax.Array, modules: jax.Array) -> jax.Array:
    """Picks `values[modules[n], n]` for every n: `[M, N, ...]`, `[N]` to `[N, ...]`."""
    if values.shape[0] == 1:
        return values[0]
    index = modules.reshape(1, -1, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=0)[0]
