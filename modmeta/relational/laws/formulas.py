"""A formula for a curve: symbolic regression by Operon, made short.

Of the packages for it, pyoperon found the laws of springs, charges, oscillators and
neutral atoms in seconds; gplearn, in pure Python, took four times as long and missed
the last; PySR needs an installation of Julia.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from modmeta.relational.laws.curves import LawCurve
from modmeta.runtime.optional import import_optional

_SYMBOLS = "add,sub,mul,div,pow,exp,sin,constant,variable"
_MAX_LENGTH = 12
_MAX_EVALUATIONS = 60_000
# Rows that the search sees: points of the curve, repeated by what they count.
_NUM_ROWS = 300
# Of a rate: an error that is none. Small rates are known to a share of the typical one.
_RELATIVE_ERROR, _ABSOLUTE_ERROR = 0.02, 1e-2
# Deviations of the curve within which it follows a formula.
_FOLLOWS = 3.0
# A law whose band tells it from zero at a smaller share of the inputs is none; and of a
# longer formula such a share is no gain.
_FEW = 0.05
_DIGITS = 4


class Formula(NamedTuple):
    """A law in closed form.

    Attributes:
      text: Of `d`, a distance, or `phi`, a phase difference; in the user's units.
      low: From this input on,
      high: and up to this one the curve follows it; beyond, it does not.
      r_squared: Share of the variance of the curve that it explains there, by how often
        inputs occur; None where it does not vary there.
      length: Symbols and numbers in it, before it was simplified.
    """

    text: str
    low: float
    high: float
    r_squared: float | None
    length: int


def find_formula(curve: LawCurve, *, seed: int = 0) -> Formula:
    """The shortest formula that a curve follows as far as any.

    That is within three deviations of 2 % of a rate or of its band, whatever is wider,
    by how often inputs occur. It need not hold everywhere: see `Formula.low`. Zero
    where the band tells hardly any rate from zero.

    Args:
      curve: The law of a relation.
      seed: Seed of the search.

    Raises:
      ImportError: If the extra "formulas" is not installed.
    """
    operon = import_optional("pyoperon.sklearn", "formulas")
    sympy = import_optional("sympy", "formulas")
    is_told = (curve.lower > 0.0) | (curve.upper < 0.0)
    if np.sum(curve.weights[is_told]) < _FEW:
        ends = float(curve.inputs[0]), float(curve.inputs[-1])
        return Formula("0", *ends, None, 1)
    deviations = _deviations(curve)
    # Least squares without weights: between equal shares, in which the largest rates
    # are all that counts, and those of the likelihood, in which the smallest are.
    share = np.sqrt(curve.weights) / deviations
    counts = np.rint(_NUM_ROWS * share / share.sum()).astype(int)
    rows = np.repeat(np.arange(len(counts)), counts)
    inputs, rates = curve.inputs[rows, None], curve.rates[rows]
    unit = float(np.sqrt(np.mean(np.square(rates))))
    search = operon.SymbolicRegressor(
        allowed_symbols=_SYMBOLS,
        max_length=_MAX_LENGTH,
        objectives=["r2", "length"],
        optimizer_iterations=5,
        population_size=500,
        max_evaluations=_MAX_EVALUATIONS,
        uncertainty=[1.0],
        n_threads=1,
        random_state=seed,
    )
    search.fit(inputs, rates / unit)

    front = sorted(search.pareto_front_, key=lambda entry: entry["complexity"])
    values = [
        unit * search.evaluate_model(entry["tree"], curve.inputs[:, None])
        for entry in front
    ]
    parts = [
        _longest(np.abs(found - curve.rates) <= _FOLLOWS * deviations)
        for found in values
    ]
    shares = [np.sum(curve.weights[part]) for part in parts]
    # The first is the shortest.
    index = int(np.argmax(np.array(shares) >= max(shares) - _FEW))
    chosen, there = front[index], parts[index]
    name = "d" if curve.variable == "distance" else "phi"
    text = search.get_model_string(chosen["tree"], 12, [name])
    variable = sympy.Symbol(name, positive=name == "d")
    found = unit * sympy.sympify(text.replace("^", "**"), {name: variable})
    shown = sympy.expand_power_base(sympy.expand(found), force=True).evalf(_DIGITS)
    part = dataclasses.replace(
        curve,
        inputs=curve.inputs[there],
        rates=curve.rates[there],
        weights=curve.weights[there] / max(curve.weights[there].sum(), 1e-30),
    )
    r_squared = part.r_squared(lambda _: values[index][there])
    return Formula(
        str(shown).replace("**", "^"),
        float(part.inputs[0]),
        float(part.inputs[-1]),
        r_squared if np.isfinite(r_squared) else None,
        int(chosen["complexity"]),
    )


def _longest(is_true: np.ndarray) -> slice:
    """The longest run of true values; the first value where there is none."""
    edges = np.diff(np.pad(is_true.astype(int), 1))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return slice(0, 1)
    longest = np.argmax(ends - starts)
    return slice(int(starts[longest]), int(ends[longest]))


def _deviations(curve: LawCurve) -> np.ndarray:
    """How far every point of a curve is known, `[C]`."""
    typical = float(np.sum(curve.weights * np.abs(curve.rates)))
    return np.sqrt(
        np.square(0.25 * (curve.upper - curve.lower))
        + np.square(_RELATIVE_ERROR * curve.rates)
        + (_ABSOLUTE_ERROR * typical) ** 2
    )
