"""When a trial is hopeless: pure functions of its curve and of the curves before it.

`epoch` cuts once, after the first epoch; `halving` is asynchronous successive halving (arXiv
1810.05934), which cuts at rungs, epochs 1, ETA, ETA^2, ...: a trial goes on while it belongs to the
best 1/ETA of all trials that came as far. Nothing else is read, no clock and no random number, so
that a search that was killed decides the same again.

At a rung the validation loss decides, not the accuracy: SGD begins on a plateau where every trial
has the accuracy of chance, and the loss falls there first. A trial's lowest loss so far counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_mlflow.config import PRUNERS

RULES = PRUNERS
ETA = 3

Curve = Sequence[tuple[float, float]]  # (validation accuracy, validation loss) of epochs 1, 2, ...


def hopeless(rule: str, curve: Curve, others: Sequence[Curve], epochs: int, chance: float) -> bool:
    """Is the trial, after the epochs of its curve, to be cut?

    others: the curves of the trials before it, whole or cut; diverged ones are left out.
    epochs: what a full trial takes. chance: the accuracy of the most frequent class, a fraction.
    """
    assert rule in RULES, f"no rule {rule}"
    done = len(curve)
    if done not in rungs(rule, epochs):
        return False
    mine = _standing(curve)
    better = sum(_standing(other[:done]) < mine for other in others if len(other) >= done)
    reached = 1 + sum(len(other) >= done for other in others)
    return better >= max(1, reached // ETA)


def rungs(rule: str, epochs: int) -> tuple[int, ...]:
    """The epochs after which the rule looks; the last epoch is none of them."""
    if rule == "off":
        return ()
    if rule == "epoch":
        return (1,) if epochs > 1 else ()
    found, rung = list[int](), 1
    while rung < epochs:
        found.append(rung)
        rung *= ETA
    return tuple(found)


def _standing(curve: Curve) -> float:
    """The lowest loss so far: lower is better."""
    return min(loss for _, loss in curve)
