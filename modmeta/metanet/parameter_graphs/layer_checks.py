"""Whether the layers of a model compute what their rules say.

A rule is chosen by the class of a module, but what a layer computes can be changed in
many ways: a subclass that masks a parameter, a hook, a lifted transformation that maps
the variables, an argument that takes another product. So the operations of every call
are compared with those of the plain class. They are what a rule stands for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from modmeta.metanet.parameter_graphs.program import Name, Program, Step


class _Terms:
    """Numbers for values, equal for values that are computed in the same way."""

    def __init__(self):
        self._numbers: dict[Any, int] = {}

    def number(self, key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def read(self, value: Any, known: dict[Name, int]) -> int:
        if isinstance(value, Name):
            return known.setdefault(value, self.number(("unknown", value.number)))
        if jax.dtypes.issubdtype(getattr(value, "dtype", float), jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        return self.number(("constant", str(array.dtype), array.shape, array.tobytes()))

    def results(
        self, steps: list[Step], known: dict[Name, int], results: list[Any]
    ) -> list[int]:
        """Numbers of results, given those of the names that they start from."""
        known = dict(known)
        for step in steps:
            inputs = tuple(self.read(value, known) for value in step.inputs)
            settings = repr(sorted((k, str(v)) for k, v in step.params.items()))
            for index, name in enumerate(step.outputs):
                key = (step.primitive.name, settings, inputs, index)
                known.setdefault(name, self.number(key))
        return [self.read(result, known) for result in results]


class LayerChecks:
    """Compares layers of one program with the classes of their rules."""

    def __init__(self, program: Program):
        self._aliases = program.aliases(lambda _: True)
        self._shapes = program.shapes()
        self._makers = {
            name: dataclasses.replace(step, inputs=self._resolved(step.inputs))
            for step in program.steps
            for name in step.outputs
            if name not in self._aliases
        }

    def _resolved(self, values: list[Any]) -> list[Any]:
        return [
            self._aliases.get(value, value) if isinstance(value, Name) else value
            for value in values
        ]

    def _body(self, outcome: list[Any], known: dict[Name, int]) -> list[Step]:
        """The operations between known names and an outcome, in order."""
        steps: dict[int, Step] = {}
        waiting = [value for value in outcome if isinstance(value, Name)]
        seen = set(known)
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._makers:
                continue
            step = self._makers[name]
            seen.update(step.outputs)
            steps[step.outputs[0].number] = step
            waiting += [value for value in step.inputs if isinstance(value, Name)]
        return [steps[number] for number in sorted(steps)]

    def computes_its_rule(self, step: Step) -> bool:
        """True if the marked layer does what the plain class of its rule does."""
        record = step.params["record"]
        arrays, variables, outcome = record.split(self._resolved(step.inputs))
        operands = [*arrays, *variables]

        def apply(values):
            waiting = iter(values)
            filled = [
                next(waiting) if isinstance(value, Name) else value
                for value in operands
            ]
            args, kwargs = record.call_arguments(filled[: len(arrays)])
            tree = jax.tree.unflatten(record.variables, filled[len(arrays) :])
            plain = record.registration.plain(record.module)
            return jax.tree.leaves(plain.apply(tree, *args, **kwargs))

        names = [value for value in operands if isinstance(value, Name)]
        try:
            closed = jax.make_jaxpr(apply)([self._shapes[name] for name in names])
        except Exception:  # whatever it is, the layer was not called like this
            return False
        reference = Program(closed)
        terms = _Terms()
        known = {name: terms.number(("input", name.number)) for name in names}
        start = {
            inner: known[outer]
            for inner, outer in zip(reference.inputs, names, strict=True)
        }
        body = self._body(outcome, known)
        return terms.results(body, known, outcome) == terms.results(
            reference.steps, start, reference.results
        )
