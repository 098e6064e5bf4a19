"""Places by all receivers together, and paths in pieces, against what made them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.relational.data.domains import Domain
from modmeta.relational.data.frames import Frames
from modmeta.relational.hidden import fitting, places, scenes
from modmeta.relational.tasks.states import host_states
from tests.relational.hidden.laws_by_hand import VISIBLE, springs

WINDOWS = 12
DISTANCE = np.geomspace(0.02, 30.0, 256)
PULLS = np.stack([-0.01 * DISTANCE**-2.0, 0.01 * DISTANCE**-2.0])


def one_hidden(seed, num_visible=4):
    """Receivers, a path among them, its relations, and the forces that it exerts.

    The forces come with two assignments of other edges, of which one is wrong.
    """
    rng = np.random.default_rng(seed)
    where = rng.uniform(-1.0, 1.0, (WINDOWS, num_visible, 2))
    path = rng.uniform(-1.0, 1.0, 2) + np.linspace(0.0, 0.5, WINDOWS)[:, None]
    heard = rng.integers(0, 2, num_visible)
    gap = path[:, None] - where
    far = np.sqrt(np.square(gap).sum(axis=-1, keepdims=True))
    forces = np.moveaxis(0.01 * (2 * heard - 1)[:, None] * gap / far**3, 0, 1)
    others = 0.02 * rng.normal(size=(num_visible, WINDOWS, 2))
    rows = rng.integers(0, 2, num_visible)
    left = np.stack([forces, forces], axis=1)
    left[np.arange(num_visible), 1 - rows] += others
    return where, path, heard, rows, left


@functools.cache
def found_places():
    def find(left, where, first):
        tables = jnp.asarray(DISTANCE, jnp.float32), jnp.asarray(PULLS, jnp.float32)
        return places.places_of(left, where, *tables, first)

    return jax.jit(find)


@pytest.mark.parametrize("seed", range(4))
def test_receivers_agree_on_the_true_places(seed):
    """From wrong assignments, and with one window that no law explains."""
    where, path, heard, rows, left = one_hidden(seed)
    left[0, :, 5] += 3.0
    given = (np.float32(left), np.float32(where), (1 - rows) if seed % 2 else rows)
    found = jax.device_get(found_places()(*given))
    np.testing.assert_array_equal(found.heard[0], heard)
    others = np.arange(WINDOWS) != 5
    np.testing.assert_allclose(found.path[0, others], path[others], atol=2e-3)
    assert found.weight[0, 5] < 0.5 < found.weight[0, others].min()
    kept = found.misfit[np.isfinite(found.misfit)]
    assert (np.diff(kept) >= 0.0).all() and len(kept) < 2**4
    # Places that a window denies do not bend a smooth path.
    times = jnp.arange(WINDOWS, dtype=jnp.float32)
    smooth, slope = places.smoothed(found.path[0], found.weight[0], times, times)
    np.testing.assert_allclose(smooth[5], path[5], atol=0.02)
    np.testing.assert_allclose(slope[others], 0.5 / (WINDOWS - 1), atol=0.02)


def a_system(num_frames=9):
    """Normalised states `[N, T, F]`, and relations of the body that will be hidden."""
    whole, _, params = springs()
    frames = host_states(whole, params.preprocessing.normalization).states[0]
    return frames[:, :num_frames], np.asarray(whole.edges)[0, -1, :VISIBLE][None]


def scene_of(frames):
    _, model, params = springs()
    modules = model.network.modules(params)
    some = Frames(frames[:VISIBLE], None, None, None, None)
    return modules, scenes.build_scene(modules, some, 2)


def test_pieces_of_a_path_are_the_path():
    """Of three intervals each, of which the last goes on beyond the end."""

    @functools.partial(jax.jit, static_argnums=0)
    def paths(count, frames, edges):
        modules, scene = scene_of(frames)
        whole = scenes.Guess(frames[-1:, 0][None], edges)
        path = scenes.hidden_frames(modules, scene, whole, Domain())
        heads = np.arange(count) * -(-8 // count)
        cut = scenes.Guess(path[:, heads].swapaxes(0, 1), edges)
        pieces = scenes.hidden_pieces(modules, scene, cut, Domain())
        messages = [
            scenes.hidden_messages(modules, scene, some)
            for some in (scenes.hidden_pieces(modules, scene, whole, Domain()), pieces)
        ]
        return path, scenes.frames_of(pieces, 9), messages

    path, same, messages = paths(3, *a_system())
    np.testing.assert_allclose(same, path, atol=1e-5)
    np.testing.assert_allclose(*messages, atol=1e-4)


@pytest.mark.parametrize(
    "frames, span, length, count",
    [(49, 1, 1, 48), (49, 1, 6, 8), (49, 4, 1, 1), (49, 1, 0, 1), (1001, 1, 1, 63)],
)
def test_how_many_pieces(frames, span, length, count):
    assert scenes.num_pieces(frames, span, length) == count
    pieces = -(-(frames - 1) // count)
    assert (count - 1) * pieces < frames - 1 <= count * pieces


def test_joints_say_how_their_energy_changes():
    """The slope is the derivative, and gaps are those of starts that were moved."""

    @jax.jit
    def joints(start, frames, edges):
        modules, scene = scene_of(frames)

        def energy(start):
            guess = scenes.Guess(start, edges)
            pieces = scenes.hidden_pieces(modules, scene, guess, Domain())
            scale = jnp.sqrt(fitting.joint_precision(modules, 4, 0.1))[None, None]
            gaps = scale * (pieces[:-1, -1] - start[1:])
            return 2.5 * jnp.sum(jnp.log1p(jnp.square(gaps) / 4.0))

        nothing = jnp.zeros((VISIBLE, VISIBLE), jnp.int32)
        fit = fitting.Fit(scenes.Guess(start, edges), nothing, jnp.zeros(()))
        points = [
            fitting.evaluate(modules, scene, start, fit, Domain(), loose)
            for loose in (0.1, 1e6)
        ]
        return jax.value_and_grad(energy)(start), points

    frames, edges = a_system(5)
    start = np.array(frames[-1:, :4].swapaxes(0, 1))
    start[2, 0, 0] += 0.05
    (energy, slope), (tight, free) = joints(start, frames, edges)
    np.testing.assert_allclose(tight.energy - free.energy, energy, rtol=1e-3)
    np.testing.assert_allclose(
        tight.slope - free.slope, slope.reshape(4, 4), rtol=1e-3, atol=2e-3
    )
    assert np.argsort(tight.gaps).tolist()[-2:] in ([1, 2], [2, 1])
    curvature = np.asarray(tight.curvature - free.curvature).reshape(16, 16)
    np.testing.assert_allclose(curvature, curvature.T, rtol=1e-4, atol=1e-2)
    assert np.linalg.eigvalsh(curvature.astype(np.float64)).min() > -1e-2
