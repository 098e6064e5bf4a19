"""Small computations that some releases of jaxlib got wrong, against NumPy.

A failure here means that the installed jaxlib, not this package, is at fault: exclude
its version in setup.cfg.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modmeta

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")

_MISCOMPILED_SHIFT = re.compile(r"\.at\[\s*1\s*:\s*\]\s*\.set\(")


# https://github.com/jax-ml/jax/issues/39103: wrong past 32,768 rows of three.
@pytest.mark.parametrize("num_rows", [32_768, 32_769, 32_773])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_vmapped_matvec_then_sum(num_rows, size):
    matrix = np.eye(size, dtype=np.float32)
    first = np.arange(num_rows, dtype=np.float32)
    rows = np.zeros((num_rows, size), np.float32)
    rows[:, 0] = first

    @jax.jit
    def squared_norms(rows):
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)

    np.testing.assert_allclose(squared_norms(rows), first**2, rtol=1e-6)


# https://github.com/openxla/xla/issues/49176: the first of these is wrong on CPU, the
# others are ways to write it instead.
@pytest.mark.parametrize(
    "shift",
    [
        pytest.param(
            lambda buffer, new: buffer.at[1:].set(buffer[:-1]).at[0].set(new),
            id="in_place",
            marks=pytest.mark.xfail(reason="openxla/xla#49176", strict=False),
        ),
        pytest.param(
            lambda buffer, new: jnp.concatenate([new[None], buffer[:-1]]),
            id="concatenate",
        ),
        pytest.param(
            lambda buffer, new: jnp.roll(buffer, 1, axis=0).at[0].set(new), id="roll"
        ),
    ],
)
def test_history_shift_then_reshape(shift):
    buffer = np.arange(128, dtype=np.float32).reshape(8, 16)
    new = np.full(16, -1.0, np.float32)

    @jax.jit
    def shift_then_reshape(buffer, new):
        # The sum makes a buffer that the compiler is free to overwrite.
        return shift(buffer + np.float32(1.0), new).reshape(1, 8, 16)

    expected = np.concatenate([new[None], buffer[:-1] + 1.0])[None]
    np.testing.assert_array_equal(shift_then_reshape(buffer, new), expected)


# The pattern of the test above.
def test_no_source_file_shifts_in_place():
    sources = list(Path(modmeta.__file__).parent.rglob("*.py"))
    assert sources
    offenders = [
        path.name for path in sources if _MISCOMPILED_SHIFT.search(path.read_text())
    ]
    assert not offenders


@pytest.mark.parametrize("padding", [0, 5])
def test_masked_segment_softmax(padding):
    generator = np.random.default_rng(1)
    segments = np.array([0, 0, 0, 2, 2, 3] + [4] * padding)
    mask = segments < 4
    logits = generator.normal(size=segments.size).astype(np.float32)

    @jax.jit
    def segment_softmax(logits):
        masked = jnp.where(mask, logits, -jnp.inf)
        largest = jax.ops.segment_max(masked, segments, num_segments=5)
        weights = jnp.where(mask, jnp.exp(masked - largest[segments]), 0.0)
        total = jax.ops.segment_sum(weights, segments, num_segments=5)
        return jnp.where(mask, weights / total[segments], 0.0)

    expected = np.zeros(segments.size)
    for segment in (0, 2, 3):
        here = segments == segment
        expected[here] = np.exp(logits[here]) / np.exp(logits[here]).sum()
    np.testing.assert_allclose(segment_softmax(logits), expected, rtol=1e-5)


def _annealing_trace(rng_key, energies):
    """Metropolis over `[E]` variables of K values; returns what each step holds."""
    num_variables, num_values = energies.shape

    def step(state, rng_key):
        key_variable, key_value, key_accept = jax.random.split(rng_key, 3)
        variable = jax.random.randint(key_variable, (), 0, num_variables)
        value = jax.random.randint(key_value, (), 0, num_values)
        change = energies[variable, value] - energies[variable, state[variable]]
        accept = jnp.log(jax.random.uniform(key_accept)) < -change
        state = jnp.where(accept, state.at[variable].set(value), state)
        return state, state

    state = jnp.zeros(num_variables, jnp.int32)
    return jax.lax.scan(step, state, jax.random.split(rng_key, 200))[1]


def _annealing_inputs(num_chains):
    generator = np.random.default_rng(2)
    energies = generator.normal(size=(num_chains, 6, 3)).astype(np.float32)
    return jax.random.split(jax.random.key(3), num_chains), energies


def test_annealing_chain_alone_equals_chain_in_batch():
    keys, energies = _annealing_inputs(5)
    batch = jax.jit(jax.vmap(_annealing_trace))(keys, energies)
    alone = jax.jit(_annealing_trace)
    assert len(np.unique(batch.reshape(-1, 6), axis=0)) > 50
    for index in range(5):
        np.testing.assert_array_equal(batch[index], alone(keys[index], energies[index]))


def test_annealing_shard_map_equals_vmap():
    devices = np.array(jax.devices()[:2])
    mesh = jax.sharding.Mesh(devices, ("chains",))
    spec = jax.sharding.PartitionSpec("chains")
    keys, energies = _annealing_inputs(2 * len(devices))
    over_chains = jax.vmap(_annealing_trace)
    sharded = jax.shard_map(
        over_chains, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False
    )
    np.testing.assert_array_equal(
        jax.jit(sharded)(keys, energies), jax.jit(over_chains)(keys, energies)
    )
