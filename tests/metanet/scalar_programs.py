"""Networks unrolled to single numbers: what they compute, how symmetric they can be.

Nothing here knows how modmeta reads a model: the traced program is taken apart anew. A
number that is merely moved keeps its name, so that what is left are operations on one
or several numbers. NumPy evaluates them, compiling nothing, and colour refinement over
them bounds the number of permutations of parameters that leave the function alone.

Letters: S numbers, P networks or stages, n results of an operation, k operands of each.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import numpy as np

from tests.metanet.scalar_rules import RULES, Operands


@dataclasses.dataclass(eq=False)
class Operation:
    """One operation with n results.

    Attributes:
      key: What it does, settings included.
      results: `[n]` numbers.
      operands: `[n, k]` numbers, or `[n, k, 2]` for sums of products.
      evaluate: From values `[n, k, P]` to `[n, P]`.
      is_symmetric: True if the order of its operands does not matter.
    """

    key: str
    results: np.ndarray
    operands: np.ndarray
    evaluate: Callable[[np.ndarray], np.ndarray]
    is_symmetric: bool
    scatter: Any = None


def _is_plain(value: Any) -> bool:
    """Whether a constant is an array of numbers, not of random keys."""
    is_array = isinstance(value, np.ndarray | np.generic | jax.Array)
    return is_array and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


def _along(array: np.ndarray, shape: tuple[int, ...], axes) -> np.ndarray:
    """An array repeated along all axes but its own."""
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    return np.broadcast_to(np.expand_dims(array, others), shape)


# Of constants, where JAX would compile a program for every shape.
_REPEATED = {
    "broadcast_in_dim": lambda params, array: _along(
        array, params["shape"], params["broadcast_dimensions"]
    ),
    "iota": lambda params: _along(
        np.arange(params["shape"][params["dimension"]]).astype(params["dtype"]),
        params["shape"],
        (params["dimension"],),
    ),
}


class ScalarProgram:
    """A function of variables and inputs as operations on single numbers.

    Args:
      function: Of variables and inputs.
      variables: A tree; its floating-point arrays are the parameters, in order.
      *inputs: Arrays.

    Attributes:
      parameters: Numbers of the parameters.
      outputs: Numbers of the results, one array per leaf.
    """

    def __init__(self, function: Callable, variables: Any, *inputs: Any):
        closed = jax.make_jaxpr(function)(variables, *inputs)
        self._size = 0
        self._constants: list[tuple[np.ndarray, np.ndarray]] = []
        self.operations: list[Operation] = []
        arguments, parameters = [], []
        for leaf in jax.tree.leaves(variables):
            if jax.dtypes.issubdtype(leaf.dtype, np.floating):
                arguments.append(self.new(np.shape(leaf)))
                parameters.append(arguments[-1].ravel())
            else:
                arguments.append(Constant(leaf))
        self.parameters = np.concatenate(parameters)
        first, values = self._size, [np.zeros(0)]
        for leaf in jax.tree.leaves(inputs):
            is_key = jax.dtypes.issubdtype(
                getattr(leaf, "dtype", float), jax.dtypes.prng_key
            )
            if not is_key:
                values.append(np.ravel(leaf))
            arguments.append(Constant(leaf) if is_key else self.new(np.shape(leaf)))
        self.inputs = np.arange(first, self._size)
        self._input_values = np.concatenate(values)
        results = self._run(closed.jaxpr, closed.consts, arguments)
        self.outputs = [self.ids(result) for result in results]

    def new(self, shape) -> np.ndarray:
        """New numbers in an array."""
        count = math.prod(shape)
        self._size += count
        return np.arange(self._size - count, self._size).reshape(shape)

    def ids(self, value: Any) -> np.ndarray:
        """Numbers of an array, those of a constant made for it."""
        if not isinstance(value, Constant):
            return value
        if value.ids is None:
            value.ids = self.new(np.shape(value.value))
            self._constants.append((value.ids.ravel(), np.ravel(value.value)))
        return value.ids

    def add(self, key, operands, evaluate, is_symmetric=False, shape=None):
        """Appends an operation on `[*shape, k]` or, of products, `[*shape, k, 2]`."""
        extra = 2 if key.startswith("dot") else 1
        shape = operands.shape[: operands.ndim - extra] if shape is None else shape
        results = self.new(shape)
        operands = operands.reshape(-1, *operands.shape[operands.ndim - extra :])
        self.operations.append(
            Operation(key, results.ravel(), operands, evaluate, is_symmetric)
        )
        return results

    def _run(self, jaxpr, constants, arguments) -> list:
        known: dict[Any, Any] = {}
        for var, value in zip(jaxpr.constvars, constants, strict=True):
            known[var] = value if _is_known(value) else Constant(value)
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom):
            is_literal = isinstance(atom, jax.extend.core.Literal)
            return Constant(atom.val) if is_literal else known[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            known.update(
                zip(equation.outvars, self._equation(equation, values), strict=True)
            )
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation, values) -> list:
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._scan(params, values)
        for field in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            body = params.get(field)
            if body is not None and name not in ("while", "cond"):
                inner = getattr(body, "jaxpr", body)
                return self._run(inner, getattr(body, "consts", []), values)
        if name == "cond" and isinstance(values[0], Constant):
            branch = params["branches"][int(values[0].value)]
            return self._run(branch.jaxpr, branch.consts, values[1:])
        if all(isinstance(value, Constant) for value in values):
            known = [value.value for value in values]
            if name in _REPEATED and all(map(_is_plain, known)):
                return [Constant(_REPEATED[name](params, *map(np.asarray, known)))]
            found = equation.primitive.bind(*known, **params)
            found = found if equation.primitive.multiple_results else [found]
            return [Constant(value) for value in found]
        if name not in RULES:
            raise NotImplementedError(name)
        operands = Operands(self, values, [v.aval for v in equation.invars])
        shapes = [var.aval.shape for var in equation.outvars]
        return RULES[name](operands, {**params, "name": name}, shapes)

    def _scan(self, params, values) -> list:
        if "num_consts" in params:
            first, carried = params["num_consts"], params["num_carry"]
        else:  # from jax 0.12 on
            first, carried, _ = (len(list(p)) for p in params["ft_in"].unpack())
        body, last = params["jaxpr"], first + carried
        constants, carry, rows = values[:first], values[first:last], values[last:]
        order = range(params["length"])
        found: dict[int, list] = {}
        for step in reversed(order) if params["reverse"] else order:
            inputs = [
                Constant(r.value[step]) if isinstance(r, Constant) else r[step]
                for r in rows
            ]
            arguments = [*constants, *carry, *inputs]
            results = self._run(body.jaxpr, body.consts, arguments)
            carry, found[step] = results[:carried], results[carried:]
        columns = zip(*(found[step] for step in order), strict=True)
        return [*carry, *(np.stack([self.ids(v) for v in c]) for c in columns)]

    def _needed(self, outputs: list[np.ndarray]) -> list[Operation]:
        """Operations that outputs depend on."""
        is_needed = np.zeros(self._size, bool)
        is_needed[np.concatenate([np.ravel(o) for o in outputs])] = True
        chosen = []
        for operation in reversed(self.operations):
            kept = is_needed[operation.results]
            if kept.any():
                operation = dataclasses.replace(
                    operation,
                    results=operation.results[kept],
                    operands=operation.operands[kept],
                )
                is_needed[operation.operands.ravel()] = True
                chosen.append(operation)
        return chosen[::-1]

    def evaluate(self, vectors: np.ndarray) -> np.ndarray:
        """Outputs `[P, outputs]` of networks with parameters `[P, M]`."""
        values = np.zeros((self._size, len(vectors)))
        values[self.parameters] = vectors.T
        values[self.inputs] = self._input_values[:, None]
        for ids, constants in self._constants:
            values[ids] = constants.astype(float)[:, None]
        with np.errstate(all="ignore"):
            for operation in self._needed(self.outputs):
                found = operation.evaluate(values[operation.operands])
                values[operation.results] = found
        return values[np.concatenate([o.ravel() for o in self.outputs])].T

    def group_order_bound(self, *, num_rounds: int = 12) -> float:
        """Logarithm of the largest number of symmetries that colours allow.

        Parameters of one colour are told apart one after the other, until all have
        colours of their own: the numbers of equally coloured ones multiply. Counted are
        symmetries that leave the outputs of the first example alone, of parameters that
        these depend on.
        """
        first = [o[:1] if o.ndim > 1 else o.ravel() for o in self.outputs]
        return _Refinement(self, first).bound(num_rounds)


class Constant:
    """An array that is known."""

    def __init__(self, value: Any):
        is_key = jax.dtypes.issubdtype(
            getattr(value, "dtype", float), jax.dtypes.prng_key
        )
        self.value = value if is_key else np.asarray(value)
        self.ids: np.ndarray | None = None


def _is_known(value: Any) -> bool:
    return isinstance(value, Constant)


_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def _mixed(values: np.ndarray) -> np.ndarray:
    """Numbers that look random, equal for equal numbers; uint64."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def _word(text: str) -> np.uint64:
    import hashlib

    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), "u8")[
        0
    ]


