"""Which relations explain what was seen best, around a guess of hidden entities.

Given a path, receivers are independent, and each takes the best of its assignments.
That stops at relations which are wrong at several receivers at once: the path that they
led to speaks for them. Where both edges of a pair have one relation, pairs are chosen
jointly instead, and the path is solved for anew with every choice: errors are linear in
the messages of the visible pairs, and nearly so in where a path begins, so that what is
left is a quadratic form of the pairs. Relations of the hidden ones, which bend the
path, are changed one at a time, and the path is integrated under each.

Letters: V visible entities, H hidden ones, D = V - 1 slots, K relations, A assignments
of the slots of a receiver, P numbers that a path begins with, W windows, Y targets, R
pairs of visible entities, C changes of the relations of hidden ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.domains import Domain
from modmeta.relational.hidden.fitting import Fit, outputs_of, prior_precision
from modmeta.relational.hidden.scenes import (
    Guess,
    Scene,
    hidden_messages,
    hidden_pieces,
)
from modmeta.relational.modules.bound_bank import BoundBank

# Steps in which pairs are changed, two at most in each.
_MOST_STEPS = 8
# What may be left to gain at the end, as a share of the form, and of curvatures that
# they are raised by.
_TOLERANCE, _RIDGE = 1e-6, 1e-6


def for_each_receiver(
    guess: Guess, energies: jax.Array, assignments: jax.Array, symmetric: bool
) -> Fit:
    """The relations of lowest energy, given energies `[V, A]` under a guess."""
    edges = assignments[jnp.argmin(energies, axis=1)]
    num_visible, num_hidden = len(edges), guess.start.shape[1]
    if symmetric:
        outgoing = edges[:, edges.shape[1] - num_hidden :].T
        incoming = guess.incoming.at[:, :num_visible].set(outgoing)
        guess = guess._replace(incoming=incoming)
    return Fit(guess, edges, jnp.float32(jnp.inf))


def pairs_of(num_visible: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends `[R]` of all pairs; the first comes before the second."""
    return np.triu_indices(num_visible, 1)


def single_changes(num_visible: int, num_hidden: int, num_relations: int) -> np.ndarray:
    """What is added to relations, modulo K: nothing, then to one pair at a time.

    Returns:
      `[C, H, V + H - 1]`, as `Guess.incoming`; both ends of two hidden ones together.
    """
    ends = [[(one, node)] for one in range(num_hidden) for node in range(num_visible)]
    for one in range(num_hidden):
        for other in range(one + 1, num_hidden):
            # Each leaves itself out of those that it hears.
            ends.append([(one, num_visible + other - 1), (other, num_visible + one)])
    shape = (num_hidden, num_visible + num_hidden - 1)
    found = [np.zeros(shape, np.int32)]
    for places in ends:
        for step in range(1, num_relations):
            change = np.zeros(shape, np.int32)
            for place in places:
                change[place] = step
            found.append(change)
    return np.stack(found)


def jointly(modules: BoundBank, scene: Scene, first: Fit, domain: Domain) -> Fit:
    """The relations of all pairs that explain most, the path being solved for.

    Args:
      modules: The bank with its arrays.
      scene: The system.
      first: A guess, of one piece, and relations to begin with.
      domain: Where bodies can be.
    """
    guess, edges = first.guess, first.edges
    num_visible, num_hidden = len(edges), guess.start.shape[1]
    num_relations = modules.bank.config.num_relations
    one, other = pairs_of(num_visible)
    changes = single_changes(num_visible, num_hidden, num_relations)
    incoming = (guess.incoming[None] + changes) % num_relations
    scale = _scale(modules, scene, edges)
    known = _pair_errors(modules, scene) * scale[..., None]

    def settled(incoming):
        form = quadratic_form(
            modules, scene, guess._replace(incoming=incoming), known, scale, domain
        )
        # Slots leave the receiver out.
        return best_pairs(form, edges[one, other - 1], num_relations)

    chosen, left = jax.vmap(settled)(incoming)
    best = jnp.argmin(jnp.where(jnp.isfinite(left), left, jnp.inf))
    pairs, incoming = chosen[best], incoming[best]
    visible = edges[:, : num_visible - 1]
    visible = visible.at[one, other - 1].set(pairs).at[other, one].set(pairs)
    edges = jnp.concatenate([visible, incoming[:, :num_visible].T], axis=1)
    return Fit(guess._replace(incoming=incoming), edges, jnp.float32(jnp.inf))


def _scale(modules: BoundBank, scene: Scene, edges: jax.Array) -> jax.Array:
    """What errors `[V, W, Y]` are multiplied by: as the model expects them."""
    num_slots = scene.cache.messages.shape[1]
    outputs = outputs_of(modules, scene.cache, edges[:, :num_slots])
    _, log_scale = modules.predict(outputs)
    scale = jnp.exp(-log_scale)
    if scene.cache.weights is not None:
        scale = scale * jnp.sqrt(scene.cache.weights)[..., None]
    return scale


