"""Formulas of curves against the laws that the curves were drawn from."""

import re

import numpy as np
import pytest

from modmeta.relational import LawCurve, find_formula
from modmeta.runtime import optional


def curve(law, at, variable="distance", band=0.01):
    """A curve that is known to a share of its size, and wiggles that much."""
    rates = law(at) * (1.0 + 0.3 * band * np.sin(7.0 * at))
    width = band * np.abs(rates) + 1e-4
    weights = np.exp(-0.5 * np.square(np.log(np.abs(at) + 1e-3)))
    return LawCurve(
        relation=0,
        variable=variable,
        inputs=at,
        rates=rates,
        lower=rates - width,
        upper=rates + width,
        weights=weights / weights.sum(),
        num_edges=1,
    )


DISTANCES = np.geomspace(0.1, 8.0, 150)


@pytest.mark.parametrize("coefficient, exponent", [(0.1, 1.0), (-1.5, -2.0)])
def test_powers(coefficient, exponent):
    found = find_formula(curve(lambda d: coefficient * d**exponent, DISTANCES))
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", found.text)]
    assert "d" in found.text and "exp" not in found.text and "sin" not in found.text
    assert np.isclose(np.abs(numbers), abs(coefficient), rtol=0.03).any()
    assert exponent == 1.0 or np.isclose(np.abs(numbers), abs(exponent), 0.02).any()
    assert found.r_squared > 0.999 and found.length < 12


def test_a_formula_says_how_far_the_curve_follows_it():
    """Inverse squares that are cut off near zero, where little is known of them."""
    given = curve(lambda d: np.minimum(d**-2.0, 25.0), DISTANCES, band=0.02)
    found = find_formula(given)
    assert 0.1 < found.low < 0.3 and found.high > 5.0 and found.r_squared > 0.99


def test_sine_of_a_phase_difference():
    at = np.linspace(-np.pi, np.pi, 150)
    found = find_formula(curve(np.sin, at, "phase difference"))
    assert "sin" in found.text and "phi" in found.text and found.r_squared > 0.999


def test_what_the_band_does_not_tell_from_zero_is_zero():
    nothing = curve(lambda d: 1e-6 * np.sin(d), DISTANCES)
    assert find_formula(nothing).text == "0"


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"modmeta\[formulas\]"):
        find_formula(curve(np.sin, DISTANCES))
