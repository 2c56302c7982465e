"""When a trial is hopeless: pure functions of its curve and of the curves before it.

`epoch` cuts once, after the first epoch; `halving` is asynchronous successive halving (arXiv
1810.05934), which cuts at rungs, epochs 1, ETA, ETA^2, ...: a trial goes on while it belongs to the
best 1/ETA of all trials that came as far. Nothing else is read, no clock and no random number, so
that a search that was killed decides the same again.

At a rung the validation loss decides, not the accuracy: SGD begins on a plateau where every trial
has the accuracy of chance, and the loss falls there first. A trial's lowest loss so far counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alexnet_mlflow.config import PRUNERS

RULES = PRUNERS
ETA = 3

Curve = Sequence[tuple[float, float]]  # (validation accuracy, validation loss) of epochs 1, 2, ...
Standing = Callable[[Curve], tuple[float, ...]]  # of a curve so far; the larger is the better


def hopeless(rule: str, curve: Curve, others: Sequence[Curve], epochs: int, chance: float) -> bool:
    """Is the trial, after the epochs of its curve, to be cut?

    others: the curves of the trials before it, whole or cut; diverged ones are left out.
    epochs: what a full trial takes. chance: the accuracy of the most frequent class, a fraction.
    """
    assert rule in RULES, f"no rule {rule}"
    done = len(curve)
    if rule == "off" or done not in rungs(epochs, ETA) or rule == "epoch" and done > 1:
        return False
    return outranked(curve, others, ETA, lowest_loss)


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
