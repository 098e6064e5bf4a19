"""Types of options: what fits, what is settled, and what is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from modmeta import metanet, relational
from modmeta.runtime import option_types


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclasses.dataclass(frozen=True)
class Options:
    count: int = 1
    rate: float = 0.5
    name: str = "a"
    is_on: bool = False
    sizes: tuple[int, ...] = (1,)
    limit: float | None = None
    inner: Inner = Inner()

    def __post_init__(self):
        option_types.settle(self)


@pytest.mark.parametrize(
    "field, value, kept",
    [
        ("count", np.int32(3), 3),
        ("rate", 2, 2),
        ("rate", np.float32(0.25), 0.25),
        ("is_on", np.bool_(True), True),
        ("sizes", [3, np.int64(4)], (3, 4)),
        ("limit", None, None),
        ("limit", 1, 1),
        ("inner", Inner(2), Inner(2)),
    ],
)
def test_what_fits_is_settled(field, value, kept):
    options = Options(**{field: value})
    found = getattr(options, field)
    assert found == kept and type(found) is type(kept)
    hash(options)


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("count", "a", "count: found 'a', expected a whole number"),
        ("count", 1.0, "count: found 1.0, expected a whole number"),
        ("count", True, "count: found True, expected a whole number"),
        ("count", None, "count: found None, expected a whole number"),
        ("count", np.ones(2), r"count: found array.*, expected a whole number"),
        ("rate", "a", "rate: found 'a', expected a number"),
        ("name", 3, "name: found 3, expected a text"),
        ("is_on", 1, "is_on: found 1, expected True or False"),
        ("sizes", 3, "sizes: found 3, expected a tuple, each entry a whole number"),
        ("sizes", (1, "b"), r"sizes: found \(1, 'b'\), expected a tuple, each entry"),
        ("limit", "a", "limit: found 'a', expected a number or None"),
        ("inner", {"size": 1}, "inner: found {'size': 1}, expected Inner"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(field, value, expected):
    with pytest.raises(ValueError, match=expected):
        Options(**{field: value})


@pytest.mark.parametrize(
    "config, field",
    [
        (config, field.name)
        for package in (relational, metanet)
        for config in vars(package).values()
        if dataclasses.is_dataclass(config) and config.__name__.endswith("Config")
        for field in dataclasses.fields(config)
        if field.type in ("int", "float", "bool", "str")
    ],
)
def test_every_public_configuration_checks_its_fields(config, field):
    with pytest.raises(ValueError, match=f"{field}: found .*, expected "):
        config(**{field: [None]})


def test_arguments_of_the_public_call():
    states = np.random.default_rng(0).normal(size=(4, 5, 3, 2))
    for name, value in (("num_restarts", "a"), ("seed", 1.5)):
        with pytest.raises(
            ValueError, match=f"{name}: found {value!r}, expected a who"
        ):
            relational.infer_relations(states, **{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"rate": -0.5},
        {"rate": np.nan},
        {"rate": np.inf},
        {"limit": 0.0},
        {"sizes": ()},
        {"sizes": (3, 0)},
    ],
)
def test_numbers_that_are_not_positive_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError) as error:
        option_types.check_positive(Options(**options))
    assert str(error.value) == f"{name}: found {value}, expected above 0"


def test_some_numbers_may_be_zero_and_others_are_left_alone():
    option_types.check_positive(Options())
    option_types.check_positive(Options(count=0), or_zero=("count",))
    with pytest.raises(ValueError, match="count: found -1, expected >= 0"):
        option_types.check_positive(Options(count=-1), or_zero=("count",))
