"""What every search keeps, checked one thing after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from modmeta.search import base, proposals, registry, run
from modmeta.search.testing.problem import NUM_CHAINS, TableProblem, chain_key

# Energies are a few nats, of which float32 keeps six digits.
_TOLERANCE = 1e-4
# Chains for the test of the distribution, and steps until the start is forgotten: of
# the 27 structures each is reached from each within a few.
_NUM_SAMPLES = 2048
_SAMPLE_STEPS = 120
# Keys are fixed; this is the probability that the key of a right search is a bad one.
_FALSE_ALARM = 1e-6


class Checked(NamedTuple):
    """What a search was checked on.

    Attributes:
      problem: The problem.
      batch: States and diagnostics `[B, steps, ...]` of one chain for every table of
        the problem; the first `NUM_CHAINS` tables are usual ones.
    """

    problem: TableProblem
    batch: tuple[base.SearchState, base.SearchInfo]


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's parameters, `self` excepted."""
    names = inspect.signature(function).parameters
    return tuple(name for name in names if name != "self")


def check_search(spec: registry.SearchSpec | str, **options: Any) -> None:
    """Checks that a search keeps the contract of all searches.

    Parameter names; shapes and dtypes that a step keeps; the same chain alone in one
    scan as step by step in a batch; energies those of the structures; masked slots left
    alone, all of them if there is no edge; the best energy monotone; nothing non-finite
    accepted; every evaluation counted; what the `SearchSpec` says: what it needs of an
    energy, whether it looks at logits, and whether it samples the Boltzmann
    distribution.

    Args:
      spec: A `SearchSpec`, or the name of a registered one.
      **options: Arguments of its builder; moves are given where left out.

    Raises:
      AssertionError: That says what was found and what was expected.
    """
    checked_chains(spec, **options)


def checked_chains(spec: registry.SearchSpec | str, **options: Any) -> Checked:
    """Checks as `check_search`, and returns the chains that it did it on."""
    if isinstance(spec, str):
        spec = registry.spec_of(spec)
    if spec.needs_proposal and "propose" not in options:
        propose = proposals.redraw_node(uniform_fraction=0.5)
        options = {**options, "propose": propose}
    problem = TableProblem(spec)
    algorithm = spec.build(**options)
    _check_names(algorithm)
    _check_shapes(algorithm, problem)
    batch = problem.run_batch(algorithm)
    _check_states(batch, problem)
    alone, run_alone = _check_counts(algorithm, problem)
    _check_equal("a chain in one scan and step by step", alone, _row(batch, 0))
    _check_needs(algorithm, problem, spec)
    if not spec.uses_logits:
        _check_logits(run_alone, problem, alone)
    if spec.samples:
        _check_distribution(algorithm, problem)
    return Checked(problem, batch)


def _row(tree: Any, row: int) -> Any:
    # On the host: taking a row of a JAX array is a program per shape.
    return jax.tree.map(lambda leaf: np.asarray(leaf)[row], tree)


def _expect(is_right: Any, what: str, found: Any, expected: Any) -> None:
    if not np.all(is_right):
        raise AssertionError(f"{what}: found {found}, expected {expected}")


def _check_equal(what: str, found: Any, expected: Any) -> None:
    """Integers must be equal, numbers up to rounding."""
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        one, other = np.asarray(one), np.asarray(other)
        is_exact = not np.issubdtype(one.dtype, np.floating)
        tolerance = 0.0 if is_exact else _TOLERANCE
        is_close = np.allclose(one, other, tolerance, tolerance, equal_nan=not is_exact)
        _expect(is_close, what, one, f"equal to {other}")


def _check_names(algorithm: base.SearchAlgorithm) -> None:
    for field, protocol in (("init", base.InitFn), ("step", base.StepFn)):
        found = parameter_names(getattr(algorithm, field))
        expected = parameter_names(protocol.__call__)
        _expect(found == expected, f"parameters of {field}", found, expected)


