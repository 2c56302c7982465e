"""When a trial is hopeless: pure functions of its curve and of the curves before it.

`epoch` cuts once, after the first epoch; `halving` is asynchronous successive halving (arXiv
1810.05934), which cuts at rungs, epochs 1, ETA, ETA^2, ...: a trial goes on while it belongs to the
best 1/ETA of all trials that came as far. Its first trials have nobody to be compared with, so two
signs are enough to cut anywhere: a loss that exploded (for `epoch`, too), and an accuracy at chance
with a loss that does not move. Nothing but the arguments is read, no clock and no random number,
and of the others only what they did by the same epoch, so that a killed search decides the same
again.

At a rung the validation loss decides, not the accuracy: SGD begins on a plateau where every trial
has the accuracy of chance, and the loss falls there first. A trial's lowest loss so far counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alexnet_mlflow.config import PRUNERS

RULES = PRUNERS
ETA = 3
EXPLODED_LOSS = 100.0  # nats: Adam at rates above 10 on FDDB stands at 1e25 and more
MOVED = 0.002  # of the first epoch's loss: a plateau is left ever faster, .3 % on faces was enough
PATIENCE = 5

Curve = Sequence[tuple[float, float]]  # (validation accuracy, validation loss) of epochs 1, 2, ...
Standing = Callable[[Curve], tuple[float, ...]]  # of a curve so far; the larger is the better


def hopeless(rule: str, curve: Curve, others: Sequence[Curve], epochs: int, chance: float) -> bool:
    """Is the trial, after the epochs of its curve, to be cut?

    curve: one epoch at least. others: the curves of the trials before it, whole, cut, or so far;
    an empty one says nothing; diverged ones are left out.
    epochs: what a full trial takes. chance: the accuracy of the most frequent class, a fraction.
    """
    assert rule in RULES and curve, f"no rule {rule}, or no epoch"
    done = len(curve)
    if rule == "off" or done >= epochs or rule == "epoch" and done > 1:
        return False
    if min(loss for _, loss in curve) > EXPLODED_LOSS:
        return True
    if done in rungs(epochs, ETA) and outranked(curve, others, ETA, lowest_loss):
        return True
    return done > 1 and stuck(curve, others, epochs, chance)


def stuck(curve: Curve, others: Sequence[Curve], epochs: int, chance: float) -> bool:
    """At chance, and at the last epoch's pace the loss will not have moved at the end?

    No, where PATIENCE others stayed at chance by this epoch and none learnt: such data need long.
    """
    done = len(curve)
    if _learnt(curve, chance):
        return False
    known = [_learnt(other[:done], chance) for other in others if other]
    if len(known) >= PATIENCE and not any(known):
        return False
    lowest_before = min(loss for _, loss in curve[:-1])
    fall = (lowest_before - curve[-1][1]) * (epochs - done)
    return fall < MOVED * curve[0][1]


def _learnt(curve: Curve, chance: float) -> bool:
    return max(accuracy for accuracy, _ in curve) > chance


def rungs(epochs: int, eta: int, first: int = 1) -> tuple[int, ...]:
    """The epochs after which halving looks; the last epoch is none of them."""
    found, rung = list[int](), first
    while rung < epochs:
        found.append(rung)
        rung *= eta
    return tuple(found)


def outranked(curve: Curve, others: Sequence[Curve], eta: int, standing: Standing) -> bool:
    """Is the curve not among the best 1/eta (at least one) of those that came as far?"""
    done = len(curve)
    reached = [standing(other[:done]) for other in others if len(other) >= done]
    better = sum(other > standing(curve) for other in reached)
    return better >= max(1, (1 + len(reached)) // eta)


def lowest_loss(curve: Curve) -> tuple[float, ...]:
    return (-min(loss for _, loss in curve),)


def highest_accuracy(curve: Curve) -> tuple[float, ...]:
    """The accuracy of the best epoch; among equals the loss decides."""
    return max((accuracy, -loss) for accuracy, loss in curve)
