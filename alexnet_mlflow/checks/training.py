"""Does the network learn, at which rates, and what does a training's course say?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from alexnet_mlflow.checks.check import Check, judge
from alexnet_mlflow.checks.thresholds import (
    CHANCE_DEVIATIONS,
    CHANCE_RESOLUTION,
    EARLY,
    EXPLODED,
    FIRST_LOSS_TOLERANCE,
    GAP,
    LOSS_RISE,
    LOSS_WINDOW,
    OVERFIT_ACCURACY,
    OVERFIT_LOSS,
    STILL_TOLERANCE,
    UPDATE_HIGH,
    UPDATE_LOW,
)
from alexnet_mlflow.data.split import Integers


def first_epoch_loss(measured: float, classes: int) -> Check:
    """After one epoch at a modest learning rate the loss is not above where it began."""
    expected = math.log(classes)
    tolerance = FIRST_LOSS_TOLERANCE * expected
    return judge(
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
    return judge(
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
    return judge(
        "lr_too_high", exploded, expected, after, 0.0,
        (f"At lr {lr:g} the loss explodes, as it must: it is {found}.",
         f"At lr {lr:g} the loss is {found}: the optimizer does not seem to apply the rate."),
    )


def overfits(accuracy: float, epochs: int, pictures: int, diverged: bool) -> Check:
    """A net that learns at all learns a small part by heart."""
    found = "the loss stopped being a number" if diverged else f"{accuracy:.2%}"
    return judge(
        "overfits", accuracy >= OVERFIT_ACCURACY and not diverged, OVERFIT_ACCURACY, accuracy, 0.0,
        (f"{pictures} pictures are learnt by heart: 100 % after {epochs} epochs.",
         f"{pictures} pictures are not learnt by heart: {found} after {epochs} epochs. "
         "Look at the labels, the gradient and the learning rate before any search."),
    )


def handful_by_heart(pictures: int, accuracy: float, loss: float, epochs: int) -> Check:
    """A handful of pictures is learnt to the last digit. loss: the larger of step's and score's."""
    good = accuracy >= OVERFIT_ACCURACY and loss < OVERFIT_LOSS
    found = f"{accuracy:.0%} and loss {loss:.2g} after {epochs} epochs"
    return judge(
        f"overfits_{pictures}", good, 0.0, loss, OVERFIT_LOSS,
        (f"{pictures} pictures are learnt by heart: {found}.",
         f"{pictures} pictures are not learnt by heart: {found}. Look for a softmax before the "
         "loss, at the gradient and at the initialisation."),
    )


def held_out_above_chance(predictions: Integers, labels: Integers) -> Check:
    """What was learnt by heart helps with other pictures; shuffled labels would not.

    predictions: (N,) int64, -1 where there is none; labels: (N,) int64. Chance deals the labels to
    the predictions in any order, so that always naming the largest class is no better than it.
    """
    n, right = len(labels), int((predictions == labels).sum())
    by_chance, deviation = _dealt(predictions, labels)
    needed = CHANCE_DEVIATIONS * deviation
    few = needed > CHANCE_RESOLUTION * n
    found = (f"What was learnt by heart gives {right / n:.1%} of {n} held-out pictures, chance "
             f"{by_chance / n:.1%}")
    way = "there are too few to tell" if few else "look whether labels belong to their pictures"
    return judge(
        "held_out_above_chance", right > by_chance + needed, by_chance / n, right / n, needed / n,
        (f"{found}.", f"{found}, no more than luck: {way}."),
        otherwise="warn" if few else "fail",
    )


def _dealt(predictions: Integers, labels: Integers) -> tuple[float, float]:
    """Mean and standard deviation of the correct ones over all ways to deal the labels.

    Hoeffding 1951, "A combinatorial central limit theorem".
    """
    n, classes = len(labels), 2 + int(max(labels.max(), predictions.max()))
    said = np.bincount(predictions + 1, minlength=classes) / n  # from -1, none
    given = np.bincount(labels + 1, minlength=classes) / n
    mean = float(said @ given)
    excess = np.eye(classes) - given[:, None] - said[None, :] + mean  # (said, given)
    variance = n * n * float(said @ excess**2 @ given) / max(1, n - 1)
    return n * mean, math.sqrt(variance)


def all_layers_move(ratios: Mapping[str, float], steps: int) -> Check:
    """No tensor stays as it was. ratios: tensor -> length of its last update over its own."""
    still = [name for name, ratio in ratios.items() if ratio == 0]
    return judge(
        "all_layers_move", not still, 0.0, float(len(still)), 0.0,
        (f"All {len(ratios)} tensors move at step {steps}.",
         f"{', '.join(still[:3])}{' ...' if len(still) > 3 else ''} did not move at step {steps}: "
         "look for a frozen layer, a detached value, or a rate far too low."),
    )


def update_ratio(ratios: Mapping[str, float], lr: float) -> Check:
    """The fastest weight moves by about a thousandth of itself a step; else the rate is to move.

    ratios: weight (no bias) -> length of its update over its own. On the plateau where SGD begins,
    earlier layers move a hundred times less than the last (measured): the fastest decides.
    """
    known = {name: math.inf if math.isnan(ratio) else ratio for name, ratio in ratios.items()}
    where, fastest = max(known.items(), key=lambda item: item[1])
    usual = math.sqrt(UPDATE_LOW * UPDATE_HIGH)
    found = f"At lr {lr:g} updates reach {fastest:.1g} of a weight tensor ({where})"
    way = "raise" if fastest < UPDATE_LOW else "lower"
    return judge(
        "update_ratio", UPDATE_LOW <= fastest <= UPDATE_HIGH, usual, fastest, UPDATE_HIGH,
        (f"{found}; the slowest tensor has {min(known.values()):.1g}.",
         f"{found}, outside {UPDATE_LOW:g} to {UPDATE_HIGH:g}: {way} the learning rate."),
        otherwise="warn",
    )


def loss_not_rising(losses: Sequence[float]) -> Check:
    """The training loss does not rise. losses: a mean an epoch, in order, at least one.

    It warns where the end is above the best part, and fails where it is above the beginning.
    """
    first, width = losses[0], max(1, len(losses) // LOSS_WINDOW)
    means = [math.fsum(losses[at : at + width]) / width for at in range(len(losses) - width + 1)]
    finite = all(map(math.isfinite, losses))
    best, last, tolerance = min(means), means[-1], LOSS_RISE * first if finite else 0.0
    rise = last - best if finite else math.nan
    failed = not finite or last > first + tolerance
    return judge(
        "loss_not_rising", rise <= tolerance, 0.0, rise, tolerance,
        (f"The training loss ends at {last:.4f}, its best is {best:.4f}.",
         f"The training loss ends at {last:.4f}, above its best {best:.4f}: lower the learning "
         "rate or let it fall over the epochs."),
        otherwise="fail" if failed else "warn",
    )


def gap(train_accuracy: float, val_accuracy: float) -> Check:
    """Training accuracy is not far above validation accuracy, at the epoch that is kept."""
    measured = train_accuracy - val_accuracy
    found = f"Training accuracy {train_accuracy:.1%}, validation {val_accuracy:.1%}"
    return judge(
        "gap", measured <= GAP, 0.0, measured, GAP,
        (f"{found}: no great gap.",
         f"{found}: it learns by heart. More pictures, augmentation or weight decay help."),
        otherwise="warn",
    )


def best_epoch(best: int, epochs: int) -> Check:
    """The best epoch is neither the last nor long past. best: from 1; epochs: all that ran."""
    late, early = best >= epochs, best <= EARLY * epochs
    way = ("train longer, it may still improve" if late else
           "fewer epochs do, or a lower rate or more weight decay make use of them")
    return judge(
        "best_epoch", not (late or early), float(epochs), float(best), (1 - EARLY) * epochs,
        (f"The best epoch is {best} of {epochs}.", f"The best epoch is {best} of {epochs}: {way}."),
        otherwise="warn",
    )
