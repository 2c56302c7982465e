"""The worst verdict decides; what is not a number is measured as None."""

from __future__ import annotations

import math

import pytest

from alexnet_mlflow import checks
from alexnet_mlflow.checks import Check
from alexnet_mlflow.checks.check import judge


def verdicts(*names: checks.Verdict) -> list[Check]:
    return [Check("x", name, 0.0, 0.0, 0.0, "x.") for name in names]


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        ((), "pass"),
        (("pass", "pass"), "pass"),
        (("pass", "warn"), "warn"),
        (("warn", "fail", "pass"), "fail"),
        (("fail",), "fail"),
    ],
)
def test_overall_is_the_worst(names: tuple[checks.Verdict, ...], verdict: str) -> None:
    assert checks.overall(verdicts(*names)) == verdict
    assert checks.overall(iter(verdicts(*names))) == verdict


@pytest.mark.parametrize("otherwise", ["fail", "warn"])
def test_judge_says_which_side(otherwise: checks.Verdict) -> None:
    good = judge("x", True, 1.0, 2.0, 3.0, ("Good.", "Bad."), otherwise)
    assert good == Check("x", "pass", 1.0, 2.0, 3.0, "Good.")
    bad = judge("x", False, 1.0, math.inf, 3.0, ("Good.", "Bad."), otherwise)
    assert bad == Check("x", otherwise, 1.0, None, 3.0, "Bad.")
