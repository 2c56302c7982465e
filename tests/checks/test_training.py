"""Each check of rates and learning on both sides of its tolerance, and on nan."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alexnet_mlflow import checks
from tests.checks.judged import judge

LN10 = math.log(10)
NEAR = 1e-9


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


@pytest.mark.parametrize(
    ("accuracy", "loss", "verdict"),
    [(1.0, 0.0099, "pass"), (1.0, 0.01, "fail"), (0.95, 0.001, "fail"), (1.0, math.nan, "fail")],
)
def test_handful_by_heart(accuracy: float, loss: float, verdict: str) -> None:
    check = checks.handful_by_heart(20, accuracy, loss, 30)
    judge(check, verdict)
    assert check.name == "overfits_20"


LABELS = np.repeat(np.arange(2), 100)


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(0, "pass"), (40, "pass"), (78, "pass"), (79, "fail"), (100, "fail")]
)
def test_held_out_above_chance(wrong: int, verdict: str) -> None:
    """Of 200 in two equal classes chance has 100 right, give or take 7.09; three times that."""
    said = LABELS.copy()
    rows = np.concatenate([np.arange(wrong // 2), 100 + np.arange(wrong - wrong // 2)])
    said[rows] = 1 - said[rows]
    check = checks.held_out_above_chance(said, LABELS)
    judge(check, verdict)
    assert check.name == "held_out_above_chance" and check.measured == 1 - wrong / 200


def test_naming_the_largest_class_is_chance() -> None:
    labels = np.repeat([0, 1], [190, 10])
    check = checks.held_out_above_chance(np.zeros(200, np.int64), labels)
    judge(check, "fail")
    assert check.measured == check.expected == pytest.approx(0.95)


def test_a_diverged_net_is_not_above_chance() -> None:
    judge(checks.held_out_above_chance(np.full(200, -1), LABELS), "fail")


def test_a_few_pictures_tell_nothing() -> None:
    check = checks.held_out_above_chance(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
    judge(check, "warn")
    assert "too few" in check.sentence


def test_chance_is_what_shuffling_gives() -> None:
    dice = np.random.default_rng(0)
    labels, said = dice.integers(0, 5, 60), dice.choice(5, 60, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    right = [(dice.permutation(labels) == said).mean() for _ in range(20_000)]
    check = checks.held_out_above_chance(said, labels)
    assert check.expected == pytest.approx(np.mean(right), abs=0.002)
    assert check.tolerance == pytest.approx(3 * np.std(right), rel=0.03)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [((1e-3, 1e-9), "pass"), ((1e-3, 0.0), "fail"), ((0.0, 0.0), "fail"),
     ((math.nan, 1.0), "pass")],  # a divergence is no frozen layer
)
def test_all_layers_move(ratios: tuple[float, float], verdict: str) -> None:
    check = checks.all_layers_move(dict(zip(("one", "two"), ratios, strict=True)), 8)
    judge(check, verdict)
    assert verdict == "pass" or "two" in check.sentence


@pytest.mark.parametrize(
    ("fastest", "verdict", "way"),
    [(1e-4, "pass", "slowest"), (1e-2, "pass", "slowest"), (9e-5, "warn", "raise"),
     (1.1e-2, "warn", "lower"), (math.nan, "warn", "lower")],
)
def test_update_ratio(fastest: float, verdict: str, way: str) -> None:
    check = checks.update_ratio({"deep": 1e-7, "last": fastest}, 0.1)
    judge(check, verdict)
    assert way in check.sentence


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ((1.0,), "pass"),
        ((1.0, 0.5, 0.3), "pass"),
        ((1.0, 0.5, 0.59), "pass"),
        ((1.0, 0.5, 0.61), "warn"),
        ((1.0, 1.2), "fail"),
        ((1.0, math.nan), "fail"),
        ((math.inf,), "fail"),
        ((*(1 - n / 20 for n in range(20)), 0.5), "pass"),  # one bad epoch of 21
    ],
)
def test_loss_not_rising(losses: tuple[float, ...], verdict: str) -> None:
    judge(checks.loss_not_rising(losses), verdict)


@pytest.mark.parametrize(
    ("train", "val", "verdict"), [(0.9, 0.8001, "pass"), (0.9, 0.79, "warn"), (0.7, 0.9, "pass")]
)
def test_gap(train: float, val: float, verdict: str) -> None:
    judge(checks.gap(train, val), verdict)


@pytest.mark.parametrize(
    ("best", "verdict", "way"),
    [(20, "warn", "train longer"), (19, "pass", "19 of 20"), (11, "pass", "11 of 20"),
     (10, "warn", "fewer epochs"), (1, "warn", "fewer epochs")],
)
def test_best_epoch(best: int, verdict: str, way: str) -> None:
    check = checks.best_epoch(best, 20)
    judge(check, verdict)
    assert way in check.sentence
