"""A formula for a curve: symbolic regression by Operon, made short.

Of the packages for it, pyoperon found the laws of springs, charges, oscillators and
neutral atoms in seconds; gplearn, in pure Python, took four times as long and missed
the last; PySR needs an installation of Julia.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modmeta.relational.evaluation.laws import LawCurve
from modmeta.runtime.optional import import_optional

_SYMBOLS = "add,sub,mul,div,pow,exp,sin,constant,variable"
_MAX_LENGTH = 12
_MAX_EVALUATIONS = 100_000
# Rows that the search sees: points of the curve, repeated by what they count.
_NUM_ROWS = 1000
# Of a rate: an error that is none. Small rates are known to a share of the typical one.
_RELATIVE_ERROR, _ABSOLUTE_ERROR = 0.02, 1e-2
# A law whose band tells it from zero at a smaller share of the inputs is none.
_FEW = 0.05
_DIGITS = 4


class Formula(NamedTuple):
    """A law in closed form.

    Attributes:
      text: Of `d`, a distance, or `phi`, a phase difference; in the user's units.
      r_squared: Share of the variance of the curve that it explains, by how often
        inputs occur.
      length: Symbols and numbers in it, before it was simplified.
    """

    text: str
    r_squared: float
    length: int


def find_formula(curve: LawCurve, *, seed: int = 0) -> Formula:
    """The shortest formula that is as near to the curve as the curve is known.

    That is to 2 % of a rate or to its band, whatever is wider, on the average over the
    inputs that occur; where none is, the nearest one. Zero where the band tells hardly
    any rate from zero.

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
        return Formula("0", float("nan"), 1)
    deviations = _deviations(curve)
    share = curve.weights / np.square(deviations)
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

    def error(entry):
        found = unit * search.evaluate_model(entry["tree"], inputs)
        return np.mean(np.square((found - rates) / deviations[rows]))

    front = sorted(search.pareto_front_, key=lambda entry: entry["complexity"])
    chosen = next((e for e in front if error(e) <= 1.0), min(front, key=error))
    name = "d" if curve.variable == "distance" else "phi"
    text = search.get_model_string(chosen["tree"], 12, [name])
    variable = sympy.Symbol(name, positive=name == "d")
    found = unit * sympy.sympify(text.replace("^", "**"), {name: variable})
    law = sympy.lambdify(variable, found, "numpy")
    shown = sympy.expand_power_base(sympy.expand(found), force=True).evalf(_DIGITS)
    return Formula(
        str(shown).replace("**", "^"),
        curve.r_squared(lambda at: np.broadcast_to(law(at), at.shape)),
        int(chosen["complexity"]),
    )


def _deviations(curve: LawCurve) -> np.ndarray:
    """How far every point of a curve is known, `[C]`."""
    typical = float(np.sum(curve.weights * np.abs(curve.rates)))
    return np.sqrt(
        np.square(0.25 * (curve.upper - curve.lower))
        + np.square(_RELATIVE_ERROR * curve.rates)
        + (_ABSOLUTE_ERROR * typical) ** 2
    )
