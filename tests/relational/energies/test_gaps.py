"""Energies of data with gaps, breaks, and entities that come and go.

Truths: the energy of every change of gapless data, summed by hand over those that
count; systems without the absent entity; recordings searched one by one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.graphs import supergraphs
from modmeta.relational.data import DataError, Normalization, TrajectoryDataset
from modmeta.relational.data.frames import Frames, rollout_states
from modmeta.relational.data.segments import concatenate_tasks
from modmeta.relational.energies.cached import CachedEnergies, build_cache
from modmeta.relational.energies.composed import structure_energies
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.energies.recomputed import RecomputedEnergies
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.observations import observe, receiver_slots
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.search import all_assignments
from tests.fixtures import (
    ANGLES,
    LAYOUT,
    SPEC,
    small_model,
    small_params,
    structure_from_matrices,
)

NUM_NODES, NUM_FRAMES = 3, 9


def graph_of(size):
    return supergraphs.build_supergraph([size], supergraphs.padding_budget([size], 1))


class Setting:
    """A model of laws, one system, its structure, and its smooth frames."""

    def __init__(self, layout=LAYOUT, span=1, size=NUM_NODES, **options):
        self.model = small_model(
            layout=layout, compress=False, path="interpolated", span=span, **options
        )
        self.graph = graph_of(size)
        rng = np.random.default_rng(0)
        self.edges = rng.integers(0, 2, (size, size))
        params = small_params(self.model, self.graph, NUM_FRAMES)
        modules = jax.tree.map(lambda leaf: 0.3 * leaf, params.modules)
        self.params = params._replace(modules=modules)
        shape = (size, NUM_FRAMES, layout.num_features)
        states = 0.3 * rng.normal(size=shape).cumsum(axis=1)
        for sine, cosine in layout.spec.angles:
            angle = rng.normal(size=shape[:2]).cumsum(axis=1)
            states[..., sine], states[..., cosine] = np.sin(angle), np.cos(angle)
        for column in set(range(layout.num_features)) - set(layout.predicted):
            states[..., column] = states[:, :1, column]
        self.states = states.astype(np.float32)

    def structure(self, size=None):
        edges = self.edges[:size, :size]
        return structure_from_matrices(
            [edges], [np.zeros(len(edges), int)], graph_of(len(edges))
        )

    def padded(self, values):
        """`[n, ...]` with a row of zeros for the padded node."""
        return jnp.asarray(np.pad(values, [(0, 1)] + [(0, 0)] * (values.ndim - 1)))

    def frames(self, states=None, **fields):
        states = self.states if states is None else states
        return jax.tree.map(self.padded, Frames(states, **fields))

    def of_changes(self, states=None, size=NUM_NODES):
        """Energies `[n, W]` of all changes of gapless data."""
        states = self.states if states is None else states
        found = _of_changes(
            self.model,
            self.params,
            graph_of(size),
            self.structure(size),
            self.padded(states[:size]),
        )
        return np.asarray(found)[:size]

    def energies(self, frames):
        found = _energies(self.model, self.params, self.graph, self.structure(), frames)
        return {name: np.asarray(value)[:NUM_NODES] for name, value in found.items()}


@functools.partial(jax.jit, static_argnames="model")
def _of_changes(model, params, graph, structure, states):
    modules = model.network.modules(params)
    observed = observe(modules, graph, states)
    outputs = modules.outputs(
        structure,
        observed.motion,
        graph.slot_senders,
        graph.slot_mask,
        observed.windows,
    )
    return modules.frame_energies(outputs, observed.targets)


@functools.partial(jax.jit, static_argnames="model")
def _energies(model, params, graph, structure, frames):
    modules = model.network.modules(params)
    observed = observe(modules, graph, frames)
    cached = CachedEnergies(modules, build_cache(modules, graph, observed))
    anew = RecomputedEnergies(modules, observed, receiver_slots(graph))
    receivers = jnp.arange(len(graph.node_mask))
    nodes = structure.node_modules
    weights = jax.nn.one_hot(structure.edge_modules, 2)
    weights = weights * graph.slot_mask[..., None]
    assignments = all_assignments(graph.slot_mask.shape[1], 2)
    row = jnp.argmax(
        jnp.all(assignments[None] == structure.edge_modules[:, None], axis=-1), axis=1
    )
    mixed = cached.of_assignments(assignments, nodes)
    composed = structure_energies(modules, graph, structure, observed)

    def squares(energies):
        return jax.vmap(
            lambda w, n, r: jnp.sum(jnp.square(energies.residuals(w, n, r)))
        )(weights, nodes, receivers)

    return {
        "composed": composed,
        "cached": cached.local(structure, receivers),
        "relaxed": cached.relaxed(weights, nodes),
        "anew": anew.local(structure, receivers),
        "anew relaxed": anew.relaxed(weights, nodes),
        "mixed": jnp.take_along_axis(mixed, row[:, None], axis=1)[:, 0],
        "squares": squares(cached),
        "squares anew": squares(anew),
        "mean": observed.mean(composed, graph.node_mask) * jnp.ones(len(nodes)),
    }


def check(found, expected, count):
    """All forms of the energy agree with sums over changes `[n]`."""
    for name in ("composed", "cached", "relaxed", "anew", "anew relaxed", "mixed"):
        np.testing.assert_allclose(found[name], expected, rtol=2e-4, err_msg=name)
    np.testing.assert_allclose(found["mean"], expected.sum() / count, rtol=2e-4)
    np.testing.assert_allclose(found["squares anew"], found["squares"], rtol=2e-4)


@pytest.mark.parametrize("span, likelihood", [(1, "student"), (3, "squared_error")])
def test_changes_that_were_not_observed_do_not_count(span, likelihood):
    given = Setting(span=span, likelihood=likelihood)
    everywhere = np.ones((NUM_NODES, NUM_FRAMES), bool)
    seen = everywhere.copy()
    seen[1, 4] = seen[2, 6] = False
    # Positions and velocities at both ends say all of a path: senders are heard.
    there = {"is_present": everywhere} if span == 1 else {}
    found = given.energies(given.frames(is_observed=seen, **there))
    counted = seen[:, :-span] & seen[:, span:]
    expected = np.sum(given.of_changes() * counted, axis=1)
    check(found, expected, counted.sum())
    nothing = given.energies(given.frames(is_observed=everywhere, **there))
    assert np.all(found["squares"][1:] < nothing["squares"][1:])
    assert found["squares"][0] == pytest.approx(nothing["squares"][0], rel=1e-5)
    if likelihood == "squared_error":
        np.testing.assert_allclose(0.5 * found["squares"], found["cached"], rtol=1e-4)


@pytest.mark.parametrize("path", ["interpolated", "start"])
def test_absent_entities_send_nothing(path):
    given = Setting(likelihood="student")
    if path == "start":
        given.model = small_model(path="start", compress=False)
        given.params = small_params(given.model, given.graph, NUM_FRAMES)
    there = np.ones((NUM_NODES, NUM_FRAMES), bool)
    there[2, :4] = there[2, 8:] = False
    found = given.energies(given.frames(is_observed=there, is_present=there))
    both = there[:, :-1] & there[:, 1:]
    alone = np.zeros((NUM_NODES, NUM_FRAMES - 1))
    alone[:2] = given.of_changes(size=2)
    expected = np.where(both[2][None], given.of_changes(), alone)
    check(found, np.sum(expected * both, axis=1), both.sum())


@pytest.mark.parametrize("starts", [(0, 3, 6), (0, 5)])
def test_recordings_end_to_end_have_the_energies_of_each(starts):
    """Paths through angles take four frames: none of another recording.

    Windows of two intervals: of three frames, a recording has one.
    """
    given = Setting(layout=ANGLES, span=2)
    breaks = np.zeros((NUM_NODES, NUM_FRAMES), bool)
    breaks[:, starts[1:]] = True
    recordings = np.split(given.states, starts[1:], axis=1)
    expected = sum(given.of_changes(part).sum(axis=1) for part in recordings)
    count = NUM_NODES * (NUM_FRAMES - 2 * len(starts))
    check(given.energies(given.frames(breaks=breaks)), expected, count)


def test_recordings_that_are_joined_have_the_energies_of_each():
    """The same by way of data sets: a jump between recordings says nothing."""
    given = Setting(layout=ANGLES, span=2)
    recordings = [given.states[:, start : start + 3] for start in (5, 2, 0)]
    tasks = TrajectoryDataset(
        states=np.swapaxes(recordings, 1, 2), features=ANGLES.spec
    )
    identity = given.params.preprocessing.normalization
    frames = gather_states(
        device_states(concatenate_tasks(tasks), identity),
        jnp.zeros(1, int),
        given.graph,
    )
    expected = sum(given.of_changes(part).sum(axis=1) for part in recordings)
    check(given.energies(frames), expected, 3 * NUM_NODES)


def test_paths_and_changes_take_the_true_times():
    """Constant acceleration at irregular times: nothing is left but that."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.2, 1.5, NUM_FRAMES))
    x0, v0, a = rng.normal(size=(3, 1, NUM_NODES, 2))
    t = times[:, None, None]
    x, v = x0 + v0 * t + 0.5 * a * t**2, v0 + a * t
    charge = rng.normal(size=(1, NUM_NODES, 1)) + 0.0 * t
    states = np.concatenate([x[..., :1], charge, x[..., 1:], v], axis=-1)[None]
    dataset = TrajectoryDataset(states=states, features=SPEC, times=times)
    constants, layout = fit_preprocessing(dataset, compress=False)
    assert layout.predicted == (0, 2, 3, 4)
    given = Setting(layout=layout)
    modules = given.model.network.modules(
        given.params._replace(preprocessing=jax.tree.map(jnp.asarray, constants))
    )
    frames = gather_states(
        device_states(dataset, constants.normalization), jnp.zeros(1, int), given.graph
    )
    observed = jax.jit(lambda: observe(modules, given.graph, frames))()
    h = np.diff(times)
    scale = np.asarray(constants.normalization.scale)[[0, 2, 3, 4]]
    expected = np.concatenate(
        [0.5 * a * h[:, None, None] ** 2, a * h[:, None, None]], axis=-1
    )
    expected = np.swapaxes(expected, 0, 1) / scale / constants.target_scale
    np.testing.assert_allclose(
        observed.targets[:NUM_NODES], expected, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(
        observed.motion.duration[0], h / dataset.frame_interval, rtol=1e-4
    )
    # In the middle of an interval, which is where an odd number of points has one.
    middle = observed.motion.points[:NUM_NODES, :, 0]
    points, _ = np.polynomial.legendre.leggauss(observed.motion.points.shape[2])
    at = (times[:-1] + 0.5 * (1.0 + points[0]) * h)[:, None, None]
    where = np.swapaxes(x0 + v0 * at + 0.5 * a * at**2, 0, 1)
    offset, scale = (np.asarray(leaf)[[0, 2]] for leaf in constants.normalization)
    np.testing.assert_allclose(
        np.asarray(middle)[..., [0, 2]], (where - offset) / scale, atol=1e-4
    )


def test_models_refuse_what_they_cannot_read():
    states = np.random.default_rng(0).normal(size=(1, 5, 2, 5))
    plain = TrajectoryDataset(states=states, features=SPEC)
    irregular = dataclasses.replace(plain, times=np.array([0.0, 1.0, 3.0, 4.0, 5.0]))
    broken = dataclasses.replace(plain, breaks=np.arange(5) == 2)
    seen = np.ones((1, 5, 2), bool)
    seen[0, 2, 1] = False
    gappy = dataclasses.replace(plain, frame_mask=seen)
    start = small_model()
    rolled = small_model(search={"energy": EnergyConfig("rollout")})
    laws = small_model(path="interpolated", compress=False)
    for model, refused in (
        (start, [irregular]),
        (rolled, [irregular, broken, gappy]),
        (laws, []),
    ):
        for dataset in (plain, irregular, broken, gappy):
            if any(dataset is other for other in refused):
                with pytest.raises(DataError, match="times: found|form: found 'roll"):
                    model.read(dataset)
            else:
                model.read(dataset)
    frames = device_states(broken, Normalization(np.zeros(5), np.ones(5)))
    with pytest.raises(ValueError, match="form: found 'rollout' with missing frames"):
        rollout_states(frames)


def test_irregular_times_change_nothing_where_they_are_regular():
    states = np.random.default_rng(0).normal(size=(1, 5, 2, 5))
    dataset = TrajectoryDataset(
        states=states, features=SPEC, times=3.0 + 0.1 * np.arange(5)
    )
    constants, _ = fit_preprocessing(dataset)
    assert device_states(dataset, constants.normalization).is_plain
