"""Operations on known numbers, against the same operations as JAX runs them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from modmeta.metanet.parameter_graphs import constants

INTEGERS = np.array([[3, -7, 0], [2**31 - 1, -(2**31), 5]], np.int32)
REALS = np.array([[np.nan, -0.0, 1e-40], [np.inf, 2.5, -3.0]], np.float32)
BOOLEANS = np.array([[True, False, True], [False, False, True]])

FUNCTIONS = {
    "broadcast_in_dim": lambda i, x, b: lax.broadcast_in_dim(x, (2, 4, 3), (0, 2)),
    "concatenate": lambda i, x, b: lax.concatenate([i, i], 1),
    "iota": lambda i, x, b: lax.broadcasted_iota(jnp.float32, (2, 3), 1),
    "reshape": lambda i, x, b: lax.reshape(x, (3, 2), (1, 0)),
    "rev": lambda i, x, b: lax.rev(x, (1,)),
    "select": lambda i, x, b: lax.select_n(b, x, -x),
    "select of one": lambda i, x, b: lax.select_n(b[0, 0], x, -x),
    "select by number": lambda i, x, b: lax.select_n(
        lax.clamp(np.int32(0), i, np.int32(2)), x, x[::-1], x[:, ::-1]
    ),
    "slice": lambda i, x, b: lax.slice(x, (0, 0), (2, 3), (1, 2)),
    "squeeze": lambda i, x, b: lax.squeeze(x[:, :1], (1,)),
    "transpose": lambda i, x, b: lax.transpose(x, (1, 0)),
    "wrapping sum": lambda i, x, b: i + i,
    "wrapping difference": lambda i, x, b: i - i[::-1],
    "wrapping product": lambda i, x, b: i * i,
    "largest": lambda i, x, b: lax.max(i, i[::-1]),
    "smallest": lambda i, x, b: lax.min(i, i[::-1]),
    "bits": lambda i, x, b: (i & 6) | (~i ^ i[::-1]),
    "truth values": lambda i, x, b: (b & ~b[::-1]) | (b ^ b[:, ::-1]),
    "order": lambda i, x, b: [i < 3, i <= 3, i > 3, i >= 3, i == 3, i != 3],
    "conversions": lambda i, x, b: [
        lax.convert_element_type(i, kind)
        for kind in (np.float32, np.int8, np.uint8, np.bool_, jnp.bfloat16, np.float16)
    ],
    "order of reals": lambda i, x, b: [x < 2.5, x == 0.0],
    "sums of reals": lambda i, x, b: x + x,
    "conversions of reals": lambda i, x, b: lax.convert_element_type(x, np.int32),
}


def evaluated(jaxpr, arguments):
    """Results of a program of which every operation is one of known numbers."""
    known = dict(zip(jaxpr.jaxpr.invars, arguments, strict=True))
    known.update(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, jax.extend.core.Literal) else known[atom]

    for equation in jaxpr.jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = constants.evaluate(equation.primitive, operands, equation.params)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_known_numbers_are_those_of_jax(name):
    arguments = (INTEGERS, REALS, BOOLEANS)
    expected = jax.tree.leaves(jax.jit(FUNCTIONS[name])(*arguments))
    found = evaluated(jax.make_jaxpr(FUNCTIONS[name])(*arguments), arguments)
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()


def test_keys_of_random_numbers_are_left_to_jax():
    key = jax.random.key(0)
    program = jax.make_jaxpr(lambda key: key[None])(key)
    (found,) = evaluated(program, [key])
    assert found.shape == (1,) and jax.dtypes.issubdtype(
        found.dtype, jax.dtypes.prng_key
    )
