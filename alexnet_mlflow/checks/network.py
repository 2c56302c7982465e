"""Is the network, and are the step and its input, what they are said to be?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from alexnet_mlflow.checks.check import Check, Verdict, judge
from alexnet_mlflow.checks.thresholds import (
    CHANCE_DEVIATIONS,
    CLASS_SHARE_TOLERANCE,
    DEAD_LAYER,
    DEAD_SHARE,
    FIRST_LOSS_ERRORS,
    FIRST_LOSS_MOST,
    FIRST_LOSS_TOLERANCE,
    GRADIENT_TOLERANCE,
    LEVEL_TOLERANCE,
    PENALTY_TOLERANCE,
)
from alexnet_mlflow.data.split import Images

Floats = npt.NDArray[np.float32]


def first_loss(measured: float, classes: int, standard_error: float = 0.0) -> Check:
    """The loss of the untrained net is near ln C: it knows nothing and says so.

    standard_error: of the measured loss, in nats, over pictures and seeds.
    """
    expected = math.log(classes)
    wide = min(FIRST_LOSS_ERRORS * standard_error, FIRST_LOSS_MOST * expected)
    tolerance = max(FIRST_LOSS_TOLERANCE * expected, wide)
    return judge(
        "first_loss", abs(measured - expected) <= tolerance, expected, measured, tolerance,
        (f"The first loss {measured:.4f} is near ln {classes} = {expected:.4f}.",
         f"The first loss {measured:.4f} is not near ln {classes} = {expected:.4f}: look at the "
         "initialisation, the normalisation, and for a softmax before the loss."),
    )


def first_step_loss(reported: float, classes: int) -> Check:
    """What the training step reports first is the mean loss of an untrained net too."""
    expected = math.log(classes)
    tolerance = FIRST_LOSS_TOLERANCE * expected
    return judge(
        "first_step_loss", abs(reported - expected) <= tolerance, expected, reported, tolerance,
        (f"The first training step reports the loss {reported:.4f}, near ln {classes}.",
         f"The first training step reports the loss {reported:.4f}, not ln {classes} = "
         f"{expected:.4f}: look whether the step sums where it must average over the batch."),
    )


def class_share(farthest: float, classes: int) -> Check:
    """The untrained net gives every class the same share. farthest: the mean softmax most off."""
    expected = 1 / classes
    tolerance = CLASS_SHARE_TOLERANCE * expected
    return judge(
        "class_share", abs(farthest - expected) <= tolerance, expected, farthest, tolerance,
        (f"Untrained, each class has a mean probability near {expected:.3f}.",
         f"Untrained, a class has a mean probability of {farthest:.3f} instead of "
         f"{expected:.3f}: look at the initialisation of the last layer and the normalisation."),
    )


def penalty_raises_loss(rise: float, expected: float, weight_decay: float) -> Check:
    """Weight decay adds half of itself times the squared weights, as the optimizer applies it.

    rise: of the penalised loss, from no penalty to this one, on the same weights, in nats.
    """
    tolerance = PENALTY_TOLERANCE * expected
    found = f"Weight decay {weight_decay:g} raises the penalised loss by {rise:.4f}"
    return judge(
        "penalty_raises_loss", 0 < rise and abs(rise - expected) <= tolerance,
        expected, rise, tolerance,
        (f"{found}, as it must.",
         f"{found} instead of {expected:.4f}: the optimizer does not apply it to all weights."),
    )


def gradient(worst: float, where: str) -> Check:
    """The step's gradient is the slope of its loss, also after an earlier step.

    worst: the largest relative error of a tensor's gradient against finite differences in float64.
    """
    return judge(
        "gradient", worst <= GRADIENT_TOLERANCE, 0.0, worst, GRADIENT_TOLERANCE,
        (f"The gradient agrees with finite differences to {worst:.1g}.",
         f"The gradient of {where} is off by {worst:.2g} of itself: look whether the step forgets "
         "zero_grad, sums instead of averages, or leaves a layer out."),
    )


def samples_independent(largest: float) -> Check:
    """What the net says of a picture does not depend on the others in its batch.

    largest: slope of one picture's logits along any pixel of the others.
    """
    return judge(
        "samples_independent", largest == 0, 0.0, largest, 0.0,
        ("No picture of a batch changes what is said of another.",
         f"A picture changes what is said of another one in its batch (slope {largest:.2g}): look "
         "for a reshape, a mean or a normalisation along the batch."),
    )


def deterministic(different: int, steps: int, promised: bool) -> Check:
    """The same seed gives the same weights, bit for bit; on a GPU that is not promised: a warning.

    different: numbers of the trained net that differ between two trainings.
    """
    return judge(
        "deterministic", different == 0, 0.0, float(different), 0.0,
        (f"Two trainings of {steps} steps agree bit for bit.",
         f"Two trainings of {steps} steps from one seed differ in {different:,} numbers: look for "
         "a draw without a seed; where runs are compared, repeat them with several seeds."),
        otherwise="fail" if promised else "warn",
    )


def input_as_stored(levels: Floats, stored: Images) -> Check:
    """What enters the network during `fit` is the stored picture, normalised as declared.

    levels: (N, 3, 32, 32) float32, what entered, taken back to grey levels by the declared mean and
    deviation; stored: (M, 3, 32, 32) uint8, what must have entered, in any order.
    """
    whole = np.rint(levels)
    exact = (np.abs(levels - whole) <= LEVEL_TOLERANCE).all(axis=(1, 2, 3))
    found = Counter(one.tobytes() for one in whole[exact].astype(np.int32))
    known = Counter(one.tobytes() for one in stored.astype(np.int32))
    n, missing = len(levels), (known - found).total()
    wrong = max(n - (known & found).total(), missing)
    return judge(
        "input_as_stored", wrong == 0, 0.0, wrong / max(1, n), 0.0,
        (f"All {n} pictures that enter the network are the stored ones, normalised as declared.",
         f"{wrong} of {n} pictures that enter the network cannot be taken back to stored ones: "
         "look whether they are normalised once, with the declared mean and deviation."),
    )


def blanked_at_majority(accuracy: float, majority: float, n: int) -> Check:
    """Who has seen only blank pictures can do no better than name the largest class."""
    tolerance = CHANCE_DEVIATIONS * math.sqrt(majority * (1 - majority) / max(1, n))
    return judge(
        "blanked_at_majority", accuracy <= majority + tolerance, majority, accuracy, tolerance,
        (f"Trained on blank pictures, it has {accuracy:.1%} right; the largest class is "
         f"{majority:.1%}.",
         f"Trained on blank pictures, it has {accuracy:.1%} right, more than the largest class "
         f"({majority:.1%}): the labels come in another way than by the pictures."),
    )


def layers_alive(dead: Mapping[str, float]) -> Check:
    """Every layer passes something on. dead: layer -> share of units that no picture excites."""
    where, share = max(dead.items(), key=lambda item: item[1])
    verdict: Verdict = "fail" if share >= DEAD_LAYER else "warn"
    found = f"At most {share:.0%} of a layer's units are never excited ({where})"
    return judge(
        "layers_alive", share <= DEAD_SHARE, 0.0, share, DEAD_SHARE,
        (f"{found}.",
         f"{share:.0%} of the units of {where} are never excited: look at its biases, the "
         "initialisation and the normalisation, or lower the learning rate."),
        otherwise=verdict,
    )