def _pair_errors(modules: BoundBank, scene: Scene) -> jax.Array:
    """What pairs under every relation add to errors, `[V, W, Y, R K + 1]`.

    The last column is what is there without any.
    """
    cache, num_targets = scene.cache, modules.bank.layout.num_targets
    messages = cache.messages[:, :, :, 0, :, :num_targets]
    num_visible, _, num_relations, *shape = messages.shape
    one, other = pairs_of(num_visible)
    pair = np.arange(len(one))
    added = jnp.zeros((len(pair), num_visible, num_relations, *shape))
    added = added.at[pair, one].set(messages[one, other - 1])
    added = added.at[pair, other].set(messages[other, one])
    added = jnp.moveaxis(added, (0, 2), (-2, -1))
    added = added.reshape(*added.shape[:-2], -1)
    own = cache.embedded[:, 0, :, :num_targets] - cache.targets
    return jnp.concatenate([added, own[..., None]], axis=-1)


def quadratic_form(
    modules: BoundBank,
    scene: Scene,
    guess: Guess,
    known: jax.Array,
    scale: jax.Array,
    domain: Domain,
) -> jax.Array:
    """Twice the energy as a form of the relations of visible pairs, `[R K + 1] * 2`.

    Args:
      modules: The bank with its arrays.
      scene: The system.
      guess: Hidden entities, which act on whom they hear; solved for where they begin.
      known: `[V, W, Y, R K + 1]` errors that pairs add, in units of their scale.
      scale: `[V, W, Y]` of errors.
      domain: Where bodies can be.
    """
    num_visible, num_targets = scale.shape[0], scale.shape[2]
    num_relations = modules.bank.config.num_relations
    heard = jax.nn.one_hot(guess.incoming[:, :num_visible], num_relations)

    def caused(moved):
        """Errors `[V, W, Y]` that hidden entities add."""
        moved = guess._replace(start=guess.start + moved)
        pieces = hidden_pieces(modules, scene, moved, domain)
        messages = hidden_messages(modules, scene, pieces)[..., 0, :, :num_targets]
        found = scale * jnp.einsum("hvk,vhkwy->vwy", heard, messages)
        return found, found

    slopes, added = jax.jacfwd(caused, has_aux=True)(jnp.zeros_like(guess.start))
    size = guess.start.size
    root = jnp.sqrt(prior_precision(modules, guess.start)).reshape(-1)
    slopes = jnp.concatenate([slopes.reshape(-1, size), jnp.diag(root)])
    columns = known.at[..., -1].add(added).reshape(-1, known.shape[-1])
    prior = jnp.zeros((size, known.shape[-1]))
    prior = prior.at[:, -1].set(root * guess.start.reshape(-1))
    columns = jnp.concatenate([columns, prior])
    curvature = slopes.T @ slopes
    curvature = curvature + _RIDGE * jnp.diag(jnp.diag(curvature))
    left = columns - slopes @ jnp.linalg.solve(curvature, slopes.T @ columns)
    return left.T @ left


def best_pairs(
    form: jax.Array, pairs: jax.Array, num_relations: int
) -> tuple[jax.Array, jax.Array]:
    """Relations `[R]` from which no change of one pair or two leads further down.

    Args:
      form: `[R K + 1, R K + 1]`, the constant last.
      pairs: `[R]` relations to begin with.
      num_relations: Relations K.

    Returns:
      The relations, and `()` the value of the form.
    """
    count = len(pairs)
    num_changes = count * num_relations
    pair, relation = np.divmod(np.arange(num_changes), num_relations)
    is_same = pair[:, None] == pair
    is_one = np.eye(num_changes, dtype=bool)

    def value_and_slope(pairs):
        chosen = jax.nn.one_hot(pairs, num_relations)
        whole = jnp.append(chosen.reshape(-1), 1.0)
        slope = form @ whole
        return chosen, whole @ slope, slope[:-1]

    def body(pairs, _):
        chosen, value, slope = value_and_slope(pairs)
        steps = is_one - jnp.where(is_same, chosen.reshape(-1)[None], 0.0)
        products = steps @ form[:-1, :-1] @ steps.T
        gains = 2.0 * steps @ slope + jnp.diag(products)
        both = gains[:, None] + gains[None] + 2.0 * products
        both = jnp.where(is_same, jnp.inf, both)
        both = jnp.where(is_one, gains[:, None], both)
        best = jnp.argmin(both)
        is_gain = both.reshape(-1)[best] < -_TOLERANCE * value
        for place in (best // num_changes, best % num_changes):
            at = jnp.asarray(pair)[place]
            to = jnp.asarray(relation, pairs.dtype)[place]
            pairs = pairs.at[at].set(jnp.where(is_gain, to, pairs[at]))
        return pairs, None

    pairs, _ = jax.lax.scan(body, pairs, None, length=_MOST_STEPS)
    return pairs, value_and_slope(pairs)[1]
