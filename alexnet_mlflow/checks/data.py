"""What is wrong with the pictures, whatever the network."""

from __future__ import annotations

from collections.abc import Mapping

from alexnet_mlflow.checks.check import Check, Verdict, judge
from alexnet_mlflow.checks.thresholds import (
    COPIES_SHARE,
    LARGEST_SHARE,
    METADATA_P,
    METADATA_SURPLUS,
    WRONG_LABELS,
)
from alexnet_mlflow.data import Audit


def of_data(found: Audit, published: bool, paired: bool) -> list[Check]:
    """All checks of a data set. published: its test split came with it; paired: so did its facts.

    Paired pictures have a partner of each other class with the same facts (size, codec ...).
    """
    tested, known = sum(found.counts["test"].values()), found.metadata
    held_out = tested + sum(found.counts["val"].values())
    made = [
        classes_balanced(found.counts),
        no_duplicates_across(found.exact.count, len(found.seen_test_rows), tested, published),
        few_copies("few_copies_across", found.exact.count, held_out),
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


def few_copies(name: str, copies: int, held_out: int) -> Check:
    """Of the held-out pictures few stand in train, pixel for pixel; many are a faulty division.

    Few are no reason to stop: published sets have some, and `no_duplicates_across` tells of them.
    """
    measured = copies / max(1, held_out)
    found = f"{copies} of {held_out} held-out pictures stand pixel for pixel in another split"
    return judge(
        name, measured <= COPIES_SHARE, 0.0, measured, COPIES_SHARE,
        (f"{found}.",
         f"{found}: accuracy there is memory. Divide the data anew, copies in one group."),
    )
