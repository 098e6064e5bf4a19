"""Fields of configurations by their paths: what `--set` reaches and refuses."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from flax.core import FrozenDict

from experiments import common
from experiments.relational_inference import config as relational


@dataclasses.dataclass(frozen=True)
class Inner:
    kind: str = "a"
    options: Mapping[str, Any] = FrozenDict()
    rates: tuple[float, ...] = (1.0,)
    pair: tuple[int, float] = (1, 1.0)
    limit: float | None = None
    mode: Literal["fast", "slow"] = "fast"

    def __post_init__(self):
        allowed = {"a": {"beam_size"}, "b": {"width"}}[self.kind]
        unknown = set(self.options) - allowed
        if unknown:
            raise ValueError(f"options: found {unknown}, expected some of {allowed}")


@dataclasses.dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    num_steps: int = 8
    rate: float = 0.5
    is_quick: bool = False
    seed: int = 0


def assigned(*assignments):
    return common.apply_assignments(Config(), assignments)


@pytest.mark.parametrize(
    "assignment, expected",
    [
        ("num_steps=3", 3),
        ("rate=3", 3.0),
        ("is_quick=True", True),
        ("inner.kind=a", "a"),
        ("inner.rates=[1, 2.5]", (1.0, 2.5)),
        ("inner.rates=()", ()),
        ("inner.pair=[2, 3]", (2, 3.0)),
        ("inner.limit=2", 2.0),
        ("inner.limit=None", None),
        ("inner.mode=slow", "slow"),
        ("inner.options.beam_size=16", 16),
        ("inner.options.beam_size=[1, 2]", (1, 2)),
        ("inner.options={'beam_size': 4}", {"beam_size": 4}),
    ],
)
def test_values_are_of_the_kind_of_their_field(assignment, expected):
    found = assigned(assignment)
    for name in assignment.partition("=")[0].split("."):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    assert found == expected and type(found) is type(
        FrozenDict() if isinstance(expected, dict) else expected
    )
    hash(assigned(assignment))


def test_order_does_not_matter():
    """Options are checked against the search that is chosen beside them."""
    first = assigned("inner.options.width=2", "inner.kind=b")
    assert first == assigned("inner.kind=b", "inner.options.width=2")
    assert first.inner.options == {"width": 2}
    assert assigned("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("num_steps=many", "found 'many' for 'num_steps', expected something like 8"),
        ("num_steps=True", "found True for 'num_steps', expected something like 8"),
        ("is_quick=1", "found 1 for 'is_quick', expected something like False"),
        ("inner.rates=(1, 'b')", "found .* for 'inner.rates', expected something like"),
        ("inner.pair=(1,)", "for 'inner.pair', expected something like"),
        ("inner.limit=low", "found 'low' for 'inner.limit', expected float or None"),
        ("inner.mode=quick", "found 'quick' for 'inner.mode'"),
        ("inner.options=3", "found 3 for 'inner.options'"),
        ("inner.options.beams=3", "options: found {'beams'}, expected some of"),
        ("inner.options.a.b=3", "found no field 'inner.options.a.b'"),
        (
            "inner=3",
            "found 3 for 'inner', expected values of its fields, as inner.kind=...: "
            "kind, options, rates",
        ),
        ("seed.value=3", "found no field 'seed.value'"),
        ("num_step=3", "found no field 'num_step'; did you mean 'num_steps'?"),
        ("inner.num_steps=3", "found no field 'inner.num_steps'; did you mean 'num_st"),
        ("limit=3", "found no field 'limit'; did you mean 'inner.limit'?"),
        ("zzz=3", "found no field 'zzz', expected one of inner, num_steps, rate"),
        ("num_steps", "--set: found 'num_steps', expected path=value"),
    ],
)
def test_what_is_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        assigned(assignment)


def test_a_field_and_parts_of_it():
    with pytest.raises(ValueError, match="expected one of them"):
        assigned("inner.options={'beam_size': 1}", "inner.options.beam_size=2")
    with pytest.raises(ValueError, match="expected one of them"):
        assigned("inner.options.beam_size=2", "inner.options={'beam_size': 1}")


@pytest.mark.parametrize(
    "assignments, expected",
    [
        (["options.beam_size=16", "algorithm=integer_least_squares"], (16,)),
        (["algorithm=parallel_tempering", "options.factors=[1.0, 3.0]"], ((1.0, 3.0),)),
    ],
)
def test_options_of_a_search(assignments, expected):
    config = common.apply_assignments(
        relational.springs(), [f"inference.{text}" for text in assignments]
    )
    assert tuple(config.inference.options.values()) == expected
    hash(config)


@pytest.mark.parametrize(
    "option, message",
    [
        (
            "beams=3",
            "found .'beams'. for 'integer_least_squares', expected some",
        ),
        (
            "beam_size=many",
            "options.beam_size: found 'many', expected something like 0",
        ),
        ("beam_size=3", "beam_size: found 3, expected 0 or at least"),
    ],
)
def test_wrong_options_of_a_search(option, message):
    with pytest.raises(ValueError, match=message):
        common.apply_assignments(
            relational.springs(),
            [
                "inference.algorithm=integer_least_squares",
                f"inference.options.{option}",
            ],
        )
