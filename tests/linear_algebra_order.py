"""Which factorisations of a program wait for each other.

See `modmeta.linear_algebra`: two that do not may leave no thread to work for either.
"""

import dataclasses

import jax

_FACTORISATIONS = {
    "cholesky",
    "eig",
    "eigh",
    "geqp3",
    "geqrf",
    "hessenberg",
    "householder_product",
    "lu",
    "ormqr",
    "qr",
    "schur",
    "svd",
    "triangular_solve",
    "tridiagonal",
    "tridiagonal_solve",
}
_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "remat"}


@dataclasses.dataclass
class _Factorisation:
    """One of a program; `needs` are the numbers of those it waits for."""

    name: str
    needs: frozenset[int]
    is_used: bool = False


def chain(function, *arguments):
    """Names of the factorisations of a program, in order, those in loops first.

    Raises:
      AssertionError: If one does not need the result of one before it.
    """
    names = []
    _check(jax.make_jaxpr(function)(*arguments).jaxpr, names)
    return names


def _check(jaxpr, names):
    """Checks a program whose inputs are there; tells whether it has any."""
    found = []
    outputs = _walk(jaxpr, [frozenset()] * len(jaxpr.invars), found, names)
    for number in frozenset().union(*outputs):
        found[number].is_used = True
    for number, later in enumerate(found):
        for earlier in range(number if later.is_used else 0):
            if found[earlier].is_used:
                message = f"{later.name} does not wait for {found[earlier].name}"
                assert earlier in later.needs, message
    names += [one.name for one in found if one.is_used]
    return bool(found)


def _walk(jaxpr, inputs, found, names):
    """Which factorisations every output needs; `inputs` says the same of inputs."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom):
        is_literal = hasattr(atom, "val")
        return frozenset() if is_literal else known.get(atom, frozenset())

    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, list(_programs(equation.params))
        inputs = [of(atom) for atom in equation.invars]
        if name in _CALLS and len(inner) == 1:
            outputs = _walk(inner[0], inputs, found, names)
            known.update(zip(equation.outvars, outputs, strict=True))
            continue
        needed = frozenset().union(*inputs)
        for number in needed:
            found[number].is_used = True
        if name in _FACTORISATIONS:
            found.append(_Factorisation(name, needed))
            needed |= {len(found) - 1}
        elif any([_check(one, names) for one in inner]):
            # A loop is whole before what follows it.
            found.append(_Factorisation(name, needed))
            needed |= {len(found) - 1}
        outputs = [needed] * len(equation.outvars)
        if name == "qr":
            found.append(_Factorisation("the basis of qr", needed))
            outputs[0] = needed | {len(found) - 1}
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _programs(params):
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one
