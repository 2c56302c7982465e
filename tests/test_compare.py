"""Intervals against published values, against scipy, and by how often they hold the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp, ttest_ind

from alexnet_mlflow.compare import (
    exchanges,
    mean_difference,
    mean_interval,
    over_seeds,
    paired,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3: also the next three
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0000, 0.2775),  # Brown, Cai and DasGupta 2001: z^2 / (n + z^2) at the edge
        (10, 10, 0.7225, 1.0000),
    ],
)
def test_published_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 30, 263, 10_000])
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.5, 0.9, 1])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_it_equals_scipy(n: int, share: float, confidence: float) -> None:
    correct = round(n * share)
    expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(correct, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_it_holds_the_share_and_stays_a_fraction() -> None:
    for n in range(1, 60):
        for correct in range(n + 1):
            low, high = wilson(correct, n)
            assert 0 <= low < high <= 1
            assert low - 1e-15 <= correct / n <= high + 1e-15


def test_mirrored() -> None:
    low, high = wilson(7, 40)
    assert wilson(33, 40) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 10), (11, 10), (0, -1), (-2, -1)])
def test_counts_that_cannot_be(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {correct} of {n}"):
        wilson(correct, n)


@pytest.mark.parametrize("confidence", [1.0, 1.5])
def test_a_confidence_that_cannot_be(confidence: float) -> None:
    with pytest.raises(ValueError):
        wilson(5, 10, confidence)


def test_more_confidence_is_a_wider_interval() -> None:
    low, high = wilson(5, 10, 0.9)
    wider_low, wider_high = wilson(5, 10, 0.99)
    assert wider_low < low < high < wider_high


# Repeated trainings

Values = tuple[float, ...]
SAMPLES: list[tuple[Values, Values]] = [
    ((0.91, 0.93, 0.92), (0.88, 0.94, 0.90)),
    ((0.5, 0.7), (0.9, 0.1)),
    ((0.91, 0.93, 0.92, 0.95, 0.90), (0.2, 0.9)),
    ((0.8, 0.8, 0.8), (0.7, 0.8, 0.75)),  # one does not vary
    ((1e-9, 2e-9, 4e-9), (1e-9, 1e-9, 2e-9)),
    ((-3.0, 5.0, 1.0, 40.0), (100.0, 90.0, 120.0)),
]


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, of the one that does not vary
@pytest.mark.parametrize(("a", "b"), SAMPLES)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_difference_is_scipys(a: Values, b: Values, confidence: float) -> None:
    found = mean_difference(a, b, confidence)
    expected = ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.shown == (expected.pvalue < 1 - confidence)


@pytest.mark.parametrize("values", [a for a, _ in SAMPLES if len(set(a)) > 1])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_mean_is_scipys(values: Values, confidence: float) -> None:
    mean, low, high = mean_interval(values, confidence)
    expected = ttest_1samp(values, 0).confidence_interval(confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert mean == pytest.approx(sum(values) / len(values))


def test_turned_round_the_difference_changes_its_sign() -> None:
    a, b = SAMPLES[0]
    one, other = mean_difference(a, b), mean_difference(b, a)
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)
    assert one.p_value == other.p_value


@pytest.mark.parametrize(
    ("n", "spreads", "low", "high"),
    [
        (3, (1.0, 1.0), 0.95, 0.98),  # with three equal spreads Welch is known to be cautious
        (3, (1.0, 3.0), 0.935, 0.975),
        (5, (1.0, 3.0), 0.935, 0.965),
    ],
)
def test_the_intervals_hold_the_truth_as_often_as_they_say(
    n: int, spreads: tuple[float, float], low: float, high: float
) -> None:
    """2000 simulated comparisons: the share within three standard errors (0.5 points each)."""
    noise, truth, held, held_mean = np.random.default_rng(0), 0.3, 0, 0
    for _ in range(2000):
        a = noise.normal(truth, spreads[0], n).tolist()
        found = mean_difference(a, noise.normal(0, spreads[1], n).tolist())
        held += found.low <= truth <= found.high
        _, least, most = mean_interval(a)
        held_mean += least <= truth <= most
    assert low <= held / 2000 <= high
    assert 0.935 <= held_mean / 2000 <= 0.965


def test_what_does_not_vary_shows_no_difference() -> None:
    """0.1 three times has a mean of exactly 0.1, so that rounding makes no spread."""
    same = mean_difference([0.1] * 3, [0.1] * 3)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    apart = mean_difference([1.0] * 3, [0.75] * 3)
    assert (apart.mean, apart.low, apart.high, apart.p_value) == (0.25, 0.25, 0.25, 0)
    assert not same.shown and not apart.shown
    assert mean_interval([0.1] * 3) == (0.1, 0.1, 0.1)


def test_a_difference_is_shown_where_the_interval_leaves_0_out() -> None:
    assert mean_difference([0.9, 0.91, 0.92], [0.8, 0.81, 0.82]).shown
    assert mean_difference([0.8, 0.81, 0.82], [0.9, 0.91, 0.92]).shown
    assert not mean_difference([0.9, 0.91, 0.92], [0.9, 0.915, 0.92]).shown


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "two values or more .*, got 0"),
        ([0.5], "two values or more .*, got 1"),
        ([0.5, float("nan")], "finite values"),
        ([0.5, float("inf")], "finite values"),
    ],
)
def test_values_that_show_no_spread(values: list[float], told: str) -> None:
    for wrong in (
        lambda: mean_interval(values),
        lambda: mean_difference(values, [0.1, 0.2]),
        lambda: mean_difference([0.1, 0.2], values),
    ):
        with pytest.raises(ValueError, match=told):
            wrong()


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, -1.0])
def test_a_confidence_of_means_that_cannot_be(confidence: float) -> None:
    for wrong in (
        lambda: mean_interval([0.1, 0.2], confidence),
        lambda: mean_difference([0.1, 0.2], [0.1, 0.2], confidence),
    ):
        with pytest.raises(ValueError, match="confidence"):
            wrong()


# Two models on the same pictures


def right(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1] * both + [1] * first + [0] * second + [0] * neither
    b = [1] * both + [0] * first + [1] * second + [0] * neither
    return np.array(a, bool), np.array(b, bool)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (6, 0), (12, 4), (40, 71)])
def test_alone_standing_pictures_are_compared_by_mcnemar(wins: int, losses: int) -> None:
    found = paired(*right(100, wins, losses, 20))
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert found.p_value == pytest.approx(expected, abs=1e-12)
    cells = found.both, found.challenger_only, found.champion_only, found.neither
    assert cells == (100, wins, losses, 20)
    assert found.gain == pytest.approx((wins - losses) / found.pictures)
    assert found.low < found.gain < found.high and "McNemar" in found.method


def agresti_min(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Agresti and Min 2005: Wald's, after half a picture more in each of the four cells."""
    more, fewer = (wins + 0.5) / (n + 2), (losses + 0.5) / (n + 2)
    half = 1.959964 * ((more + fewer - (more - fewer) ** 2) / (n + 2)) ** 0.5
    return more - fewer - half, more - fewer + half