def _check_shapes(algorithm: base.SearchAlgorithm, problem: TableProblem) -> None:
    energy, candidates = problem.energy(problem.tables[0]), problem.candidates
    state = jax.eval_shape(lambda: algorithm.init(problem.start, energy, candidates))
    after, info = jax.eval_shape(
        lambda key, state: algorithm.step(
            key, state, energy, candidates, jnp.float32(1.0)
        ),
        jax.random.key(0),
        state,
    )
    for kind, found in ((base.SearchState, state), (base.SearchState, after)):
        _expect(isinstance(found, kind), "state", type(found).__name__, kind.__name__)
    _expect(
        isinstance(info, base.SearchInfo), "info", type(info).__name__, "SearchInfo"
    )
    one, other = jax.tree.structure(after), jax.tree.structure(state)
    _expect(one == other, "tree after a step", one, other)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        found, expected = (one.shape, one.dtype), (other.shape, other.dtype)
        _expect(found == expected, "leaf after a step", found, expected)
    for field, dtype in (
        ("num_proposals", jnp.int32),
        ("num_node_updates", jnp.int32),
        ("energy", jnp.float32),
        ("best_energy", jnp.float32),
    ):
        found = getattr(state, field)
        is_right = found.dtype == dtype and found.shape == ()
        _expect(is_right, field, found, f"a scalar {dtype.__name__}")
    for field, dtype in zip(info._fields, [jnp.float32] * 3 + [bool] * 2, strict=True):
        found = getattr(info, field)
        is_right = found.dtype == dtype and found.shape == ()
        _expect(is_right, field, found, f"a scalar {dtype.__name__}")


def _check_states(batch: Any, problem: TableProblem) -> None:
    states, info = jax.tree.map(np.asarray, batch)
    for row, table in enumerate(problem.tables[:-1]):
        totals = problem.totals(table)
        is_usual = row < NUM_CHAINS
        # From a start of bad energy, the first step that leaves it counts as the first.
        first = int(np.argmax(np.isfinite(states.energy[row])))
        later = slice(first, None)
        is_finite = np.isfinite(states.energy[row])
        _expect(
            is_finite[later] if is_finite.any() else not is_usual,
            "energy after a finite one",
            states.energy[row],
            "finite ones",
        )
        if is_finite.any():
            for name, structure, energy in (
                ("energy", states.structure, states.energy),
                ("best_energy", states.best_structure, states.best_energy),
            ):
                expected = totals[problem.index(structure.edge_modules[row])]
                is_right = np.isclose(
                    energy[row][later], expected[later], 0.0, _TOLERANCE
                )
                _expect(is_right, name, energy[row], f"those of structures {expected}")
            best = states.best_energy[row][later]
            _expect(np.diff(best) <= 0.0, "best_energy", best, "no increase")
            lowest = np.minimum.accumulate(states.energy[row][later])
            _expect(
                best <= lowest + _TOLERANCE, "best_energy", best, f"at most {lowest}"
            )
        accepted = info.proposed_energy[row][info.is_accepted[row]]
        _expect(
            np.isfinite(accepted), "energies accepted", accepted, "finite ones alone"
        )
    for structure in (states.structure, states.best_structure):
        masked = structure.edge_modules[..., ~problem.mask]
        _expect(masked == 0, "modules at masked slots", masked, "those of the start")
    probability = info.acceptance_probability
    _expect(
        (probability >= 0.0) & (probability <= 1.0),
        "acceptance_probability",
        probability,
        "shares",
    )
    usual = states.best_energy[:NUM_CHAINS, -1]
    modules = states.structure.edge_modules[-1]
    _expect(modules == 0, "modules without edges", modules, "those of the start")
    for field in ("energy", "best_energy", "local_energies"):
        energies = getattr(states, field)[-1]
        _expect(energies == 0.0, f"{field} without edges", energies, "zeros")
    for leaf in jax.tree.leaves(_row(states.memory, -1)):
        _expect(np.isfinite(leaf), "memory without edges", leaf, "finite numbers")
    start = problem.totals(problem.tables[0])[0]
    _expect(usual.min() < start, "best_energy at the end", usual, f"below {start}")


