"""Each check of a search on both sides of its tolerance."""

from __future__ import annotations

import pytest

from alexnet_mlflow import checks
from tests.checks.judged import judge


@pytest.mark.parametrize(
    ("best", "verdict", "way"),
    [(1e-2, "pass", "inside"), (1.8e-4, "pass", "inside"), (1.7e-4, "warn", "lower"),
     (1e-4, "warn", "lower"), (0.55, "pass", "inside"), (0.57, "warn", "higher"),
     (2.0, "warn", "higher")],
)
def test_optimum_inside(best: float, verdict: str, way: str) -> None:
    check = checks.optimum_inside(best, 1e-4, 1.0, "lr")
    judge(check, verdict)
    assert check.name == "optimum_inside_lr" and way in check.sentence


@pytest.mark.parametrize(
    ("diverged", "verdict"),
    [(0, "pass"), (12, "pass"), (15, "pass"), (16, "warn"), (19, "warn"), (20, "fail")],
)
def test_diverged_share(diverged: int, verdict: str) -> None:
    judge(checks.diverged_share(diverged, 20), verdict)


@pytest.mark.parametrize(
    ("second", "repeats", "verdict", "part"),
    [
        (0.80, (0.89, 0.91), "pass", "leads the second by 10.00%"),
        (0.89, (0.89, 0.91), "warn", "take either"),
        (0.89, (0.89,), "warn", "take either"),
        (0.88, (0.89,), "pass", "leads"),
        (0.90, (0.90, 0.90), "warn", "take either"),
        (0.80, (), "warn", "--repeats"),
        (None, (), "pass", "no second"),
        (None, (0.89, 0.91), "pass", "no second"),
    ],
)
def test_lead_above_noise(
    second: float | None, repeats: tuple[float, ...], verdict: str, part: str
) -> None:
    check = checks.lead_above_noise(0.90, second, repeats)
    judge(check, verdict)
    assert part in check.sentence