def test_the_interval_is_agresti_s_and_min_s_where_it_is_the_wider() -> None:
    found = paired(*right(50, 2, 1, 47))
    low, high = agresti_min(2, 1, 100)
    assert found.low == pytest.approx(low) and found.high >= high - 1e-9
    none = paired(*right(50, 0, 0, 50))
    assert (none.low, none.high) == pytest.approx(agresti_min(0, 0, 100))


def test_the_interval_leaves_0_out_only_where_the_test_does() -> None:
    """12 won and 4 lost: p = 0.077, and Agresti's and Min's alone would begin above 0."""
    assert agresti_min(12, 4, 100)[0] > 0 > paired(*right(50, 12, 4, 34)).low
    for wins in range(13):
        for losses in range(13):
            found = paired(*right(40, wins, losses, 20))
            assert found.p_value < 0.05 or found.low <= 0 <= found.high, (wins, losses)


def test_photos_that_gain_alike_still_leave_a_doubt() -> None:
    a, b = right(0, 40, 0, 0)
    found = paired(a, b, [str(row // 2) for row in range(40)])
    assert found.gain == 1.0 and found.low < 0.95
    half = paired(np.ones(40, bool), np.arange(40) % 2 == 0, [str(row // 2) for row in range(40)])
    assert half.gain == 0.5 and 0.3 < half.low < half.gain < half.high < 0.6


def test_exchanges_count_every_sign() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        given = rng.integers(-4, 5, rng.integers(1, 10))
        signs = np.array(list(itertools.product((-1, 1), repeat=len(given))))
        expected = np.mean(np.abs(signs @ given) >= abs(given.sum()))
        assert exchanges(given) == pytest.approx(expected)


def test_pictures_of_one_photo_are_no_independent_evidence() -> None:
    a, b = right(80, 8, 0, 12)
    alone = paired(a, b)
    one_photo = paired(a, b, [*map(str, range(80)), *["the same"] * 8, *map(str, range(80, 92))])
    assert alone.p_value < 0.01 and one_photo.p_value == 1.0
    assert one_photo.high - one_photo.low > alone.high - alone.low
    assert "clustered by photo" in one_photo.method and one_photo.gain == alone.gain
    assert paired(a, b, ["all"] * 100).p_value == 1.0


def photos(rng: np.random.Generator, gain: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """60 photos of one to nine pictures; two models that err together within a photo."""
    sizes = rng.integers(1, 10, 60)
    names = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
    hard = np.repeat(rng.normal(0, 1, (2, 60)), sizes, axis=1)
    own = rng.normal(0, 1, (2, len(names)))
    first, second = hard + own > np.array([[-1.0 - gain], [-1.0]])
    return first, second, names


def test_of_equal_models_few_seem_different_and_of_unequal_ones_most() -> None:
    rng = np.random.default_rng(1)
    false = holds = found = 0
    plain = 0
    for _ in range(400):
        a, b, names = photos(rng, 0.0)
        grouped = paired(a, b, names)
        false += grouped.p_value < 0.05
        holds += grouped.low <= 0 <= grouped.high
        plain += paired(a, b).p_value < 0.05
        found += paired(*photos(rng, 1.0)).p_value < 0.05
    assert false / 400 <= 0.05 and holds / 400 >= 0.93 and found / 400 > 0.9
    assert plain / 400 > 0.08, "photos would not matter"


def test_the_interval_of_alone_standing_pictures_holds_the_truth() -> None:
    rng = np.random.default_rng(2)
    holds = 0
    for _ in range(500):
        draws = rng.choice(4, 200, p=(0.85, 0.06, 0.03, 0.06))
        found = paired(draws < 2, (draws == 0) | (draws == 2))
        holds += found.low <= 0.03 <= found.high
    assert holds / 500 >= 0.93


@pytest.mark.parametrize("lengths", [(0, 0, None), (3, 4, None), (3, 3, 2)])
def test_pictures_that_do_not_match(lengths: tuple[int, int, int | None]) -> None:
    a, b, names = lengths
    with pytest.raises(ValueError, match="same pictures"):
        paired(np.ones(a, bool), np.ones(b, bool), None if names is None else ["x"] * names)


def test_over_seeds_says_what_is_known_of_the_spread() -> None:
    figures, sentence = over_seeds("x", [0.9, 0.92, 0.94])
    mean, low, high = mean_interval([0.9, 0.92, 0.94])
    assert figures == {
        "x_mean": mean, "x_std": pytest.approx(0.02), "x_mean_low": low, "x_mean_high": high
    }
    assert sentence.startswith("Mean of 3 seeds: 92.00% (Student's t, 95 % 87.03% to 96.97%)")


@pytest.mark.parametrize("accuracies", [[0.97], [0.97, 0.97, 0.97]])
def test_seeds_that_agree_have_no_interval(accuracies: list[float]) -> None:
    """Student's t would give one without width, as if the mean were certain."""
    figures, sentence = over_seeds("x", accuracies)
    assert figures["x_mean"] == pytest.approx(0.97)
    assert not {"x_mean_low", "x_mean_high"} & figures.keys()
    assert "nothing is known of the spread" in sentence