def _check_counts(
    algorithm: base.SearchAlgorithm, problem: TableProblem
) -> tuple[Any, Callable[[jax.Array, jax.Array], Any]]:
    """One chain alone, whose energy counts.

    Returns:
      Its states and diagnostics, and the function of key and logits that found them.
    """
    counts = {"calls": 0, "receivers": 0, "weights": 0}

    def count_receivers(receivers, structure):
        del structure  # so that every structure of a batch is counted
        counts["calls"] += 1
        counts["receivers"] += len(receivers)

    def count_weights(weights):
        counts["weights"] += weights.size

    def observe(kind, argument):
        if kind == "receivers":
            jax.debug.callback(count_receivers, *argument)
        else:
            jax.debug.callback(count_weights, argument)

    energy = problem.energy(problem.tables[0], observe)

    @jax.jit
    def run_alone(rng_key, edge_logits):
        candidates = problem.candidates._replace(edge_logits=edge_logits)
        return problem.run(algorithm, rng_key, energy, candidates)

    found = run_alone(chain_key(0), problem.candidates.edge_logits)
    jax.effects_barrier()
    last = _row(found[0], -1)
    # The start is evaluated, but is no proposal.
    for field, expected in (
        ("num_proposals", counts["calls"] - 1),
        ("num_node_updates", counts["receivers"] + counts["weights"]),
    ):
        value = int(getattr(last, field))
        _expect(value == expected, field, value, f"{expected}, as evaluated")
    return found, run_alone


def _check_needs(
    algorithm: base.SearchAlgorithm, problem: TableProblem, spec: registry.SearchSpec
) -> None:
    lacking: dict[str, dict[str, Any]] = {
        "independent_receivers": {"is_local": False},
        "relaxed": {"relaxed": None},
        "residuals": {"residuals": None},
    }
    for trait, is_needed in spec.needs._asdict().items():
        if not is_needed:
            continue
        energy = problem.energy(problem.tables[0])
        energy = energy._replace(**lacking[trait])
        try:
            algorithm.init(problem.start, energy, problem.candidates)
        except ValueError:
            continue
        _expect(False, f"init without {trait}", "no error", "a ValueError")


def _check_logits(
    run_alone: Callable[[jax.Array, jax.Array], Any],
    problem: TableProblem,
    expected: Any,
) -> None:
    found = run_alone(chain_key(0), -2.0 * problem.candidates.edge_logits)
    _check_equal("a chain with other logits (uses_logits=False)", found, expected)


def _check_distribution(algorithm: base.SearchAlgorithm, problem: TableProblem) -> None:
    """Last structures of many chains against the Boltzmann distribution, chi-square."""
    energy = problem.energy(problem.tables[0])

    @jax.jit
    @jax.vmap
    def last(rng_key):
        return run.run_search(
            rng_key,
            algorithm.init(problem.start, energy, problem.candidates),
            algorithm,
            energy,
            problem.candidates,
            lambda _: jnp.float32(1.0),
            _SAMPLE_STEPS,
        )[0].structure.edge_modules

    found = problem.index(last(jax.random.split(jax.random.key(1), _NUM_SAMPLES)))
    visits = np.bincount(found, minlength=len(problem.structures))
    totals = problem.totals(problem.tables[0].astype(np.float64))
    expected = np.exp(totals.min() - totals)
    expected *= visits.sum() / expected.sum()
    p_value = scipy.stats.chisquare(visits, expected).pvalue
    _expect(
        p_value > _FALSE_ALARM,
        "visits at temperature 1",
        f"{visits} (p = {p_value:.1g})",
        f"about {np.round(expected, 1)} (samples=True)",
    )
