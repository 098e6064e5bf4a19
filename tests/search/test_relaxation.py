"""The relaxed energy of a model against a float64 NumPy network with soft edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import search
from modmeta.relational.inference.problems import Problems, build_problems
from tests.fixtures import Batch, search_options, small_model, small_params
from tests.reference import Reference

SIZES = (3, 2)
PRIOR_WEIGHT = 4.0


class Setting:
    """A model with a prior, its problems, and their relaxed energies."""

    def __init__(self):
        self.model = small_model(
            num_relations=3,
            num_node_modules=2,
            search=search_options(prior="symmetric", prior_weight=PRIOR_WEIGHT),
        )
        self.batch = Batch(SIZES, relations=3, nodes=2)
        graph = self.batch.supergraph
        self.params = small_params(self.model, graph, 4)
        logits = jnp.zeros((*graph.slot_mask.shape, 3))

        @jax.jit
        def prepare(states):
            problems = build_problems(self.model, self.params, graph, states, logits)
            return problems.data, problems.candidates

        prepared = prepare(self.batch.flat_states())
        self.problems = Problems(self.model, self.params, *prepared, graph)
        self.structure = self.problems.split(self.batch.structure())

    def relaxed(self, edge_weights):
        """Of all systems, `[S]`."""

        def one(data, candidates, weights, node_modules):
            energy = self.problems.energy(data, candidates)
            return energy.relaxed(weights, node_modules)

        return jax.vmap(one)(
            self.problems.data,
            self.problems.candidates,
            edge_weights,
            self.structure.node_modules,
        )

    def energies(self, structure):
        """Of all systems, `[S]`, for modules `[N, D]` and `[N]`."""
        return jax.jit(lambda s: self.problems.init(s).energy)(structure)

    def by_hand(self, system, edge_weights):
        """One system, weights `[receivers, senders, K]`, zero on the diagonal."""
        reference = Reference(self.model, self.params)
        states = np.asarray(self.batch.states[system], np.float64)
        nodes = range(len(states))
        energy = 0.0
        for frame in range(states.shape[1] - 1):
            now, following = states[:, frame], states[:, frame + 1]
            for receiver in nodes:
                total = 0.0
                for sender in nodes:
                    for module in range(3):
                        if sender != receiver:
                            message = reference.message(
                                module, now[sender], now[receiver]
                            )
                            weight = edge_weights[receiver, sender, module]
                            total = total + weight * message
                module = self.batch.node_modules[system][receiver]
                output = reference.node_output(module, total, now[receiver])
                energy += reference.frame_energy(
                    *reference.split(output),
                    reference.target(now[receiver], following[receiver]),
                )
        for receiver in nodes:
            for sender in range(receiver):
                agreement = (
                    edge_weights[receiver, sender] @ edge_weights[sender, receiver]
                )
                energy += PRIOR_WEIGHT * (1.0 - agreement)
        return energy


@pytest.fixture(name="setting", scope="module")
def make_setting():
    return Setting()


def slot_weights(matrix, shape):
    """`[receivers, senders, K]` to slots in the order of senders, `[R, D, K]`."""
    weights = np.zeros(shape, np.float32)
    for receiver, row in enumerate(matrix):
        others = [sender for sender in range(len(matrix)) if sender != receiver]
        weights[receiver, : len(others)] = row[others]
    return weights


def test_one_hot_weights_give_the_energy(setting):
    weights = jax.nn.one_hot(setting.structure.edge_modules, 3)
    found = jax.jit(setting.relaxed)(weights)
    expected = setting.energies(setting.batch.structure())
    real = slice(0, len(SIZES))
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-5)


def test_soft_weights_and_gradients_equal_the_reference(setting):
    rng = np.random.default_rng(0)
    shape = setting.problems.candidates.edge_logits.shape
    matrices = [rng.dirichlet(np.ones(3), (size, size)) for size in SIZES]
    weights = np.zeros(shape, np.float32)
    for system, matrix in enumerate(matrices):
        weights[system] = slot_weights(matrix, shape[1:])
    total, gradient = jax.jit(
        jax.value_and_grad(
            lambda w: (setting.relaxed(w) * (w.sum((1, 2, 3)) > 0)).sum()
        )
    )(jnp.asarray(weights))
    expected = [setting.by_hand(*pair) for pair in enumerate(matrices)]
    np.testing.assert_allclose(total, sum(expected), rtol=1e-4)
    # The last sender of the second receiver sits in its last slot.
    for module in range(3):
        slopes = []
        for step in (1e-5, -1e-5):
            changed = matrices[0].copy()
            changed[1, 2, module] += step
            slopes.append(setting.by_hand(0, changed))
        slope = (slopes[0] - slopes[1]) / 2e-5
        np.testing.assert_allclose(gradient[0, 1, 1, module], slope, rtol=1e-3)


def test_descent_through_a_model(setting):
    """Gradients reach the logits: the policy's mean energy falls, best is exact."""
    algorithm = search.build_search("straight_through", num_samples=4)

    @jax.jit
    def run(keys):
        def one(key, data, candidates, structure):
            energy = setting.problems.energy(data, candidates)
            return search.run_search(
                key,
                algorithm.init(structure, energy, candidates),
                algorithm,
                energy,
                candidates,
                lambda _: jnp.float32(0.1),
                150,
            )

        return jax.vmap(one)(
            keys, setting.problems.data, setting.problems.candidates, setting.structure
        )

    keys = jax.random.split(jax.random.key(0), len(setting.problems.mask))
    state, energies = run(keys)
    best = setting.problems.join(state.best_structure)
    direct = setting.energies(best)
    for system in range(len(SIZES)):
        np.testing.assert_allclose(state.best_energy[system], direct[system], rtol=1e-5)
        drawn = np.asarray(energies[system])
        assert drawn[-50:].mean() < drawn[:20].mean()
