"""A bank with its arrays: what modules say, and what that is worth against targets.

Letters: N nodes, D slots for incoming edges of a node, K edge modules, M node modules,
T frames, F features, Y predicted changes, H size of a message as it enters a node
module.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from modmeta import networks
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.inputs import edge_inputs
from modmeta.relational.modules.preprocessing import (
    Preprocessing,
    compressed,
    decode_targets,
    encode_targets,
    expanded,
)
from modmeta.search import Structure

_LOG_SCALE_RANGE = 5.0
_MIN_LOG_SCALE = -9.0


def _bounded(log_scale: jax.Array) -> jax.Array:
    return _LOG_SCALE_RANGE * jnp.tanh(log_scale / _LOG_SCALE_RANGE)


@struct.dataclass
class BoundBank:
    """A bank with its arrays; a pytree whose methods are pure functions of them.

    Attributes:
      bank: Static description.
      params: Parameters of the modules.
      preprocessing: Fitted constants.
    """

    bank: ModuleBank = struct.field(pytree_node=False)
    params: ModuleParams
    preprocessing: Preprocessing

    def edge_inputs(self, senders: jax.Array, receivers: jax.Array) -> jax.Array:
        """Inputs of the edge modules, see `inputs.edge_inputs`."""
        return edge_inputs(
            self.bank.config.geometry,
            self.preprocessing,
            self.bank.layout,
            senders,
            receivers,
        )

    def encode(self, states: jax.Array, next_states: jax.Array) -> jax.Array:
        """Targets `[..., Y]`, see `preprocessing.encode_targets`."""
        return encode_targets(self.preprocessing, self.bank.layout, states, next_states)

    def decode(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """Next normalised states `[..., F]`, see `preprocessing.decode_targets`."""
        return decode_targets(self.preprocessing, self.bank.layout, states, targets)

    def projected_messages(self, senders: jax.Array, receivers: jax.Array) -> jax.Array:
        """Messages of every edge module as they enter the node modules.

        Args:
          senders: `[..., T, F]` normalised states at the senders.
          receivers: `[..., T, F]` at the receivers; the leading axes broadcast.

        Returns:
          `[..., K, M, T, H]`, of which sums may be taken: messages times the first
          layer of every node module, which is linear and without bias, or what they
          add to the outputs. Zeros for edge module 0 if it is the null module.
        """
        config = self.bank.config
        inputs = self.edge_inputs(senders, receivers)
        project = self._addition if self.bank.is_additive else self._projection
        # Unrolled: in one product of all modules XLA transposes all messages twice.
        modules = range(int(config.null_relation), config.num_relations)
        projected = [
            project(networks.copy_of(self.params.edge, k), inputs) for k in modules
        ]
        if config.null_relation:
            projected.insert(0, jnp.zeros_like(projected[0]))
        return jnp.stack(projected, axis=-4)

    def _contribution(self, outputs: jax.Array) -> jax.Array:
        """Outputs `[..., outputs]` as terms of a sum: changes, and their variances."""
        num_targets = self.bank.layout.num_targets
        change, log_scale = outputs[..., :num_targets], outputs[..., num_targets:]
        return jnp.concatenate([change, jnp.exp(2.0 * _bounded(log_scale))], axis=-1)

    def _addition(self, edge: Any, inputs: jax.Array) -> jax.Array:
        """What the messages of one edge module add, `[..., M, T, H]`."""
        outputs = self.bank.edge_module.apply({"params": edge}, inputs)
        messages = self._contribution(outputs)
        shape = list(messages.shape)
        shape.insert(-2, self.bank.config.num_node_modules)
        return jnp.broadcast_to(jnp.expand_dims(messages, -3), shape)

    def _projection(self, edge: Any, inputs: jax.Array) -> jax.Array:
        """Messages of one edge module in the first layers, `[..., M, T, H]`."""
        config = self.bank.config
        first = self.params.node["message_layer"]["kernel"]
        num_node_modules, _, num_hidden = first.shape
        first = jnp.moveaxis(first, 0, 1).reshape(first.shape[1], -1)
        hidden_module = networks.MLP(
            config.edge_sizes, config.activation, activate_output=True
        )
        if config.activate_messages:
            messages = self.bank.edge_module.apply({"params": edge}, inputs)
            projected = networks.row_product(messages, first)
        else:
            # Two linear layers in a row: multiplied once, not at every message.
            edge = dict(edge)
            last = edge.pop(f"layer_{len(config.edge_sizes)}")
            hidden = hidden_module.apply({"params": edge}, inputs)
            projected = networks.row_product(hidden, last["kernel"] @ first)
            bias = last["bias"] @ first
            projected = projected + jnp.broadcast_to(bias, projected.shape)
        shape = (*projected.shape[:-1], num_node_modules, num_hidden)
        return jnp.moveaxis(projected.reshape(shape), -2, -3)

    def embed(self, states: jax.Array) -> jax.Array:
        """Embeds own states `[..., F]` to `[M, ..., H]`, to be added to messages."""
        module, params = self.bank.node_module, self.params.node
        if self.bank.is_additive:
            return self._contribution(networks.apply_bank(module, params, states))
        return networks.apply_bank(module, params, states, method="embed")

    def update(self, hidden: jax.Array) -> jax.Array:
        """Messages plus own states `[M, ..., H]` to outputs `[M, ..., outputs]`."""
        if self.bank.is_additive:
            return hidden
        module = self.bank.node_module
        return jax.vmap(lambda p, h: module.apply({"params": p}, h, method="update"))(
            self.params.node, hidden
        )

    def predict(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Splits outputs `[..., outputs]` into mean and log-scale, each `[..., Y]`."""
        num_targets = self.bank.layout.num_targets
        mean, spread = outputs[..., :num_targets], outputs[..., num_targets:]
        log_scale = jnp.broadcast_to(self.params.log_scale, mean.shape)
        if self.bank.is_additive and self.bank.layout.compress:
            # Messages add up before the change is compressed, as forces do.
            mean = compressed(mean)
        if spread.shape[-1]:
            log_scale = log_scale + (
                0.5 * jnp.log(spread) if self.bank.is_additive else _bounded(spread)
            )
        return mean, jnp.maximum(log_scale, _MIN_LOG_SCALE)

    def frame_energies(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """Energy of every predicted frame.

        Args:
          outputs: `[..., outputs]` of a node module.
          targets: `[..., Y]` encoded targets; the leading axes broadcast.

        Returns:
          `[...]`: negative log density in nats, summed over predicted features, of
          the encoded target; or the sum of squared errors.
        """
        mean, log_scale = self.predict(outputs)
        if self.bank.config.likelihood == "squared_error":
            return jnp.sum(jnp.square(targets - mean), axis=-1)
        standardized = (targets - mean) * jnp.exp(-log_scale)
        constant = 0.5 * np.log(2.0 * np.pi).astype(np.float32)
        return jnp.sum(0.5 * jnp.square(standardized) + log_scale + constant, axis=-1)

    def residuals(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """Errors in units of their scale: what `frame_energies` squares and halves.

        Scales are constants to derivatives. Where messages add up, the errors are
        linear in them: large ones are compressed by the slope at the target, which
        agrees with `frame_energies` to first order in the error.

        Args:
          outputs: `[..., outputs]` of a node module.
          targets: `[..., Y]` encoded targets; the leading axes broadcast.

        Returns:
          `[..., Y]`.
        """
        mean, log_scale = self.predict(outputs)
        errors = mean - targets
        if self.bank.is_additive and self.bank.layout.compress:
            change = expanded(targets)
            errors = outputs[..., : mean.shape[-1]] - change
            errors = errors / (1.0 + jnp.abs(change))
        if self.bank.config.likelihood == "squared_error":
            return np.sqrt(2.0).astype(np.float32) * errors
        return errors * jnp.exp(-jax.lax.stop_gradient(log_scale))

    def outputs(
        self,
        structure: Structure,
        states: jax.Array,
        slot_senders: jax.Array,
        slot_mask: jax.Array,
    ) -> jax.Array:
        """Evaluates the composed network from states, without any cache.

        Args:
          structure: Module of every slot `[N, D]` and node `[N]`.
          states: `[N, ..., F]` normalised; axes between are independent frames.
          slot_senders: `[N, D]` node that the edge of a slot comes from.
          slot_mask: `[N, D]` true at real slots.

        Returns:
          `[N, ..., outputs]`.
        """
        inputs = self.edge_inputs(states[slot_senders], states[:, None])
        modules, is_heard = structure.edge_modules, slot_mask
        edge = self.params.edge
        if self.bank.config.null_relation:
            edge = jax.tree.map(lambda leaf: leaf[1:], edge)
            is_heard = is_heard & (modules > 0)
            modules = jnp.maximum(modules - 1, 0)
        messages = networks.apply_chosen(
            self.bank.edge_module,
            edge,
            modules.reshape(-1),
            inputs.reshape(-1, *inputs.shape[2:]),
        )
        messages = messages.reshape(*slot_mask.shape, *messages.shape[1:])
        is_heard = is_heard.reshape(*slot_mask.shape, *(1,) * (messages.ndim - 2))
        is_additive = self.bank.is_additive
        if is_additive:
            messages = self._contribution(messages)
        summed = jnp.sum(jnp.where(is_heard, messages, 0.0), axis=1)
        node_inputs = (states,) if is_additive else (summed, states)
        outputs = networks.apply_chosen(
            self.bank.node_module,
            self.params.node,
            structure.node_modules,
            *node_inputs,
        )
        return summed + self._contribution(outputs) if is_additive else outputs

    def step(
        self,
        structure: Structure,
        states: jax.Array,
        slot_senders: jax.Array,
        slot_mask: jax.Array,
    ) -> jax.Array:
        """Most likely next normalised states `[N, ..., F]`; arguments as `outputs`."""
        outputs = self.outputs(structure, states, slot_senders, slot_mask)
        mean, _ = self.predict(outputs)
        return self.decode(states, mean)


def select_module(values: jax.Array, modules: jax.Array) -> jax.Array:
    """Picks `values[modules[n], n]` for every n: `[M, N, ...]`, `[N]` to `[N, ...]`."""
    if values.shape[0] == 1:
        return values[0]
    index = modules.reshape(1, -1, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=0)[0]
