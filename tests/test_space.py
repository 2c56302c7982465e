"""Draws are seeded and log-uniform; narrowing follows its rule and says why."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest

from alexnet_mlflow.config import BadInput
from alexnet_mlflow.space import Narrowed, Outcome, Point, Range, Space, draws, narrow

SPACE = Space(Range(1e-5, 1e5), Range(1e-6, 1e-3))
CHANCE = 0.1
HALF_DECADE = 10**0.5


def outcomes(*found: tuple[float, float | None], decay: float = 3e-5) -> list[Outcome]:
    """(lr, accuracy) -> outcomes at one weight decay."""
    return [Outcome(Point(lr, decay), accuracy) for lr, accuracy in found]


def narrowed(*found: tuple[float, float | None]) -> Narrowed:
    result = narrow(SPACE, outcomes(*found), CHANCE)
    assert result is not None
    return result


# Ranges and draws


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0)],
)
def test_a_range_that_cannot_be(low: float, high: float) -> None:
    with pytest.raises(BadInput, match="0 < low < high"):
        Range(low, high)


def test_a_range_is_told_in_powers_of_ten() -> None:
    assert str(Range(1e-3, 20.0)) == "10^-3.00 .. 10^1.30"


def test_the_seed_decides_the_draws() -> None:
    assert draws(SPACE, 8, 0) == draws(SPACE, 8, 0)
    assert not set(draws(SPACE, 8, 0)) & set(draws(SPACE, 8, 1))


def test_more_draws_begin_with_the_fewer() -> None:
    assert draws(SPACE, 9, 0)[:4] == draws(SPACE, 4, 0)


def test_no_draws() -> None:
    assert draws(SPACE, 0, 0) == []


def test_draws_are_log_uniform_inside_the_range() -> None:
    points = draws(SPACE, 5000, 0)
    columns = {
        "lr": ([point.lr for point in points], SPACE.lr),
        "weight decay": ([point.weight_decay for point in points], SPACE.weight_decay),
    }
    for values, searched in columns.values():
        assert min(values) >= searched.low
        assert max(values) <= searched.high
        low, high = math.log10(searched.low), math.log10(searched.high)
        assert kstest(np.log10(values), "uniform", (low, high - low)).pvalue > 0.01
        in_lowest_decade = np.mean(np.array(values) < searched.low * 10)
        assert in_lowest_decade == pytest.approx(1 / (high - low), abs=0.02)


def test_the_two_rates_are_independent() -> None:
    points = draws(SPACE, 5000, 0)
    rates = [[point.lr for point in points], [point.weight_decay for point in points]]
    assert abs(np.corrcoef(np.log10(rates))[0, 1]) < 0.05


# The rule of narrowing


def test_the_hull_of_the_good_ones_and_half_a_decade() -> None:
    # Half way from 0.1 to 0.5 is 0.3: 1e-4 and 1 are not good, 1e-3 .. 1e-1 are.
    found = narrowed((1e-4, 0.29), (1e-3, 0.31), (1e-2, 0.5), (1e-1, 0.4), (1.0, 0.2))
    assert found.space.lr.low == pytest.approx(1e-3 / HALF_DECADE)
    assert found.space.lr.high == pytest.approx(1e-1 * HALF_DECADE)


def test_weight_decay_is_narrowed_by_the_same_trials() -> None:
    good, bad = outcomes((1e-2, 0.5), decay=1e-5), outcomes((1e-2, 0.11), decay=9e-4)
    found = narrow(SPACE, good + bad, CHANCE)
    assert found is not None
    assert found.space.weight_decay.low == pytest.approx(1e-5 / HALF_DECADE)
    assert found.space.weight_decay.high == pytest.approx(1e-5 * HALF_DECADE)


def test_never_past_a_rate_that_diverged_above() -> None:
    found = narrowed((1e-2, 0.5), (2e-2, None), (5e-2, None))
    assert found.space.lr.high == 2e-2
    assert found.space.lr.low == pytest.approx(1e-2 / HALF_DECADE)


def test_a_rate_that_diverged_among_the_good_ones_does_not_cut() -> None:
    found = narrowed((1e-3, 0.5), (1e-2, None), (1e-1, 0.5))
    assert found.space.lr.low < 1e-3
    assert found.space.lr.high > 1e-1


@pytest.mark.parametrize("decades", [0.0, 0.24])
def test_a_best_at_the_lower_edge_extends_a_decade_down(decades: float) -> None:
    found = narrowed((1e-5 * 10**decades, 0.5), (1e-1, 0.12))
    assert found.space.lr.low == pytest.approx(1e-6)


@pytest.mark.parametrize("decades", [0.0, 0.24])
def test_a_best_at_the_upper_edge_extends_a_decade_up(decades: float) -> None:
    found = narrowed((1e5 / 10**decades, 0.5), (1e-1, 0.12))
    assert found.space.lr.high == pytest.approx(1e6)


@pytest.mark.parametrize("lr", [1e-5 * 10**0.26, 1e5 / 10**0.26])
def test_a_best_near_the_edge_stays_inside(lr: float) -> None:
    found = narrowed((lr, 0.5))
    assert SPACE.lr.low <= found.space.lr.low < lr < found.space.lr.high <= SPACE.lr.high


def test_weight_decay_is_never_extended() -> None:
    for decay in (1e-6, 1e-3):
        found = narrow(SPACE, outcomes((1e-2, 0.5), decay=decay), CHANCE)
        assert found is not None
        assert 1e-6 <= found.space.weight_decay.low < found.space.weight_decay.high <= 1e-3


@pytest.mark.parametrize(
    "found",
    [
        [],
        [(1e-2, None), (1.0, None)],
        [(1e-2, CHANCE), (1e-3, 0.05), (1.0, None)],
    ],
)
def test_nothing_where_no_trial_beats_chance(found: list[tuple[float, float | None]]) -> None:
    assert narrow(SPACE, outcomes(*found), CHANCE) is None


def test_the_reason_names_the_numbers() -> None:
    found = narrowed((1e-4, 0.15), (3e-3, 0.4), (1e-2, 0.5), (2.0, None), (7.0, None))
    assert "2 of 5 trials reach at least 30.0%" in found.reason
    assert "chance (10.0%)" in found.reason
    assert "the best (50.0% at lr 0.01)" in found.reason
    assert "2 diverged, the lowest at lr 2." in found.reason
    assert f"lr {SPACE.lr} becomes {found.space.lr}" in found.reason
    assert f"weight decay {SPACE.weight_decay} becomes {found.space.weight_decay}" in found.reason
    assert "0 diverged, the lowest at no lr" in narrowed((1e-2, 0.5)).reason


# Properties


def random_outcomes(rng: np.random.Generator, space: Space) -> list[Outcome]:
    points = draws(space, int(rng.integers(1, 25)), int(rng.integers(1 << 30)))
    accuracies = rng.uniform(0, 1, len(points)) ** rng.uniform(0.2, 5)
    lost = rng.uniform(0, 1, len(points)) < rng.uniform(0, 1)
    return [
        Outcome(point, None if gone else float(accuracy))
        for point, accuracy, gone in zip(points, accuracies, lost, strict=True)
    ]


def test_whatever_happens_the_fine_range_keeps_the_rule() -> None:
    rng = np.random.default_rng(0)
    narrowings = 0
    for _ in range(3000):
        low = 10.0 ** rng.uniform(-6, 2)
        space = Space(Range(low, low * 10.0 ** rng.uniform(0.01, 8)), SPACE.weight_decay)
        tried = random_outcomes(rng, space)
        found = narrow(space, tried, CHANCE)
        learnt = [item for item in tried if item.val_accuracy and item.val_accuracy > CHANCE]
        assert (found is None) == (not learnt)
        if found is None:
            continue
        narrowings += 1
        best = max(learnt, key=lambda item: item.val_accuracy or 0).point
        lr, decay = found.space.lr, found.space.weight_decay
        assert lr.low < lr.high  # a Range refuses anything else: nothing was raised
        assert lr.low <= best.lr < lr.high
        assert decay.low <= best.weight_decay <= decay.high
        at_an_edge = best.lr <= space.lr.low * 10**0.25 or best.lr >= space.lr.high / 10**0.25
        if not at_an_edge:
            assert space.lr.low <= lr.low and lr.high <= space.lr.high
        bar = CHANCE + (max(item.val_accuracy or 0 for item in learnt) - CHANCE) / 2
        highest = max(item.point.lr for item in learnt if (item.val_accuracy or 0) >= bar)
        lost = [item.point.lr for item in tried if item.val_accuracy is None]
        assert all(lr.high <= rate for rate in lost if rate > highest)
    assert narrowings > 1500


def test_a_peak_at_a_hundredth_is_found_again_in_most_searches() -> None:
    """20 draws over ten decades of which six diverge: 191 of these 200 seeds keep the optimum."""

    def accuracy(point: Point) -> float | None:
        exponent = math.log10(point.lr)
        return None if exponent > -0.5 else 0.1 + 0.5 * math.exp(-((exponent + 2) ** 2) / 2)

    kept, widths = 0, []
    for seed in range(200):
        tried = [Outcome(point, accuracy(point)) for point in draws(SPACE, 20, seed)]
        found = narrow(SPACE, tried, CHANCE)
        if found is not None:
            kept += found.space.lr.low <= 1e-2 <= found.space.lr.high
            widths.append(math.log10(found.space.lr.high / found.space.lr.low))
    assert kept >= 180
    assert np.mean(widths) < 3  # of ten decades: it is narrower, too
