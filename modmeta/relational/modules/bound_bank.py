"""A bank with its arrays: what modules say, and what that is worth against targets.

Letters: N nodes, D slots for incoming edges of a node, K edge modules, M node modules,
I intervals between frames, W windows of intervals, F features, Y predicted changes, H
size of a message as it enters a node module.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from modmeta import networks
from modmeta.relational.modules.inputs import edge_inputs
from modmeta.relational.modules.likelihood import Likelihood, bounded
from modmeta.relational.modules.motion import Motion, Windows, from_present, still
from modmeta.relational.modules.preprocessing import (
    decode_targets,
    encode_targets,
)
from modmeta.search import Structure


@struct.dataclass
class BoundBank(Likelihood):
    """A bank with its arrays; a pytree whose methods are pure functions of them."""

    def edge_inputs(self, senders: jax.Array, receivers: jax.Array) -> jax.Array:
        """Inputs of the edge modules, see `inputs.edge_inputs`."""
        return edge_inputs(
            self.bank.config.geometry,
            self.preprocessing,
            self.bank.layout,
            senders,
            receivers,
        )

    def encode(
        self,
        states: jax.Array,
        next_states: jax.Array,
        duration: jax.Array | None = None,
    ) -> jax.Array:
        """Targets `[..., Y]`, see `preprocessing.encode_targets`."""
        return encode_targets(
            self.preprocessing, self.bank.layout, states, next_states, duration
        )

    def decode(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """Next normalised states `[..., F]`, see `preprocessing.decode_targets`."""
        return decode_targets(self.preprocessing, self.bank.layout, states, targets)

    def projected_messages(self, senders: Motion, receivers: Motion) -> jax.Array:
        """Messages of every edge module as they enter the node modules.

        Args:
          senders: Motion of the senders, leaves `[..., I, ...]`.
          receivers: Motion of the receivers; the leading axes broadcast.

        Returns:
          `[..., K, M, I, H]`, of which sums may be taken: messages times the first
          layer of every node module, which is linear and without bias, or what they
          add to the outputs. Zeros for edge module 0 if it is the null module, and
          where a sender is not there.
        """
        config = self.bank.config
        if self.bank.is_additive:
            project = self._addition
        else:
            project = self._projection
        # Unrolled: in one product of all modules XLA transposes all messages twice.
        modules = range(int(config.null_relation), config.num_relations)
        projected = [
            project(networks.copy_of(self.params.edge, k), senders, receivers)
            for k in modules
        ]
        if config.null_relation:
            projected.insert(0, jnp.zeros_like(projected[0]))
        return from_present(senders.is_present, jnp.stack(projected, axis=-4), 2)

    def _contribution(self, outputs: jax.Array, is_message: bool = True) -> jax.Array:
        """Outputs `[..., outputs]` as terms of a sum: changes, and their variances.

        Where messages have a factor, the changes once more, but those of messages only.
        """
        num_targets = self.bank.layout.num_targets
        change = outputs[..., :num_targets]
        log_scale = outputs[..., num_targets : self.bank.num_outputs]
        terms = [change, jnp.exp(2.0 * bounded(log_scale))]
        if self.bank.has_effects:
            terms.append(change if is_message else jnp.zeros_like(change))
        return jnp.concatenate(terms, axis=-1)

    def _message(self, edge: Any, senders: Motion, receivers: Motion) -> jax.Array:
        """What one edge module, whose outputs add up, says: `[..., I, outputs]`."""
        if self.bank.has_laws:
            return self.bank.laws.edge(self.preprocessing, edge, senders, receivers)
        inputs = self.edge_inputs(senders.start, receivers.start)
        return self.bank.edge_module.apply({"params": edge}, inputs)

    def _own(self, node: Any, motion: Motion) -> jax.Array:
        """What one node module adds to that: `[..., I, outputs]`."""
        if self.bank.has_laws:
            return self.bank.laws.node(self.preprocessing, node, motion)
        return self.bank.node_module.apply({"params": node}, motion.start)

    def _addition(self, edge: Any, senders: Motion, receivers: Motion) -> jax.Array:
        """What the messages of one edge module add, `[..., M, I, H]`."""
        messages = self._contribution(self._message(edge, senders, receivers))
        shape = list(messages.shape)
        shape.insert(-2, self.bank.config.num_node_modules)
        return jnp.broadcast_to(jnp.expand_dims(messages, -3), shape)

    def _projection(self, edge: Any, senders: Motion, receivers: Motion) -> jax.Array:
        """Messages of one edge module in the first layers, `[..., M, I, H]`."""
        config = self.bank.config
        inputs = self.edge_inputs(senders.start, receivers.start)
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

    def embed(self, motion: Motion) -> jax.Array:
        """Embeds own states to `[M, ..., I, H]`, to be added to messages.

        Args:
          motion: Motion of the nodes, leaves `[..., I, ...]`.
        """
        module, params = self.bank.node_module, self.params.node
        if self.bank.is_additive:
            own = jax.vmap(lambda node: self._own(node, motion))(params)
            return self._contribution(own, is_message=False)
        return networks.apply_bank(module, params, motion.start, method="embed")

    def collect(self, values: jax.Array, windows: Windows | None) -> jax.Array:
        """Sums over the intervals of windows, `[N, ..., I, H]` to `[N, ..., W, H]`.

        Args:
          values: Messages or embedded states of N nodes.
          windows: Leaves `[W, I]` and `[N, W, I]`; None where every interval is one.
        """
        if windows is None:
            return values
        collected = [
            self.bank.laws.collect(self.preprocessing, part, windows)
            for part in jnp.split(values, [self.bank.num_outputs], axis=-1)
            if part.shape[-1]
        ]
        return jnp.concatenate(collected, axis=-1)

    def update(self, hidden: jax.Array) -> jax.Array:
        """Messages plus own states `[M, ..., H]` to outputs `[M, ..., outputs]`."""
        if self.bank.is_additive:
            return hidden
        module = self.bank.node_module
        return jax.vmap(lambda p, h: module.apply({"params": p}, h, method="update"))(
            self.params.node, hidden
        )

    def heard(
        self, structure: Structure, slot_mask: jax.Array
    ) -> tuple[Any, jax.Array, jax.Array]:
        """Edge modules that send messages, and where they sit.

        Args:
          structure: Module of every slot `[N, D]`.
          slot_mask: `[N, D]` true at real slots.

        Returns:
          Their parameters, the null module left out, the index among them `[N, D]`,
          and whether a slot hears any `[N, D]`.
        """
        edge, modules = self.params.edge, structure.edge_modules
        if not self.bank.config.null_relation:
            return edge, modules, slot_mask
        edge = jax.tree.map(lambda leaf: leaf[1:], edge)
        return edge, jnp.maximum(modules - 1, 0), slot_mask & (modules > 0)

    def outputs(
        self,
        structure: Structure,
        motion: Motion,
        slot_senders: jax.Array,
        slot_mask: jax.Array,
        windows: Windows | None = None,
        sender_motion: Motion | None = None,
    ) -> jax.Array:
        """Evaluates the composed network along given paths, without any cache.

        Args:
          structure: Module of every slot `[N, D]` and node `[N]`.
          motion: Motion of the nodes, leaves `[N, I, ...]`.
          slot_senders: `[N, D]` node that the edge of a slot comes from.
          slot_mask: `[N, D]` true at real slots.
          windows: See `collect`.
          sender_motion: Motion of the nodes as they are heard; None for the same.

        Returns:
          `[N, W, outputs]`.
        """
        edge, modules, is_heard = self.heard(structure, slot_mask)

        def by_slot(leaf):
            """Leaves of nodes `[N, ...]` as those of the receivers of all slots."""
            shape = (*slot_mask.shape, *leaf.shape[1:])
            return jnp.broadcast_to(leaf[:, None], shape).reshape(-1, *leaf.shape[1:])

        heard = motion if sender_motion is None else sender_motion
        senders = jax.tree.map(lambda leaf: leaf[slot_senders.reshape(-1)], heard)
        messages = networks.apply_chosen(
            self._message,
            edge,
            modules.reshape(-1),
            senders,
            jax.tree.map(by_slot, motion),
        )
        messages = messages.reshape(*slot_mask.shape, *messages.shape[1:])
        is_heard = is_heard.reshape(*slot_mask.shape, *(1,) * (messages.ndim - 2))
        is_additive = self.bank.is_additive
        if is_additive:
            messages = self._contribution(messages)
        if motion.is_present is not None:
            messages = from_present(motion.is_present[slot_senders], messages)
        summed = jnp.sum(jnp.where(is_heard, messages, 0.0), axis=1)
        node = self.params.node
        if is_additive:
            own = networks.apply_chosen(self._own, node, structure.node_modules, motion)
            own = self._contribution(own, is_message=False)
            return self.collect(summed + own, windows)

        def update(node, summed, motion):
            return self.bank.node_module.apply({"params": node}, summed, motion.start)

        return networks.apply_chosen(
            update, node, structure.node_modules, summed, motion
        )

    def step(
        self,
        structure: Structure,
        states: jax.Array,
        slot_senders: jax.Array,
        slot_mask: jax.Array,
    ) -> jax.Array:
        """Most likely normalised states one frame after `[N, I, F]`.

        For messages from the start of an interval; laws are integrated, see
        `integration.advance`. Arguments as for `outputs`.
        """
        outputs = self.outputs(structure, still(states), slot_senders, slot_mask)
        mean, _ = self.predict(outputs)
        return self.decode(states, mean)


def select_module(values: jax.Array, modules: jax.Array) -> jax.Array:
    """Picks `values[modules[n], n]` for every n: `[M, N, ...]`, `[N]` to `[N, ...]`."""
    if values.shape[0] == 1:
        return values[0]
    index = modules.reshape(1, -1, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=0)[0]
