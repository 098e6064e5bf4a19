"""What the changes of a receiver are sums of, if every edge has a strength.

Letters: D slots, K edge modules, W windows, Y predicted changes, R rates, C = D + R
columns.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.relational.modules import entities
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.observations import Observations, ReceiverSlots
from modmeta.search import Structure


class Terms(NamedTuple):
    """Terms of the changes of one receiver, zero where nothing was observed.

    Attributes:
      columns: `[C, W, Y]` the messages of all slots, of which there may be so many;
        where entities differ, also what every offset would change.
      alone: `[W, Y]` what acts on the receiver alone.
      log_scale: `[W, Y]` how far changes are known, at strengths of 1.
      prior: `[C]` inverse variances of the columns' weights around 0.
      changes: `[D, K, W, Y]` the messages of all edge modules.
    """

    columns: jax.Array
    alone: jax.Array
    log_scale: jax.Array
    prior: jax.Array
    changes: jax.Array


def terms_of(
    modules: BoundBank,
    observed: Observations,
    slots: ReceiverSlots,
    chosen: Structure,
) -> Terms:
    """Terms of one receiver, leaves of `slots` and `chosen` `()` and `[D]`."""
    bank = modules.bank
    num_targets = bank.layout.num_targets
    own = observed.take(slots.nodes[None])
    senders = observed.take(slots.senders)
    messages = modules.projected_messages(senders.motion, own.motion)
    messages = jnp.where(slots.slot_mask[:, None, None, None, None], messages, 0.0)
    messages = modules.collect(messages[None], own.windows)[0]
    alone = jnp.moveaxis(modules.embed(own.motion), 0, 1)
    alone = modules.collect(alone, own.windows)[0]
    node, edges = chosen.node_modules, chosen.edge_modules
    messages, alone = messages[:, :, node], alone[node]  # [D, K, W, H], [W, H]
    changes = messages[..., :num_targets]
    if own.weights is not None:
        changes = jnp.where(own.weights[0][:, None] > 0, changes, 0.0)
    pick = jnp.arange(len(edges))
    # How far changes are known does not depend on strengths.
    _, log_scale = modules.predict(alone + jnp.sum(messages[pick, edges], axis=0))
    columns = changes[pick, edges]
    prior = jnp.zeros(len(edges))
    if bank.has_effects:
        unit = own.unit_changes[0][None] * bank.laws.rate_of_target().T[:, None]
        columns = jnp.concatenate([columns, unit])
        spreads = entities.spreads_of(jnp.asarray(modules.params.spreads))
        prior = jnp.concatenate([prior, jnp.square(1.0 / spreads[1:])])
    return Terms(columns, alone[:, :num_targets], log_scale, prior, changes)


def precision_of(
    modules: BoundBank, observed: Observations, slots: ReceiverSlots, terms: Terms
) -> jax.Array:
    """Inverse variances `[W, Y]`, zero where nothing was observed."""
    precision = jnp.exp(-2.0 * terms.log_scale) / modules.bank.config.span
    if observed.weights is None:
        return precision
    return precision * observed.weights[slots.nodes][:, None]
