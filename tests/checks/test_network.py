"""Each check of network, step and input on both sides of its tolerance, and on nan."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alexnet_mlflow import checks
from tests.checks.judged import judge

LN10, LN2 = math.log(10), math.log(2)
NEAR = 1e-9


@pytest.mark.parametrize(
    ("measured", "classes", "verdict"),
    [
        (LN10, 10, "pass"),
        (LN10 * 1.05 - NEAR, 10, "pass"),
        (LN10 * 1.05 + NEAR, 10, "fail"),
        (LN10 * 0.95 + NEAR, 10, "pass"),
        (LN10 * 0.95 - NEAR, 10, "fail"),
        (LN2, 2, "pass"),
        (LN10, 2, "fail"),
        (math.nan, 10, "fail"),
        (math.inf, 10, "fail"),
    ],
)
def test_first_loss(measured: float, classes: int, verdict: str) -> None:
    check = checks.first_loss(measured, classes)
    judge(check, verdict)
    assert check.name == "first_loss"
    assert check.expected == math.log(classes)
    assert check.tolerance == pytest.approx(0.05 * math.log(classes))
    assert check.measured == (measured if math.isfinite(measured) else None)


@pytest.mark.parametrize(
    ("error", "verdict"), [(0.01, "fail"), (0.05, "pass"), (1.0, "pass"), (math.nan, "fail")]
)
def test_first_loss_of_few_pictures_has_room(error: float, verdict: str) -> None:
    judge(checks.first_loss(LN10 + 0.15, 10, error), verdict)


def test_first_loss_never_has_much_room() -> None:
    judge(checks.first_loss(LN10 * 1.11, 10, 100.0), "fail")


def test_a_sentence_says_which_side() -> None:
    good, bad = checks.first_loss(LN10, 10), checks.first_loss(5.0, 10)
    assert "is near" in good.sentence
    assert "is not near" in bad.sentence


@pytest.mark.parametrize(
    ("reported", "verdict"),
    [(LN10, "pass"), (LN10 * 1.04, "pass"), (32 * LN10, "fail"), (math.nan, "fail")],
)
def test_first_step_loss(reported: float, verdict: str) -> None:
    judge(checks.first_step_loss(reported, 10), verdict)


@pytest.mark.parametrize(
    ("farthest", "verdict"),
    [(0.1, "pass"), (0.109, "pass"), (0.111, "fail"), (0.089, "fail"), (math.nan, "fail")],
)
def test_class_share(farthest: float, verdict: str) -> None:
    judge(checks.class_share(farthest, 10), verdict)


@pytest.mark.parametrize(
    ("rise", "verdict"),
    [(1.5, "pass"), (1.56, "pass"), (1.6, "fail"), (0.0, "fail"), (-1.5, "fail"),
     (math.nan, "fail")],
)
def test_penalty_raises_loss(rise: float, verdict: str) -> None:
    judge(checks.penalty_raises_loss(rise, 1.5, 1e-3), verdict)


@pytest.mark.parametrize(
    ("worst", "verdict"), [(0.0, "pass"), (1e-4, "pass"), (1.1e-4, "fail"), (math.nan, "fail")]
)
def test_gradient(worst: float, verdict: str) -> None:
    check = checks.gradient(worst, "features.0.weight")
    judge(check, verdict)
    assert ("features.0.weight" in check.sentence) == (verdict == "fail")


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.0, "pass"), (1e-12, "fail"), (math.nan, "fail")]
)
def test_samples_independent(slope: float, verdict: str) -> None:
    judge(checks.samples_independent(slope), verdict)


@pytest.mark.parametrize(
    ("different", "promised", "verdict"),
    [(0, True, "pass"), (0, False, "pass"), (1, True, "fail"), (1, False, "warn")],
)
def test_deterministic(different: int, promised: bool, verdict: str) -> None:
    judge(checks.deterministic(different, 3, promised), verdict)


STORED = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize(
    ("levels", "wrong"),
    [
        (STORED, 0),
        (STORED[::-1] + 0.009, 0),  # in any order, but for rounding
        (STORED + 0.011, 4),
        (STORED + 256.0, 4),  # equal as uint8
        (STORED[:3], 1),
        (STORED[[0, 1, 2, 2]], 1),
        (STORED[[0, 1, 2, 3, 3]], 1),
        (STORED * np.nan, 4),
        (STORED / 255, 4),
    ],
)
def test_input_as_stored(levels: np.ndarray, wrong: int) -> None:
    with np.errstate(invalid="raise"):
        check = checks.input_as_stored(levels.astype(np.float32), STORED)
    judge(check, "fail" if wrong else "pass")
    assert check.measured == wrong / len(levels)


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(0.3, "pass"), (0.5, "pass"), (0.64, "pass"), (0.66, "fail")]
)
def test_blanked_at_majority(accuracy: float, verdict: str) -> None:
    judge(checks.blanked_at_majority(accuracy, 0.5, 100), verdict)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.0, "pass"), (0.6, "pass"), (0.61, "warn"), (0.95, "fail"), (1.0, "fail")],
)
def test_layers_alive(share: float, verdict: str) -> None:
    check = checks.layers_alive({"first": 0.0, "second": share})
    judge(check, verdict)
    assert verdict == "pass" or "second" in check.sentence
