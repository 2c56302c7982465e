"""Wilson's interval against published values and against scipy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from alexnet_mlflow.compare import wilson


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
