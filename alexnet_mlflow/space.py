"""Where a search looks: log-uniform ranges, seeded draws, and narrowing with its reason.

The rule of narrowing. A trial is good when its validation accuracy lies in the upper half between
chance and the best. Going from the best trial to either side, the good ones are collected until two
trials in a row are not good; the fine range ends at the nearer of these two, which brackets the
optimum: where accuracy has one peak over the rate and no noise, the peak cannot lie outside. One
bad trial among good ones is noise, or the other rate's doing; good ones beyond two bad ones are
an accident (Adam at a rate of 10 on FDDB: 87 % with a loss of 1e25). A trial that was cut is weaker
evidence, since it might have learnt later: the range goes on to the trial behind it.
Where nothing brackets a side, the range goes to the end of what was searched, and a decade
further: for the learning rate always, for weight decay where the best lies at that end. Weight
decay is judged by the trials between the lowest and the highest good learning rate, since
elsewhere the learning rate alone decides.

Measured on 200 synthetic surfaces (tests/test_space.py) and against other rules in
docs/experiments.md. A diverged trial is a bad one. Left out: a rate's interaction with the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_mlflow.options import BadInput

BAD_RUN = 2  # so many trials in a row that are not good end the range
EDGE_DECADES = 0.25  # a best this near the end of weight decay's range lies at its edge
EXTENSION_DECADES = 1.0


@dataclass(frozen=True)
class Range:
    """A log-uniform range of a rate."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise BadInput(f"a range needs 0 < low < high, got {self.low:g} .. {self.high:g}")

    def __str__(self) -> str:
        return f"10^{math.log10(self.low):.2f} .. 10^{math.log10(self.high):.2f}"


@dataclass(frozen=True)
class Space:
    """What is searched: the learning rate and the weight decay."""

    lr: Range
    weight_decay: Range


@dataclass(frozen=True)
class Point:
    """One trial's place."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Outcome:
    """What came of a point; the accuracy (a fraction) is None where the trial diverged."""

    point: Point
    val_accuracy: float | None
    cut: bool = False  # pruned: the accuracy is the best of fewer epochs


@dataclass(frozen=True)
class Narrowed:
    """The fine space and, in a few sentences, why."""

    space: Space
    reason: str
    bar: float  # the accuracy, a fraction, from which a trial is good


@dataclass(frozen=True)
class _Tried:
    """One rate of one trial."""

    rate: float
    good: bool
    cut: bool


def draws(space: Space, count: int, seed: int, sampler: str = "random") -> list[Point]:
    """`count` log-uniform points; the same seed gives the same points, and fewer are the first.

    sampler: `random` draws independent points; `qmc` spreads them evenly, by Sobol's sequence with
    Owen's scrambling (scipy.stats.qmc).
    """
    ranges = (space.lr, space.weight_decay)
    low = np.log10([item.low for item in ranges])
    high = np.log10([item.high for item in ranges])
    exponents = low + (high - low) * _unit_draws(count, seed, sampler)
    return [Point(float(10**lr), float(10**decay)) for lr, decay in exponents]


def _unit_draws(count: int, seed: int, sampler: str) -> np.ndarray:
    """(count, 2) float64 in 0..1."""
    generator = np.random.default_rng(seed)
    if sampler == "random":
        return generator.uniform(size=(count, 2))
    assert sampler == "qmc", f"no sampler {sampler}"
    from scipy.stats import qmc  # a second of imports that `random` does not need

    return np.asarray(qmc.Sobol(2, seed=generator).random_base2(count.bit_length())[:count])


def narrow(space: Space, outcomes: Sequence[Outcome], chance: float) -> Narrowed | None:
    """The range in which to look finely; None where no trial did better than chance.

    chance: the accuracy of always saying the most frequent class, a fraction.
    """
    learnt = [(item.point, item.val_accuracy) for item in outcomes if item.val_accuracy is not None]
    learnt = [(point, accuracy) for point, accuracy in learnt if accuracy > chance]
    if not learnt:
        return None
    best_point, best = max(learnt, key=lambda pair: pair[1])
    bar = chance + (best - chance) / 2

    def good(item: Outcome) -> bool:
        return item.val_accuracy is not None and item.val_accuracy >= bar

    lr_of = [_Tried(item.point.lr, good(item), item.cut) for item in outcomes]
    lr, low_lr, high_lr = _range(space.lr, lr_of, best_point.lr, math.inf)
    decays_of = [
        _Tried(item.point.weight_decay, good(item), item.cut) for item in outcomes
        if low_lr <= item.point.lr <= high_lr
    ]
    decay, _, _ = _range(space.weight_decay, decays_of, best_point.weight_decay, EDGE_DECADES)
    diverged = [item.point.lr for item in outcomes if item.val_accuracy is None]
    reason = (
        f"{sum(map(good, outcomes))} of {len(outcomes)} trials reach at least {bar:.1%} on "
        f"validation, half way from chance ({chance:.1%}) to the best ({best:.1%} at lr "
        f"{best_point.lr:.3g}); {len(diverged)} diverged, the lowest at "
        f"{f'lr {min(diverged):.3g}' if diverged else 'no lr'}. So lr {space.lr} becomes {lr}"
        f"{_beyond(space.lr, lr)}, and weight decay {space.weight_decay} becomes {decay}"
        f"{_beyond(space.weight_decay, decay)}."
    )
    return Narrowed(Space(lr, decay), reason, bar)


def _range(
    searched: Range, tried: Sequence[_Tried], best: float, near: float
) -> tuple[Range, float, float]:
    """The bracketed range, and the lowest and the highest good rate in it.

    near: how many decades from an end without bracket the best may lie for the extension.
    """
    ordered = sorted(tried, key=lambda item: item.rate)
    lowest, low = _end(best, [item for item in reversed(ordered) if item.rate < best])
    highest, high = _end(best, [item for item in ordered if item.rate > best])
    step = 10**EXTENSION_DECADES
    if low is None:
        low = searched.low / (step if math.log10(best / searched.low) <= near else 1)
    if high is None:
        high = searched.high * (step if math.log10(searched.high / best) <= near else 1)
    return Range(low, high), lowest, highest


def _end(best: float, beyond: Sequence[_Tried]) -> tuple[float, float | None]:
    """The furthest good rate, going outwards from the best, and what brackets it, if anything."""
    furthest, bad = best, list[_Tried]()
    for item in beyond:
        if item.good:
            furthest, bad = item.rate, []
        else:
            bad.append(item)
        if len(bad) == BAD_RUN:
            break
    if not bad:
        return furthest, None
    return furthest, (bad[-1] if bad[0].cut else bad[0]).rate


def _beyond(searched: Range, found: Range) -> str:
    """Says that a range was extended, and why."""
    sides = [
        name for name, out in
        (("low", found.low < searched.low), ("high", found.high > searched.high)) if out
    ]
    return f" (a decade more at the {' and the '.join(sides)} end: nothing worse beyond the best)" \
        if sides else ""
