"""Formulas of a benchmark's file."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabridge.bridge.errors import UserError
from metabridge.eval.scorers.rubric_formula import read

NAMES = ("a", "b", "c")


@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 10))
def test_it_computes_what_it_says(a: int, b: int, c: int) -> None:
    values = {"a": float(a), "b": float(b), "c": float(c)}
    for text, expected in {
        "(0.7 * a + 0.2 * b + 0.1 * c) / 2": (0.7 * a + 0.2 * b + 0.1 * c) / 2,
        "sqrt(a * min(b, c))": math.sqrt(a * min(b, c)),
        "mean(a, b, c) - -max(a, 3) / c": (a + b + c) / 3 + max(a, 3) / c,
        "4 * min(a, 1) + 1": 5.0 if a else 1.0,
    }.items():
        assert read(text, NAMES, "scoring.values.x")(values) == expected


def test_it_knows_what_it_needs() -> None:
    assert read("sqrt(a * min(b, 1))", NAMES, "x").names == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a +", "scoring.values.x: 'a +' is no formula; write one as (0.7 * a + 0.3 * b) / 2"),
        ("", "scoring.values.x: '' is no formula; write one as (0.7 * a + 0.3 * b) / 2"),
        ("a + d", "scoring.values.x: d: no such score; it may be one of: a, b, c"),
        ("a ** b", "scoring.values.x: 'a ** b' is not for a formula; it has numbers, names, + - * / and min, max, mean, sqrt"),
        ("open('x')", "scoring.values.x: \"open('x')\" is not for a formula; it has numbers, names, + - * / and min, max, mean, sqrt"),
        ("min()", "scoring.values.x: 'min()' is not for a formula; it has numbers, names, + - * / and min, max, mean, sqrt"),
        ("a.real", "scoring.values.x: 'a.real' is not for a formula; it has numbers, names, + - * / and min, max, mean, sqrt"),
        (
            "a if b else True",
            "scoring.values.x: 'a if b else True' is not for a formula; it has numbers, names, + - * / and min, max, mean, sqrt",
        ),
        ("sqrt(a, b)", "scoring.values.x: sqrt is of one number"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        read(text, NAMES, "scoring.values.x")
    assert str(error.value) == why


@pytest.mark.parametrize(("text", "what"), [("a / b", "float division by zero"), ("sqrt(b - a)", "math domain error")])
def test_no_value(text: str, what: str) -> None:
    with pytest.raises(UserError) as error:
        read(text, NAMES, "scoring.values.x")({"a": 2.0, "b": 0.0, "c": 1.0})
    assert str(error.value) == f"scoring.values: {text!r} has no value for a 2, b 0 ({what}); mend the formula"
