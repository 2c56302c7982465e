"""Each check on both sides of its tolerance, and on what is not a number."""

from __future__ import annotations

import math

import pytest

from alexnet_mlflow import checks
from alexnet_mlflow.checks import Check

LN10, LN2 = math.log(10), math.log(2)
NEAR = 1e-9


def judge(check: Check, verdict: str) -> None:
    assert check.verdict == verdict
    assert check.measured is None or math.isfinite(check.measured)
    assert check.sentence.endswith(".")


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
    ("measured", "verdict"),
    [
        (0.0, "pass"),
        (LN10, "pass"),
        (LN10 * 1.05 - NEAR, "pass"),
        (LN10 * 1.05 + NEAR, "fail"),
        (math.nan, "fail"),
        (math.inf, "fail"),
    ],
)
def test_first_epoch_loss(measured: float, verdict: str) -> None:
    check = checks.first_epoch_loss(measured, 10)
    judge(check, verdict)
    assert check.name == "first_epoch_loss"


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (LN10, "pass"),
        (LN10 * 1.01 - NEAR, "pass"),
        (LN10 * 1.01 + NEAR, "fail"),
        (LN10 * 0.99 + NEAR, "pass"),
        (LN10 * 0.99 - NEAR, "fail"),
        (math.nan, "fail"),
        (math.inf, "fail"),
    ],
)
def test_lr_too_low(after: float, verdict: str) -> None:
    check = checks.lr_too_low(LN10, after, 1e-6, 10)
    judge(check, verdict)
    assert check.name == "lr_too_low"
    assert "1e-06" in check.sentence
    if math.isfinite(after):
        assert check.measured == pytest.approx(abs(after - LN10))
    else:
        assert check.measured is None


def test_lr_too_low_that_starts_from_no_number() -> None:
    judge(checks.lr_too_low(math.nan, LN10, 1e-6, 10), "fail")


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (10 * LN10, "pass"),
        (10 * LN10 - NEAR, "fail"),
        (LN10, "fail"),
        (0.0, "fail"),
        (math.nan, "pass"),
        (math.inf, "pass"),
    ],
)
def test_lr_too_high(after: float, verdict: str) -> None:
    check = checks.lr_too_high(after, 1e6, 10)
    judge(check, verdict)
    assert check.name == "lr_too_high"
    assert check.measured == (after if math.isfinite(after) else None)


@pytest.mark.parametrize(
    ("accuracy", "diverged", "verdict"),
    [
        (1.0, False, "pass"),
        (0.9999, False, "fail"),
        (0.0, False, "fail"),
        (1.0, True, "fail"),
        (math.nan, False, "fail"),
    ],
)
def test_overfits(accuracy: float, diverged: bool, verdict: str) -> None:
    check = checks.overfits(accuracy, epochs=7, pictures=64, diverged=diverged)
    judge(check, verdict)
    assert check.name == "overfits"
    assert "64 pictures" in check.sentence
    assert "7 epochs" in check.sentence


def test_a_sentence_says_which_side() -> None:
    good, bad = checks.first_loss(LN10, 10), checks.first_loss(5.0, 10)
    assert "is near" in good.sentence
    assert "is not near" in bad.sentence


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


def counts(**train: int) -> dict[str, dict[str, int]]:
    return {"train": train, "val": dict(train), "test": dict(train)}


@pytest.mark.parametrize(
    ("train", "verdict"),
    [
        ({"a": 50, "b": 50}, "pass"),
        ({"a": 75, "b": 25}, "pass"),
        ({"a": 76, "b": 24}, "warn"),
        ({"a": 20, "b": 40, "c": 40, "d": 40, "e": 60}, "pass"),
        ({"a": 20, "b": 20, "c": 20, "d": 20, "e": 60}, "warn"),
    ],
)
def test_classes_balanced(train: dict[str, int], verdict: str) -> None:
    judge(checks.classes_balanced(counts(**train)), verdict)


def test_a_class_that_is_missing_fails() -> None:
    known = counts(a=5, b=5)
    known["test"]["b"] = 0
    check = checks.classes_balanced(known)
    judge(check, "fail")
    assert "'b' in test" in check.sentence


@pytest.mark.parametrize(
    ("exact", "seen", "published", "verdict", "part"),
    [
        (0, 0, False, "pass", "No picture"),
        (0, 3, True, "warn", "3 of 200"),
        (2, 2, True, "warn", "2 of 200"),
        (2, 2, False, "warn", "same group in a CSV"),
    ],
)
def test_no_duplicates_across(
    exact: int, seen: int, published: bool, verdict: str, part: str
) -> None:
    check = checks.no_duplicates_across(exact, seen, 200, published)
    judge(check, verdict)
    assert part in check.sentence and check.measured == seen / 200


@pytest.mark.parametrize(("divided", "verdict"), [(0, "pass"), (1, "fail")])
def test_groups_whole(divided: int, verdict: str) -> None:
    judge(checks.groups_whole(divided, 10), verdict)


@pytest.mark.parametrize(
    ("correct", "p_value", "paired", "verdict"),
    [
        (520, 0.2, True, "pass"),
        (519, 1e-9, True, "pass"),  # too little to matter
        (600, 1e-9, True, "fail"),
        (600, 1e-9, False, "warn"),
        (600, 0.002, True, "pass"),  # by chance
    ],
)
def test_metadata_at_chance(correct: int, p_value: float, paired: bool, verdict: str) -> None:
    judge(checks.metadata_at_chance(correct, 500, 1000, p_value, paired), verdict)


@pytest.mark.parametrize(
    ("confident", "against", "reliable", "verdict"),
    [(0, 0, True, "pass"), (11, 0, True, "warn"), (11, 0, False, "pass"), (0, 1, False, "warn")],
)
def test_labels_plausible(confident: int, against: int, reliable: bool, verdict: str) -> None:
    judge(checks.labels_plausible(confident, against, 1000, reliable), verdict)
