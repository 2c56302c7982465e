"""The babysitting checks: pure functions on measured numbers, each returning a `Check`.

They decide what the report's author decided by eye. They measure nothing themselves and know of
no run, file or network: the stages measure, these judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail"]

# How far the first loss may lie from ln C, as a share of ln C. PyTorch's default initialisation
# of this net gives logits of about 0.01, hence 0.1 % (measured); a softmax too many, a large
# initialisation or a wrong number of classes miss by far more.
FIRST_LOSS_TOLERANCE = 0.05
# "Barely moves": the loss after the probe, as a share of ln C. The report's moved by 0.7 %.
STILL_TOLERANCE = 0.01
# "Explodes": a loss this many times ln C, where it has not become nan or inf before.
EXPLODED = 10.0
# Overfitting on purpose ends at 100 %.
OVERFIT_ACCURACY = 1.0


@dataclass(frozen=True)
class Check:
    """One judgement, as it stands in checks.json."""

    name: str
    verdict: Verdict
    expected: float
    measured: float | None  # None where it was not a finite number
    tolerance: float
    sentence: str


def overall(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of all; `pass` where there is none."""
    verdicts = {check.verdict for check in checks}
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check(name: str, good: bool, expected: float, measured: float, tolerance: float,
           sentences: tuple[str, str]) -> Check:
    verdict: Verdict = "pass" if good else "fail"
    return Check(name, verdict, expected, _finite(measured), tolerance, sentences[not good])


def first_loss(measured: float, classes: int) -> Check:
    """The loss of the untrained net is near ln C: it knows nothing and says so."""
    expected = math.log(classes)
    tolerance = FIRST_LOSS_TOLERANCE * expected
    return _check(
        "first_loss", abs(measured - expected) <= tolerance, expected, measured, tolerance,
        (f"The first loss {measured:.4f} is near ln {classes} = {expected:.4f}.",
         f"The first loss {measured:.4f} is not near ln {classes} = {expected:.4f}: look at the "
         "initialisation, the normalisation, and for a softmax before the loss."),
    )


def first_epoch_loss(measured: float, classes: int) -> Check:
    """After one epoch at a modest learning rate the loss is not above where it began."""
    expected = math.log(classes)
    tolerance = FIRST_LOSS_TOLERANCE * expected
    return _check(
        "first_epoch_loss", measured <= expected + tolerance, expected, measured, tolerance,
        (f"After one epoch the training loss is {measured:.4f}, not above ln {classes} = "
         f"{expected:.4f}.",
         f"After one epoch the training loss is {measured:.4f}, above ln {classes} = "
         f"{expected:.4f}: the learning rate is too high, or the gradient points the wrong way."),
    )


def lr_too_low(before: float, after: float, lr: float, classes: int) -> Check:
    """A learning rate too low leaves the loss where it was, whatever the accuracy does."""
    expected, tolerance = 0.0, STILL_TOLERANCE * math.log(classes)
    moved = abs(after - before)
    return _check(
        "lr_too_low", moved <= tolerance, expected, moved, tolerance,
        (f"At lr {lr:g} the loss barely moves: {before:.4f} -> {after:.4f}.",
         f"At lr {lr:g} the loss moves from {before:.4f} to {after:.4f}: something other than the "
         "learning rate drives the weights, or the rate is not too low for this optimizer."),
    )


def lr_too_high(after: float, lr: float, classes: int) -> Check:
    """A learning rate too high makes the loss explode or stop being a number."""
    expected = EXPLODED * math.log(classes)
    exploded = not math.isfinite(after) or after >= expected
    found = f"{after:.4g}" if math.isfinite(after) else "not a number"
    return _check(
        "lr_too_high", exploded, expected, after, 0.0,
        (f"At lr {lr:g} the loss explodes, as it must: it is {found}.",
         f"At lr {lr:g} the loss is {found}: the optimizer does not seem to apply the rate."),
    )


def overfits(accuracy: float, epochs: int, pictures: int, diverged: bool) -> Check:
    """A net that learns at all learns a small part by heart."""
    found = "the loss stopped being a number" if diverged else f"{accuracy:.2%}"
    return _check(
        "overfits", accuracy >= OVERFIT_ACCURACY and not diverged, OVERFIT_ACCURACY, accuracy, 0.0,
        (f"{pictures} pictures are learnt by heart: 100 % after {epochs} epochs.",
         f"{pictures} pictures are not learnt by heart: {found} after {epochs} epochs. "
         "Look at the labels, the gradient and the learning rate before any search."),
    )
