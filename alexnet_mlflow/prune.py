"""How far each trial of a phase trains: successive halving, a pure function of the curves.

`halving` (Jamieson and Talwalkar 2016, arXiv 1502.07943): all trials of a phase train one epoch and
wait; of those that have not diverged the best 1/ETA go on to epoch GROWTH, the best 1/ETA of these
to GROWTH ** 2, and so on; the rest are cut. The paper has one number for both; docs/experiments.md
has what came of other pairs. `epoch` looks once, after the first. No trial goes on before all of a
phase are there, so that the first ones are judged like the last, whatever number of workers trains
them, and a killed search decides the same again: nothing but the arguments is read.

At a rung the validation loss decides, not the accuracy: SGD begins on a plateau where every trial
has the accuracy of chance, and the loss falls there first. A trial's lowest loss so far counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ETA = 3
GROWTH = 2

Curve = Sequence[tuple[float, float]]  # (validation accuracy, validation loss) of epochs 1, 2, ...
Standing = Callable[[Curve], tuple[float, ...]]  # of a curve so far; the larger is the better


@dataclass(frozen=True)
class Rounds:
    """What a phase's curves say of its trials."""

    goals: dict[str, int]  # the epochs that each is to reach, as far as is known by now
    hopeful: list[str]  # those that go on, or may when the others are there; the best first


def rungs(rule: str, epochs: int) -> tuple[int, ...]:
    """The epochs after which trials wait for one another; the last epoch is none of them."""
    if rule == "off":
        return ()
    found, rung = list[int](), 1
    while rung < epochs and not (found and rule == "epoch"):
        found.append(rung)
        rung *= GROWTH
    return tuple(found)


def lowest_loss(curve: Curve) -> tuple[float, ...]:
    """How trials are ranked."""
    return (-min(loss for _, loss in curve),)


def rounds(
    curves: Mapping[str, Curve], diverged: Collection[str], waits: Sequence[int], epochs: int,
    eta: int = ETA, standing: Standing = lowest_loss,
) -> Rounds:
    """How far each trial of a phase trains.

    curves: by trial, all of the phase, in its order; empty where none has begun. diverged: the
    trials that get no further. waits: the rungs. epochs: what a full trial takes.
    Among equals the first in order goes on; one at least does.
    """
    ends = [*waits, epochs]
    goals = dict.fromkeys(curves, ends[0])
    going = list(curves)
    for rung, following in pairwise(ends):
        reached = [name for name in going if len(curves[name]) >= rung]
        awaited = [name for name in going if len(curves[name]) < rung and name not in diverged]
        most = max(1, len(going if awaited else reached) // eta)
        reached.sort(key=lambda name: standing(curves[name][:rung]), reverse=True)
        going = reached[:most]
        if awaited:
            return Rounds(goals, [*going, *(name for name in awaited if curves[name])])
        goals |= dict.fromkeys(going, following)
    return Rounds(goals, going)


def epochs_at_most(trials: int, waits: Sequence[int], epochs: int, eta: int = ETA) -> int:
    """What a phase of so many trials takes, if none diverges."""
    total, before = 0, 0
    for end in (*waits, epochs):
        total += trials * (end - before)
        trials, before = min(trials, max(1, trials // eta)), end
    return total
