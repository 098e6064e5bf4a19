"""Hidden entities fitted in rounds: relations are chosen, then paths are fitted.

Letters: V visible entities, H hidden ones, K relations, A assignments of the slots of a
receiver.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.hidden import choosing, fitting
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.fitting import Fit
from modmeta.relational.hidden.scenes import Guess, Scene, until
from modmeta.relational.modules.bound_bank import BoundBank


def is_joint(config: HiddenConfig, num_pieces: int) -> bool:
    """Whether relations of all pairs are chosen together, see `choosing.jointly`.

    Paths in pieces may go anywhere from piece to piece, so that solving for them tells
    nothing.
    """
    return bool(config.symmetric) and num_pieces == 1


def refine(
    modules: BoundBank,
    scene: Scene,
    guess: Guess,
    assignments: jax.Array,
    config: HiddenConfig,
) -> Fit:
    """Chooses relations and fits paths in turn; the best of the last two rounds counts.

    Pieces are joined more and more tightly. A path of one piece sees a share of the
    recording at first, and all of it in the last rounds.
    """
    is_together = is_joint(config, len(guess.start))

    def each_on_its_own(early, guess):
        energies = fitting.energies_of(
            modules, early, guess, assignments, config.domain
        )
        return choosing.for_each_receiver(
            guess, energies, assignments, config.symmetric
        )

    def body(carry, given):
        fit, best = carry
        share, looseness, is_last = given
        early = until(scene, share)
        if is_together:
            fit = choosing.jointly(modules, early, fit, config.domain)
        else:
            fit = each_on_its_own(early, fit.guess)
        fit = fitting.descend(
            modules, early, fit, config.num_steps, config.domain, looseness
        )
        is_better = (fit.energy < best.energy) & is_last
        best = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), fit, best)
        return (fit, best), None

    num_visible = scene.drive.shape[2]
    nothing = jnp.zeros((num_visible, assignments.shape[1]), assignments.dtype)
    first = Fit(guess, nothing, jnp.float32(jnp.inf))
    if is_together:
        # Those of the guess go on; the visible ones have none yet.
        early = until(scene, jnp.float32(config.first_share))
        first = each_on_its_own(early, guess)._replace(guess=guess)
    rounds = np.arange(config.num_rounds)
    # From 0 to 1, which is there in the last two.
    way = np.minimum(rounds / max(config.num_rounds - 2, 1), 1.0)
    way[-2:] = 1.0
    shares = config.first_share + (1.0 - config.first_share) * way
    if len(guess.start) > 1:
        shares = np.ones_like(shares)
    looseness = fitting.LOOSE * (fitting.TIGHT / fitting.LOOSE) ** way
    given = (
        jnp.asarray(shares, jnp.float32),
        jnp.asarray(looseness, jnp.float32),
        jnp.asarray(way >= 1.0),
    )
    (_, best), _ = jax.lax.scan(body, (first, first), given)
    return best
