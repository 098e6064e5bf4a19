"""A bank with its arrays: what modules say, and what that is worth against targets.

Letters: N nodes, D slots for incoming edges of a node, K edge modules, M node modules,
I intervals between frames, W windows of intervals, F features, Y predicted changes, H
size of a message as it enters a node module.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from modmeta import networks
from modmeta.relational.modules import entities
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.inputs import edge_inputs
from modmeta.relational.modules.motion import Motion, Windows, from_present, still
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
# Degrees of freedom of Student's distribution: heavy tails, and still a variance.
_FREEDOM = 4.0
# Its normaliser, log(sqrt(pi freedom) gamma(freedom / 2) / gamma((freedom + 1) / 2)).
_STUDENT_CONSTANT = float(
    0.5 * np.log(np.pi * _FREEDOM)
    + math.lgamma(_FREEDOM / 2)
    - math.lgamma((_FREEDOM + 1) / 2)
)


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
        terms = [change, jnp.exp(2.0 * _bounded(log_scale))]
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

    def predict(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Splits outputs `[..., outputs]` into mean and log-scale, each `[..., Y]`."""
        num_targets = self.bank.layout.num_targets
        mean = outputs[..., :num_targets]
        spread = outputs[..., num_targets : self.bank.num_outputs]
        log_scale = jnp.broadcast_to(self.params.log_scale, mean.shape)
        if self.bank.is_additive and self.bank.layout.compress:
            # Messages add up before the change is compressed, as forces do.
            mean = compressed(mean)
        if spread.shape[-1]:
            log_scale = log_scale + (
                0.5 * jnp.log(spread) if self.bank.is_additive else _bounded(spread)
            )
        return mean, jnp.maximum(log_scale, _MIN_LOG_SCALE)

    def frame_energies(
        self,
        outputs: jax.Array,
        targets: jax.Array,
        mean_power: float = 0.0,
        weights: jax.Array | None = None,
        durations: jax.Array | None = None,
    ) -> jax.Array:
        """Energy of every predicted change.

        Where entities differ, of the evidence that is left when what they differ in is
        integrated out, in equal parts on all windows.

        Changes over windows that overlap are not independent witnesses: every one
        counts by the share of a window that is its own.

        Args:
          outputs: `[..., outputs]` of a node module.
          targets: `[..., Y]` encoded targets; the leading axes broadcast.
          mean_power: The gradient of the mean is multiplied by this power of the
            variance, that of the variance is as it is (Seitzer et al. 2022, "On the
            pitfalls of heteroscedastic uncertainty estimation", who weight both). The
            value of the energy stays.
          weights: `[...]` what a change counts, see `Observations`; None for 1.
          durations: `[...]` lengths of the windows in frame intervals; None where all
            are `span`.

        Returns:
          `[...]`: negative log density in nats, summed over predicted features, of
          the encoded target; or the sum of squared errors.
        """
        cost = jnp.zeros(())
        if self.bank.has_effects:
            # At the most likely effects, the energy does not change with them.
            found, cost = self.effects(
                jax.lax.stop_gradient(outputs), targets, weights, durations
            )
            found = jax.lax.stop_gradient(found)
            outputs = self.with_effects(outputs, found, durations)
            cost = cost[..., None] / outputs.shape[-2]
        mean, log_scale = self.predict(outputs)
        share = 1.0 / self.bank.config.span
        if weights is not None:
            share = share * weights
        if self.bank.config.likelihood == "squared_error":
            return share * jnp.sum(jnp.square(targets - mean), axis=-1) + cost
        densities = self._densities(targets - mean, log_scale)
        if not mean_power:
            return share * jnp.sum(densities, axis=-1) + cost
        held = jax.lax.stop_gradient(log_scale)
        of_mean = self._densities(targets - mean, held)
        of_scale = self._densities(targets - jax.lax.stop_gradient(mean), log_scale)
        weighted = jnp.exp(2.0 * mean_power * held) * of_mean + of_scale
        weighted = weighted + jax.lax.stop_gradient(densities - weighted)
        return share * jnp.sum(weighted, axis=-1) + cost

    def effects(
        self,
        outputs: jax.Array,
        targets: jax.Array,
        weights: jax.Array | None = None,
        durations: jax.Array | None = None,
    ) -> tuple[entities.Effects, jax.Array]:
        """What receivers have of their own, and its cost in nats, see `entities.fit`.

        Arguments as for `frame_energies`, windows W on the last axis but one.
        """
        mean, log_scale = self.predict(outputs)
        likelihood = self.bank.config.likelihood
        if likelihood == "squared_error":
            log_scale = jnp.full_like(mean, -0.5 * np.log(2.0))
        precision = jnp.exp(-2.0 * log_scale) / self.bank.config.span
        if weights is not None:
            precision = precision * weights[..., None]
        return entities.robust_fit(
            self._design(outputs, durations),
            targets - mean,
            jax.lax.stop_gradient(precision),
            jax.lax.stop_gradient(log_scale),
            entities.spreads_of(self.params.spreads),
            _FREEDOM if likelihood == "student" else None,
        )

    def with_effects(
        self,
        outputs: jax.Array,
        effects: entities.Effects,
        durations: jax.Array | None = None,
    ) -> jax.Array:
        """Outputs `[..., W, outputs]` with what receivers have of their own."""
        added = entities.changes(self._design(outputs, durations), effects)
        num_targets = self.bank.layout.num_targets
        return outputs.at[..., :num_targets].add(added)

    def _design(
        self, outputs: jax.Array, durations: jax.Array | None
    ) -> entities.Design:
        laws = self.bank.laws
        if durations is None:
            shape = (1,) * (outputs.ndim - 1)
            durations = jnp.full(shape, float(self.bank.config.span))
        pull = outputs[..., self.bank.num_outputs :]
        unit = laws.unit_changes(self.preprocessing, durations)
        return entities.Design(
            pull,
            jnp.broadcast_to(unit, pull.shape),
            jnp.asarray(laws.rate_of_target()),
        )

    def _densities(self, errors: jax.Array, log_scale: jax.Array) -> jax.Array:
        """Negative log densities `[..., Y]` of errors."""
        squared = jnp.square(errors * jnp.exp(-log_scale))
        if self.bank.config.likelihood == "student":
            tails = 0.5 * (_FREEDOM + 1.0) * jnp.log1p(squared / _FREEDOM)
            return tails + log_scale + _STUDENT_CONSTANT
        constant = 0.5 * np.log(2.0 * np.pi).astype(np.float32)
        return 0.5 * squared + log_scale + constant

    def residuals(
        self,
        outputs: jax.Array,
        targets: jax.Array,
        weights: jax.Array | None = None,
        durations: jax.Array | None = None,
    ) -> jax.Array:
        """Errors in units of their scale: what `frame_energies` squares and halves.

        Scales are constants to derivatives. Where messages add up, the errors are
        linear in them: large ones are compressed by the slope at the target, which
        agrees with `frame_energies` to first order in the error. Under Student's
        distribution, an error counts as much as iterated least squares would let it.

        Args:
          outputs: `[..., outputs]` of a node module.
          targets: `[..., Y]` encoded targets; the leading axes broadcast.
          weights: `[...]` what a change counts; None for 1.
          durations: As for `frame_energies`.

        Returns:
          `[..., Y]`.
        """
        if self.bank.has_effects:
            found, _ = self.effects(outputs, targets, weights, durations)
            outputs = self.with_effects(outputs, found, durations)
        mean, log_scale = self.predict(outputs)
        errors = mean - targets
        if self.bank.is_additive and self.bank.layout.compress:
            change = expanded(targets)
            errors = outputs[..., : mean.shape[-1]] - change
            errors = errors / (1.0 + jnp.abs(change))
        share = np.float32(self.bank.config.span**-0.5)
        if weights is not None:
            share = share * jnp.sqrt(weights)[..., None]
        if self.bank.config.likelihood == "squared_error":
            return np.sqrt(2.0).astype(np.float32) * share * errors
        errors = errors * jnp.exp(-jax.lax.stop_gradient(log_scale))
        if self.bank.config.likelihood == "student":
            squared = jax.lax.stop_gradient(jnp.square(errors))
            errors = errors * jnp.sqrt((_FREEDOM + 1.0) / (_FREEDOM + squared))
        return share * errors

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
    ) -> jax.Array:
        """Evaluates the composed network along given paths, without any cache.

        Args:
          structure: Module of every slot `[N, D]` and node `[N]`.
          motion: Motion of the nodes, leaves `[N, I, ...]`.
          slot_senders: `[N, D]` node that the edge of a slot comes from.
          slot_mask: `[N, D]` true at real slots.
          windows: See `collect`.

        Returns:
          `[N, W, outputs]`.
        """
        edge, modules, is_heard = self.heard(structure, slot_mask)

        def by_slot(leaf):
            """Leaves of nodes `[N, ...]` as those of the receivers of all slots."""
            shape = (*slot_mask.shape, *leaf.shape[1:])
            return jnp.broadcast_to(leaf[:, None], shape).reshape(-1, *leaf.shape[1:])

        senders = jax.tree.map(lambda leaf: leaf[slot_senders.reshape(-1)], motion)
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
