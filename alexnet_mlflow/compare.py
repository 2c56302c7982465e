"""Statistics on results: pure functions of counts and of repeated trainings' accuracies.

An accuracy's interval is Wilson's. Trainings that differ by their seed alone are compared by
Student's t (one mean) and Welch's (two means, spreads need not be equal): accuracies of a few
seeds are near enough to normal for it, and with three a bootstrap would be far too narrow.
Left out for now: two models on the same pictures, which comes with statistical promotion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, variance  # exact: equal values have a spread of exactly 0

from scipy.stats import t as student


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of `correct` out of `n`, as fractions (Wilson 1927).

    ValueError unless 0 <= correct <= n and n > 0.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"needs 0 <= correct <= n and n > 0, got {correct} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Difference:
    """The difference of two means and its interval, in the values' unit."""

    mean: float
    low: float
    high: float
    p_value: float  # of no difference, two-sided

    @property
    def shown(self) -> bool:
        """The interval leaves 0 out, and it has a width: equal values tell nothing of the noise."""
        return self.low < self.high and not self.low <= 0 <= self.high


def mean_interval(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """The mean of repeated measurements and its interval by Student's t (1908): mean, low, high.

    Equal values give an interval without width. ValueError for fewer than two values, for one
    that is not finite, and unless 0 < confidence < 1.
    """
    _check(values, confidence)
    centre = mean(values)
    half = _quantile(confidence, len(values) - 1) * math.sqrt(variance(values) / len(values))
    return centre, centre - half, centre + half


def mean_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Mean of `a` minus mean of `b`, for independent samples that may vary unequally (Welch 1947).

    Where neither sample varies there is no noise to measure with: the interval has no width, the
    p-value is its limit (1 for equal means, else 0), and no difference is `shown`.
    ValueError as for `mean_interval`.
    """
    _check(a, confidence)
    _check(b, confidence)
    centre = mean(a) - mean(b)
    parts = variance(a) / len(a), variance(b) / len(b)
    error = math.sqrt(sum(parts))
    if error == 0:
        return Difference(centre, centre, centre, float(centre == 0))
    shares = parts[0] / sum(parts), parts[1] / sum(parts)  # of the error's square
    freedom = 1 / (shares[0] ** 2 / (len(a) - 1) + shares[1] ** 2 / (len(b) - 1))
    half = _quantile(confidence, freedom) * error
    p_value = 2 * float(student.sf(abs(centre) / error, freedom))
    return Difference(centre, centre - half, centre + half, p_value)


def _quantile(confidence: float, freedom: float) -> float:
    """How many standard errors the interval reaches to either side."""
    return float(student.ppf(0.5 + confidence / 2, freedom))


def _check(values: Sequence[float], confidence: float) -> None:
    if len(values) < 2:
        raise ValueError(f"needs two values or more to see how they vary, got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"needs finite values, got {list(values)}")
    if not 0 < confidence < 1:
        raise ValueError(f"needs 0 < confidence < 1, got {confidence}")
