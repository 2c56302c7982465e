"""Where a search looks: log-uniform ranges, seeded draws, and narrowing with its reason.

The rule of narrowing: a trial is good when its validation accuracy lies in the upper half between
chance and the best. The fine range is the hull of the good trials, widened by half a decade on
either side (two good trials are not an edge), never past a rate that diverged above them, and a
decade further where the best lies at the edge of what was searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_mlflow.config import BadInput

MARGIN_DECADES = 0.5
EDGE_DECADES = 0.25  # a best this near the end of the range lies at its edge
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


@dataclass(frozen=True)
class Narrowed:
    """The fine space and, in one sentence, why."""

    space: Space
    reason: str


def draws(space: Space, count: int, seed: int) -> list[Point]:
    """`count` independent log-uniform points; the same seed gives the same points."""
    generator = np.random.default_rng(seed)
    ranges = (space.lr, space.weight_decay)
    low = [math.log10(item.low) for item in ranges]
    high = [math.log10(item.high) for item in ranges]
    exponents = generator.uniform(low, high, size=(count, 2))
    return [Point(float(10**lr), float(10**decay)) for lr, decay in exponents]


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
    good = [point for point, accuracy in learnt if accuracy >= bar]
    diverged = [item.point.lr for item in outcomes if item.val_accuracy is None]
    lr = _hull(space.lr, [point.lr for point in good], best_point.lr, extend=True)
    above = [rate for rate in diverged if rate > max(point.lr for point in good)]
    if above and lr.high > min(above):
        lr = Range(lr.low, min(above))
    decays = [point.weight_decay for point in good]
    decay = _hull(space.weight_decay, decays, best_point.weight_decay, extend=False)
    reason = (
        f"{len(good)} of {len(outcomes)} trials reach at least {bar:.1%} on validation, half way "
        f"from chance ({chance:.1%}) to the best ({best:.1%} at lr {best_point.lr:.3g}); "
        f"{len(diverged)} diverged, the lowest at "
        f"{f'lr {min(diverged):.3g}' if diverged else 'no lr'}. "
        f"So lr {space.lr} becomes {lr}, and weight decay {space.weight_decay} becomes {decay}."
    )
    return Narrowed(Space(lr, decay), reason)


def _hull(searched: Range, values: list[float], best: float, *, extend: bool) -> Range:
    """The values' hull with its margin; past the searched range only where the best is at its edge.
    """
    margin = 10**MARGIN_DECADES
    floor, ceiling = searched.low, searched.high
    if extend and best <= floor * 10**EDGE_DECADES:
        floor /= 10**EXTENSION_DECADES
        return Range(floor, min(max(values) * margin, ceiling))
    if extend and best >= ceiling / 10**EDGE_DECADES:
        ceiling *= 10**EXTENSION_DECADES
        return Range(max(min(values) / margin, floor), ceiling)
    return Range(max(min(values) / margin, floor), min(max(values) * margin, ceiling))
