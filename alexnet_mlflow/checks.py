"""The babysitting checks: pure functions on measured numbers, each returning a `Check`.

They decide what the report's author decided by eye. They measure nothing themselves and know of
no run, file or network: the stages measure, these judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from alexnet_mlflow.data import Audit

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
# The largest class may have this many times its equal share, and never more than half way from the
# equal share to all: a model that names it alone would otherwise look good by accuracy.
LARGEST_SHARE = 2.0
# A classifier that sees no picture may be this much better than the largest class, in shares of the
# pictures: below that it matters to no result. And it may be better by chance once in a thousand
# checks.
METADATA_SURPLUS = 0.02
METADATA_P = 0.001
# Labels that a reliable model is confident are wrong, as a share. A careful set has fewer: 0.15 %
# of MNIST's test labels are wrong, of ten test sets 3.3 % on average (Northcutt, Athalye, Mueller
# 2021, "Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks").
WRONG_LABELS = 0.01


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


def of_data(found: Audit, published: bool, paired: bool) -> list[Check]:
    """All checks of a data set. published: its test split came with it; paired: so did its facts.

    Paired pictures have a partner of each other class with the same facts (size, codec ...).
    """
    tested, known = sum(found.counts["test"].values()), found.metadata
    made = [
        classes_balanced(found.counts),
        no_duplicates_across(found.exact.count, len(found.seen_test_rows), tested, published),
        groups_whole(found.groups.divided, found.groups.count),
    ]
    if known:
        figures = (known.correct, known.majority, known.n, known.p_value)
        made.append(metadata_at_chance(*figures, paired))
    labels, against = found.labels, found.contradictions.count
    made.append(labels_plausible(labels.confident, against, labels.n, labels.reliable))
    return made


def classes_balanced(counts: Mapping[str, Mapping[str, int]]) -> Check:
    """Every split has every class, and no class rules the training part. counts: split -> class."""
    train = counts["train"]
    expected = 1 / len(train)
    measured = max(train.values()) / max(1, sum(train.values()))
    tolerance = min(LARGEST_SHARE, (1 + len(train)) / 2) * expected - expected
    missing = [f"{name!r} in {split}" for split, sizes in counts.items()
               for name, size in sizes.items() if not size]
    verdict: Verdict = "fail" if missing else "pass"
    sentence = f"The largest of {len(train)} classes has {measured:.1%} of the training pictures."
    if missing:
        sentence = f"No picture is of class {missing[0]}: it can be neither learnt nor scored."
    elif measured > expected + tolerance:
        verdict = "warn"
        sentence += " Naming it alone gives this accuracy: compare every result with it."
    return Check("classes_balanced", verdict, expected, measured, tolerance, sentence)


def no_duplicates_across(exact: int, seen: int, tested: int, published: bool) -> Check:
    """No test picture is to be seen in training or validation; a copy warns, it does not gate.

    exact: pictures with equal pixels in two splits; seen: of the tested ones, those with an exact
    or near copy there. A published division stays what others compare with; pictures that are
    alike by nature look like near-duplicates.
    """
    verdict: Verdict = "warn" if exact + seen else "pass"
    sentence = "No picture stands in two splits."
    if exact and not published:
        sentence = (f"{exact} pictures stand pixel for pixel in two splits: remove the copies, or "
                    "give copies the same group in a CSV, so that they stay in one split.")
    elif exact + seen:
        sentence = (f"{seen} of {tested} test pictures have a copy in training or validation: look "
                    "at the accuracy without them too.")
    return Check("no_duplicates_across", verdict, 0.0, seen / max(1, tested), 0.0, sentence)


def groups_whole(divided: int, groups: int) -> Check:
    """Pictures of one photo or person stand in one split."""
    verdict: Verdict = "fail" if divided else "pass"
    sentence = f"Each of {groups} groups of pictures stands in one split."
    if divided:
        sentence = (f"{divided} of {groups} groups of pictures stand in more than one split: "
                    "validation and test measure what was learnt by heart.")
    elif not groups:
        sentence = "No groups of pictures are known."
    return Check("groups_whole", verdict, 0.0, float(divided), 0.0, sentence)


def metadata_at_chance(correct: int, majority: int, n: int, p_value: float, paired: bool) -> Check:
    """Who does not see the pictures cannot tell the classes.

    correct, majority: of n, by the facts and by naming the largest class. Where the pictures are
    paired, so that their facts must tell nothing, it fails; elsewhere classes may well differ in
    size, and it warns.
    """
    expected, measured = majority / n, correct / n
    good = p_value >= METADATA_P or measured - expected <= METADATA_SURPLUS
    verdict: Verdict = "pass" if good else "fail" if paired else "warn"
    found = f"Size, format and the like give {measured:.1%} of the labels, chance {expected:.1%}"
    sentence = f"{found}: they tell nothing."
    if not good:
        sentence = (f"{found} (p = {p_value:.1g}): a net can learn these from the pixels, so make "
                    "the classes alike in them, or compare every result with this.")
    return Check(
        "metadata_at_chance", verdict, expected, measured, METADATA_SURPLUS, sentence
    )


def labels_plausible(confident: int, contradictions: int, n: int, reliable: bool) -> Check:
    """Few labels look wrong.

    confident: of n, by a model of which `reliable` says whether its doubt is worth anything;
    contradictions: training pictures with the pixels of another and a different label.
    """
    measured = confident / n
    doubtful = reliable and measured > WRONG_LABELS
    verdict: Verdict = "warn" if doubtful or contradictions else "pass"
    sentence = f"{confident} of {n} labels look wrong."
    if contradictions:
        sentence = (f"{contradictions} training pictures have the pixels of another one and a "
                    "different label: one of each two is wrong.")
    elif doubtful:
        sentence = f"{confident} of {n} labels look wrong: look at the suspects and correct them."
    elif not reliable:
        sentence = "The simple model that would doubt labels knows too little of these pictures."
    return Check("labels_plausible", verdict, 0.0, measured, WRONG_LABELS, sentence)