class _Refinement:
    def __init__(self, program: ScalarProgram, outputs: list[np.ndarray]):
        self._operations = program._needed(outputs)
        self._outputs = np.concatenate([np.ravel(o) for o in outputs])
        size = program._size
        is_used = np.zeros(size, bool)
        for operation in self._operations:
            is_used[operation.operands.ravel()] = True
        self._parameters = program.parameters[is_used[program.parameters]]
        self._start = np.full((size, 1), 11, np.uint64)
        self._start[program.inputs, 0] = _mixed(
            np.arange(1, 1 + len(program.inputs)).astype(np.uint64)
        )
        self._is_zero = np.zeros(size, bool)
        for ids, values in program._constants:
            bits = values.astype(float).view(np.uint64)
            self._start[ids, 0] = _mixed(bits + np.uint64(77))
            self._is_zero[ids] = values == 0
        self._places = _mixed(
            np.arange(3, 3 + len(self._outputs)).astype(np.uint64) * _MIX[1]
        )[:, None]
        for operation in self._operations:
            self._prepare(operation)

    def _prepare(self, operation: Operation) -> None:
        operands = operation.operands
        key = _word(operation.key)
        keep = None
        if operation.key in ("dot", "sum"):
            is_zero = self._is_zero[operands]
            keep = ~(is_zero.any(-1) if operands.ndim == 3 else is_zero)
            keep = None if keep.all() else keep[..., None].astype(np.uint64)
        count = operands.shape[1]
        slots = np.zeros((count, 1), np.uint64)
        if not operation.is_symmetric:
            slots = _mixed(np.arange(1, count + 1).astype(np.uint64))[:, None]
        flat = operands.ravel()
        order = np.argsort(flat, kind="stable")
        targets, starts = np.unique(flat[order], return_index=True)
        operation.scatter = key, keep, slots, order, targets, starts

    def _pass(self, colors: np.ndarray) -> np.ndarray:
        """One round: colours of results from operands, then of operands from uses."""
        colors = colors.copy()
        for item in self._operations:
            key, keep, slots, *_ = item.scatter
            terms = colors[item.operands]
            terms = terms.sum(2) if terms.ndim == 4 else terms
            terms = _mixed(terms + slots)
            terms = terms if keep is None else terms * keep
            colors[item.results] = _mixed(
                _mixed(colors[item.results]) + terms.sum(1) + key
            )
        uses = np.zeros_like(colors)
        np.add.at(uses, self._outputs, np.broadcast_to(
            self._places, (len(self._outputs), colors.shape[1])))  # fmt: skip
        for item in reversed(self._operations):
            key, keep, slots, order, targets, starts = item.scatter
            above = _mixed(colors[item.results] + _mixed(uses[item.results])) ^ key
            if item.operands.ndim == 3:
                pairs = colors[item.operands]
                terms = _mixed(above[:, None, None] + _mixed(pairs[:, :, ::-1]))
                terms = terms if keep is None else terms * keep[:, :, None]
            else:
                terms = _mixed(above[:, None] + _mixed(slots + np.uint64(5)))
                terms = terms if keep is None else terms * keep
            terms = terms.reshape(-1, colors.shape[1])[order]
            uses[targets] += np.add.reduceat(terms, starts, axis=0)
        return _mixed(colors + _mixed(uses))

    def _count(self, colors: np.ndarray) -> list[int]:
        """Numbers of colours of the parameters, column by column."""
        ordered = np.sort(colors[self._parameters], axis=0)
        return (1 + np.sum(ordered[1:] != ordered[:-1], axis=0)).tolist()

    def _refine(self, colors: np.ndarray, num_rounds: int) -> np.ndarray:
        counts = None
        for _ in range(num_rounds):
            colors = self._pass(colors)
            found = self._count(colors)
            if found == counts or min(found) == len(self._parameters):
                break
            counts = found
        return colors

    def bound(self, num_rounds: int) -> float:
        colors = self._refine(self._start, num_rounds)
        total = 0.0
        while True:
            found, which, sizes = np.unique(
                colors[self._parameters, 0], return_inverse=True, return_counts=True
            )
            if len(found) == len(self._parameters):
                return total
            # The smallest class of several: one more member is marked per column.
            chosen = np.argmin(np.where(sizes > 1, sizes, len(which) + 1))
            members = self._parameters[np.nonzero(which == chosen)[0]][:-1]
            stages = np.repeat(colors, len(members), axis=1)
            for stage, member in enumerate(members):
                stages[member, stage:] ^= _mixed(np.array([99 + stage], np.uint64))
            stages = self._refine(stages, num_rounds)
            total += math.log(len(members) + 1)
            for stage, member in enumerate(members[1:]):
                column = stages[self._parameters, stage]
                total += math.log(np.sum(column == stages[member, stage]))
            colors = stages[:, -1:]
