"""What outputs of a bank are worth against observed changes.

Letters: M node modules, W windows of intervals, Y predicted changes.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from modmeta.relational.modules import entities
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.preprocessing import (
    Preprocessing,
    compressed,
    expanded,
)

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


def bounded(log_scale: jax.Array) -> jax.Array:
    """Log-scales within what a variance may be, smoothly."""
    return _LOG_SCALE_RANGE * jnp.tanh(log_scale / _LOG_SCALE_RANGE)


@struct.dataclass
class Likelihood:
    """Densities of changes under a bank with its arrays; a pytree.

    Attributes:
      bank: Static description.
      params: Parameters of the modules.
      preprocessing: Fitted constants.
    """

    bank: ModuleBank = struct.field(pytree_node=False)
    params: ModuleParams
    preprocessing: Preprocessing

    @property
    def freedom(self) -> float | None:
        """Degrees of freedom of Student's distribution; None for others."""
        return _FREEDOM if self.bank.config.likelihood == "student" else None

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
                0.5 * jnp.log(spread) if self.bank.is_additive else bounded(spread)
            )
        return mean, jnp.maximum(log_scale, _MIN_LOG_SCALE)

    def frame_energies(
        self,
        outputs: jax.Array,
        targets: jax.Array,
        mean_power: float = 0.0,
        weights: jax.Array | None = None,
        unit_changes: jax.Array | None = None,
        is_even: bool | jax.Array = False,
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
          unit_changes: `[..., Y]`, see `Observations`; needed where entities differ.
          is_even: `()` whether the gradient of the mean is multiplied by that power of
            the geometric mean of all variances instead: of the likelihood, in a size
            that does not drown the gradient of the variance where both are clipped.

        Returns:
          `[...]`: negative log density in nats, summed over predicted features, of
          the encoded target; or the sum of squared errors.
        """
        cost = jnp.zeros(())
        if self.bank.has_effects:
            # At the most likely effects, the energy does not change with them.
            found, cost = self.effects(
                jax.lax.stop_gradient(outputs), targets, weights, unit_changes
            )
            found = jax.lax.stop_gradient(found)
            outputs = self.with_effects(outputs, found, unit_changes)
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
        level = jnp.where(is_even, jnp.mean(held), held)
        weighted = jnp.exp(2.0 * mean_power * level) * of_mean + of_scale
        weighted = weighted + jax.lax.stop_gradient(densities - weighted)
        return share * jnp.sum(weighted, axis=-1) + cost

    def effects(
        self,
        outputs: jax.Array,
        targets: jax.Array,
        weights: jax.Array | None = None,
        unit_changes: jax.Array | None = None,
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
            self._design(outputs, unit_changes),
            targets - mean,
            jax.lax.stop_gradient(precision),
            jax.lax.stop_gradient(log_scale),
            entities.spreads_of(jnp.asarray(self.params.spreads)),
            self.freedom,
        )

    def with_effects(
        self,
        outputs: jax.Array,
        effects: entities.Effects,
        unit_changes: jax.Array | None = None,
    ) -> jax.Array:
        """Outputs `[..., W, outputs]` with what receivers have of their own."""
        added = entities.changes(self._design(outputs, unit_changes), effects)
        change, rest = jnp.split(outputs, [self.bank.layout.num_targets], axis=-1)
        return jnp.concatenate([change + added, rest], axis=-1)

    def _design(
        self, outputs: jax.Array, unit_changes: jax.Array | None
    ) -> entities.Design:
        pull = outputs[..., self.bank.num_outputs :]
        return entities.Design(
            pull,
            jnp.broadcast_to(jnp.asarray(unit_changes), pull.shape),
            jnp.asarray(self.bank.laws.rate_of_target()),
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
        unit_changes: jax.Array | None = None,
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
          unit_changes: As for `frame_energies`.

        Returns:
          `[..., Y]`.
        """
        if self.bank.has_effects:
            found, _ = self.effects(outputs, targets, weights, unit_changes)
            outputs = self.with_effects(outputs, found, unit_changes)
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
