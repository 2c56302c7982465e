"""Statistics on results: pure functions of counts, predictions and repeated trainings' accuracies.

An accuracy's interval is Wilson's. Trainings that differ by their seed alone are compared by
Student's t (one mean) and Welch's (two means, spreads need not be equal): accuracies of a few
seeds are near enough to normal for it, and with three a bootstrap would be far too narrow.
Two models on the same pictures are compared by exchanging them at random, a photo at a time: all
exchanges, not a sample. Where every photo is one picture, that is McNemar's exact test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Exact: equal values have a spread of exactly 0.
from statistics import NormalDist, mean, stdev, variance

import numpy as np
from scipy import special  # scipy.stats is a second of imports


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


def counted(correct: int, n: int) -> str:
    """`191 of 200 = 95.50% (Wilson 95 % 91.68% to 97.63%)`."""
    low, high = wilson(correct, n)
    return f"{correct} of {n} = {correct / n:.2%} (Wilson 95 % {low:.2%} to {high:.2%})"


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


def over_seeds(name: str, accuracies: Sequence[float]) -> tuple[dict[str, float], str]:
    """Mean over the seeds, its interval by Student's t, the standard deviation (n - 1): figures
    called `name`_mean and so on, and a sentence. Seeds that agree to a picture have no interval."""
    centre, many = mean(accuracies), len(accuracies)
    if many < 2:
        return {f"{name}_mean": centre}, "One seed: nothing is known of the spread."
    spread = stdev(accuracies)
    figures = {f"{name}_mean": centre, f"{name}_std": spread}
    if not spread:
        return figures, f"Each of {many} seeds: {centre:.2%}, so nothing is known of the spread."
    centre, low, high = mean_interval(accuracies)
    low, high = max(0.0, low), min(1.0, high)
    figures |= {f"{name}_mean_low": low, f"{name}_mean_high": high}
    return figures, (
        f"Mean of {many} seeds: {centre:.2%} (Student's t, 95 % {low:.2%} to {high:.2%}), "
        f"standard deviation {spread:.2%}."
    )


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
    p_value = 2 * float(special.stdtr(freedom, -abs(centre) / error))
    return Difference(centre, centre - half, centre + half, p_value)


@dataclass(frozen=True)
class Paired:
    """A challenger and a champion on the same pictures; the gain is a fraction of them."""

    both: int  # pictures that both get right
    challenger_only: int
    champion_only: int
    neither: int
    clusters: int  # independent units: photos, or pictures where each stands alone
    gain: float  # accuracy of the challenger - accuracy of the champion
    low: float
    high: float
    p_value: float  # of no difference, two-sided, exact

    @property
    def pictures(self) -> int:
        return self.both + self.challenger_only + self.champion_only + self.neither

    @property
    def method(self) -> str:
        if self.clusters == self.pictures:
            return "McNemar's exact test"
        return "exact permutation test clustered by photo"


def paired(
    challenger: np.ndarray, champion: np.ndarray, groups: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> Paired:
    """Compare two models by what each got right of the same pictures.

    challenger, champion: (N,) bool, right or wrong. groups: N names; pictures of one name come
    from one photo and do not count as independent. None: all are independent.
    The p-value is the share of all exchanges of the two models, a group at a time, with a
    difference at least as large (McNemar 1947 where each picture is a group). The interval: the
    wider of Wald's with half a picture added to each cell (Agresti and Min 2005) and of the one
    that inverts McNemar's exact test (Clopper and Pearson 1934, of the share won among the pictures
    that tell the models apart), so that it never leaves out 0 where the test does not; with groups,
    Student's t on the groups' differences (a ratio's linearised variance), and where all groups
    gain alike, Agresti and Min's of the groups.
    Of two networks, not of two recipes: networks that differ by their seed alone do differ, and
    the more pictures, the sooner that is proven.
    ValueError where the lengths differ or N is 0.
    """
    n = len(challenger)
    if n == 0 or n != len(champion) or (groups is not None and len(groups) != n):
        raise ValueError("needs both models on the same pictures, one at least")
    names = range(n) if groups is None else groups
    _, places, sizes = np.unique(list(names), return_inverse=True, return_counts=True)
    gains = challenger.astype(int) - champion.astype(int)
    by_group = np.bincount(places, weights=gains, minlength=len(sizes)).astype(int)
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    both = int((challenger & champion).sum())
    if len(sizes) == n:
        low, high = _alone(wins, losses, n, confidence)
    else:
        low, high = _clustered(by_group, sizes, confidence)
    return Paired(
        both, wins, losses, n - both - wins - losses, len(sizes), (wins - losses) / n,
        max(-1.0, low), min(1.0, high), exchanges(by_group),
    )


def exchanges(differences: np.ndarray) -> float:
    """The share of the sums of +-d with random signs that are as far from 0 as the sum of d.

    differences: (K,) int. All 2 ** K sums are counted, by adding one d after the other to their
    distribution.
    """
    steps = np.abs(differences[differences != 0])
    total = int(steps.sum())
    chances = np.zeros(2 * total + 1)  # of the sums -total .. total
    chances[total] = 1.0
    for step in steps:
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2  # the ends are 0 so far
    sums = np.arange(-total, total + 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(int(differences.sum()))].sum()))


def _alone(wins: int, losses: int, n: int, confidence: float) -> tuple[float, float]:
    """Of pictures that are independent: the wider of two intervals."""
    low, high = _agresti_min(wins, losses, n, confidence)
    if apart := wins + losses:
        from scipy.stats import binomtest

        exact = binomtest(wins, apart).proportion_ci(confidence, "exact")
        low = min(low, (2 * exact.low - 1) * apart / n)
        high = max(high, (2 * exact.high - 1) * apart / n)
    return low, high


def _agresti_min(wins: int, losses: int, n: int, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    more, fewer, all_ = (wins + 0.5) / (n + 2), (losses + 0.5) / (n + 2), n + 2
    half = z * math.sqrt((more + fewer - (more - fewer) ** 2) / all_)
    return more - fewer - half, more - fewer + half


def _clustered(gains: np.ndarray, sizes: np.ndarray, confidence: float) -> tuple[float, float]:
    """Of sum(gains) / sum(sizes); one group alone says nothing of how groups vary."""
    if len(gains) < 2:
        return -1.0, 1.0
    n, share = sizes.sum(), gains.sum() / sizes.sum()
    left = gains - share * sizes
    error = math.sqrt(len(gains) / (len(gains) - 1) * float((left**2).sum())) / n
    if error < 1e-12:  # groups that gain alike have shown no noise, which is not to have none
        low, high = _agresti_min(
            int((gains > 0).sum()), int((gains < 0).sum()), len(gains), confidence
        )
        scale = abs(share) or 1.0  # from shares of groups to shares of pictures
        return scale * low, scale * high
    half = _quantile(confidence, len(gains) - 1) * error
    return share - half, share + half


def _quantile(confidence: float, freedom: float) -> float:
    """How many standard errors the interval reaches to either side."""
    return float(special.stdtrit(freedom, 0.5 + confidence / 2))


def _check(values: Sequence[float], confidence: float) -> None:
    if len(values) < 2:
        raise ValueError(f"needs two values or more to see how they vary, got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"needs finite values, got {list(values)}")
    if not 0 < confidence < 1:
        raise ValueError(f"needs 0 < confidence < 1, got {confidence}")
