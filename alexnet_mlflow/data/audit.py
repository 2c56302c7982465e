"""How honest the task is that a divided data set poses: figures, of which `checks` judges some.

`audit` counts classes, pictures and groups that stand in two splits, and labels that look wrong; it
measures how far one gets without looking at pictures (by their facts: size, mode, position) and by
looking in the simplest ways (`baselines`). The test split is compared with the others, and nothing
else: no baseline is scored on it here.

Chosen: classifiers are scikit-learn's and see PICTURES at most, a stratified part of the training
pictures that their ids decide. What is listed for people to look at is cut at LISTED.
Suspect labels come from confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels") on the shapes (HOG) and colours of pictures, with groups
kept in one fold. It is worth what its model is: where 5 % of labels were turned round, it is sure
of 84 among 97 in FDDB's crops and of no other, but in CIFAR-10 of 318 among 484 and 2,616 others.

Left out: judgement, files, and what needs a network that has learnt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_mlflow.data import duplicates
from alexnet_mlflow.data.copies import (
    LISTED,
    Copies,
    Part,
    Place,
    exact_copies,
    listed,
    near_copies,
    parts_of,
    rows_in,
)
from alexnet_mlflow.data.split import Images, Integers, Split, stratified_part

PICTURES = 10_000
RELIABLE = 0.9  # a model that agrees with fewer labels says little of the others
FOLDS, BLOCK = 5, 2048  # BLOCK: pictures guessed at a time
# Logistic regression on N pictures has C = EASE / N, so that its ridge weighs the same beside their
# mean loss. Of C = 1e-4, 1e-3 ... 1 the best were 1e-2 for 1,600 crops of FDDB (by folds) and 1e-3
# for 10,000 pictures of CIFAR-10 (on validation).
EASE = 10.0

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """Pictures that belong together, such as those of one photo or person."""

    count: int  # groups of more than one picture
    divided: int  # groups that stand in more than one split
    listed: tuple[str, ...]  # LISTED of these at most


@dataclass(frozen=True)
class Metadata:
    """A classifier that sees the facts of a picture and not the picture, by cross-validation."""

    facts: tuple[str, ...]
    correct: int
    n: int
    majority: int  # correct by naming the largest class
    p_value: float  # of being as much better than the majority by chance


@dataclass(frozen=True)
class Suspect:
    """A label that a model, which has not seen the picture's group, does not agree with."""

    place: Place
    likely: int
    probability: float  # of the likely label
    confident: bool  # as probable as that label is on average where it is given


@dataclass(frozen=True)
class Labels:
    """What confident learning says of the labels."""

    n: int
    agree: int  # of n, where the model's label is the given one
    confident: int  # of the others
    listed: tuple[Suspect, ...]  # LISTED at most, surest first

    @property
    def reliable(self) -> bool:
        """Does the model know enough to doubt a label?"""
        return self.agree >= RELIABLE * self.n


@dataclass(frozen=True)
class Audit:
    """All figures. `sentences` says them to people, `as_dict` to programs."""

    classes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]  # split -> class -> pictures
    exact: Copies  # across splits, each with the first of its kind
    contradictions: Copies  # equal pixels and different labels within train
    near: Copies  # across splits, exact ones among them unless they are flat
    near_is_whole: bool  # no search ended early
    compared: Mapping[str, int]  # split -> pictures among which near-duplicates were sought
    seen_test_rows: tuple[int, ...]  # test pictures with an exact or near copy in train or val
    groups: Groups
    metadata: Metadata | None  # None without facts, or where they never differ
    baselines: Mapping[str, tuple[int, int]]  # name -> correct of n on validation
    baseline_pictures: int  # they learnt from
    labels: Labels

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)

    def sentences(self) -> list[str]:
        """What was found, one sentence a subject."""
        return list(_sentences(self))


def audit(train: Split, val: Split, test: Split, classes: Sequence[str], seed: int = 0) -> Audit:
    """Measure everything. Of the test split, pixels and groups are compared, and no more."""
    splits = (train, val, test)
    exact, contradictions = exact_copies(splits)
    near, whole, compared = near_copies(splits, seed)
    pool = parts_of((train, val), PICTURES, seed)
    return Audit(
        classes=tuple(classes),
        counts={split.name: _counts(split, classes) for split in splits},
        exact=listed(exact),
        contradictions=listed(contradictions),
        near=listed(near),
        near_is_whole=whole,
        compared=compared,
        seen_test_rows=tuple(rows_in(test, [*exact, *near]).tolist()),
        groups=_groups(splits),
        metadata=_metadata(pool),
        baselines=baselines(train, val, seed),
        baseline_pictures=min(len(train), PICTURES),
        labels=_labels(pool, len(classes)),
    )


def baselines(train: Split, other: Split, seed: int = 0) -> dict[str, tuple[int, int]]:
    """Name -> (correct, n) on `other` of what learns from PICTURES of train in the simplest ways.

    `statistics`: nine numbers a picture, their squares and products; `pixels`: all of them.
    """
    part = stratified_part(train, PICTURES, seed)
    results = {}
    for name, model, features in (
        ("statistics", _logistic(1.0, products=True), _statistics),
        ("pixels", _logistic(EASE / len(part)), _pixels),
    ):
        model.fit(features(part.images), part.labels)
        guesses = [model.predict(features(other.images[start : start + BLOCK]))
                   for start in range(0, len(other), BLOCK)]
        results[name] = (int((np.concatenate(guesses) == other.labels).sum()), len(other))
    return results


def _counts(split: Split, classes: Sequence[str]) -> dict[str, int]:
    sizes = np.bincount(split.labels, minlength=len(classes))
    return dict(zip(classes, sizes.tolist(), strict=True))


def _joined(parts: list[Part], name: str) -> npt.NDArray[Any]:
    return np.concatenate([getattr(part.split, name) for part in parts])


def _groups(splits: Sequence[Split]) -> Groups:
    own = [np.unique(split.groups, return_counts=True) for split in splits]
    names, sizes = (np.concatenate(column) for column in zip(*own, strict=True))
    names, member, parts = np.unique(names, return_inverse=True, return_counts=True)
    sizes, divided = np.bincount(member, sizes), names[parts > 1].tolist()
    return Groups(int((sizes > 1).sum()), len(divided), tuple(divided[:LISTED]))


def _folds(pool: list[Part]) -> Integers:
    """(N,) 0 ... FOLDS - 1: a group in one fold, the groups of each class dealt out in turn."""
    labels, groups = (_joined(pool, name) for name in ("labels", "groups"))
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort([np.random.default_rng(0).permutation(len(first)), labels[first]])
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[group]


def _held_out(model: Any, features: Floats, labels: Integers, folds: Integers, n: int) -> Floats:
    """(N, n classes): what a model that has learnt from the other folds thinks of each picture."""
    chances = np.zeros((len(labels), n), np.float32)
    for fold in np.unique(folds):
        held, seen = folds == fold, folds != fold
        known = np.unique(labels[seen])
        if len(known) > 1:
            model.fit(features[seen], labels[seen])
            chances[np.ix_(held, model.classes_)] = model.predict_proba(features[held])
        else:
            chances[np.ix_(held, known)] = 1.0
    return chances


def _metadata(pool: list[Part]) -> Metadata | None:
    """A random forest on the facts, against naming the largest class.

    Groups are independent, their pictures are not: of a face and a background from one photo, which
    share its size, the forest has one right. So the sum over groups of what is right beyond the
    largest class is about normal, where each sign is as likely as the other.
    """
    from sklearn.ensemble import RandomForestClassifier

    labels, groups = (_joined(pool, name) for name in ("labels", "groups"))
    facts = {name: np.concatenate([part.split.facts[name] for part in pool])
             for name in sorted(set.intersection(*(set(part.split.facts) for part in pool)))}
    facts = {name: column for name, column in facts.items() if len(np.unique(column)) > 1}
    if not facts:
        return None
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
    columns = np.stack(list(facts.values()), axis=1)
    chances = _held_out(forest, columns, labels, _folds(pool), int(labels.max()) + 1)
    correct, majority = chances.argmax(axis=1) == labels, labels == np.bincount(labels).argmax()
    _, group = np.unique(groups, return_inverse=True)
    surplus = np.bincount(group, correct.astype(float) - majority)
    spread = math.sqrt(2 * float((surplus**2).sum()))
    p_value = math.erfc(float(surplus.sum()) / spread) / 2 if spread else 1.0
    return Metadata(tuple(facts), int(correct.sum()), len(labels), int(majority.sum()), p_value)


def _labels(pool: list[Part], classes: int) -> Labels:
    labels = _joined(pool, "labels")
    features = np.concatenate([_shapes(part.split.images) for part in pool])
    chances = _held_out(_logistic(EASE / len(labels)), features, labels, _folds(pool), classes)
    given, likely = chances[np.arange(len(labels)), labels], chances.argmax(axis=1)
    highest, against = chances.max(axis=1), likely != labels
    usual = [given[labels == label].mean() if label in labels else 1.0 for label in range(classes)]
    confident = against & (highest >= np.array(usual)[likely])
    order = np.lexsort([given - highest, ~confident, ~against])[: against.sum()]
    places = [part.place(at) for part in pool for at in range(len(part.rows))]
    listed = tuple(
        Suspect(places[row], int(likely[row]), float(highest[row]), bool(confident[row]))
        for row in order[:LISTED]
    )
    return Labels(len(labels), int((~against).sum()), int(confident.sum()), listed)


def _logistic(ease: float, products: bool = False) -> Any:
    """Logistic regression on features of one scale, with their squares and products if asked."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    first = [StandardScaler(), PolynomialFeatures(2, include_bias=False)] if products else []
    model = LogisticRegression(C=ease, tol=1e-3, max_iter=3000)
    return make_pipeline(*first, StandardScaler(), model)


def _statistics(images: Images) -> Floats:
    """Mean, standard deviation and mean step from pixel to pixel of each channel, (N, 9)."""
    pixels = images.astype(np.float32)
    steps = [np.abs(np.diff(pixels, axis=axis)).mean(axis=(2, 3)) for axis in (2, 3)]
    each = pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3)), (steps[0] + steps[1]) / 2
    return np.concatenate(each, axis=1)


def _pixels(images: Images) -> Floats:
    return images.reshape(len(images), -1).astype(np.float32)


def _shapes(images: Images) -> Floats:
    """Histograms of oriented gradients (Dalal and Triggs 2005) and 8x8 colours, (N, 516)."""
    from skimage.feature import hog

    grey = duplicates.thumbnails(images).astype(np.float32) / 255
    shapes = np.array([hog(one, 9, (8, 8), (2, 2)) for one in grey])
    colours = images.reshape(len(images), 3, 8, 4, 8, 4).mean(axis=(3, 5)).reshape(len(images), -1)
    return np.concatenate([shapes, colours], axis=1).astype(np.float32)


def _sentences(found: Audit) -> Iterator[str]:
    sizes = {split: sum(counts.values()) for split, counts in found.counts.items()}
    largest = max(found.counts["train"].values()) / sizes["train"]
    yield (f"There are {_numbers(sizes)} pictures; the largest of {len(found.classes)} classes has "
           f"{largest:.1%} of train.")
    exact, train = found.exact, found.contradictions.count
    yield (f"{exact.count:,} pictures stand pixel for pixel in two splits, {exact.conflicts:,} of "
           f"them with different labels; {train:,} of train equal another there but in label.")
    yield (f"{found.near.count:,} pairs of near-duplicates stand across splits, "
           f"{found.near.conflicts:,} with different labels; {len(found.seen_test_rows):,} of "
           f"{sizes['test']:,} test pictures have a copy in train or validation.")
    if dict(found.compared) != sizes:
        yield f"Only {_numbers(found.compared)} pictures were compared for near-duplicates."
    if not found.near_is_whole:
        yield f"The search ended early, at {duplicates.MOST:,} pairs of two splits."
    if found.groups.count:
        yield (f"{found.groups.divided:,} of {found.groups.count:,} groups of pictures stand in "
               "more than one split.")
    if known := found.metadata:
        yield (f"Without a look at the picture, {', '.join(known.facts)} give "
               f"{_share(known.correct, known.n)} of the labels right, the largest class "
               f"{known.majority / known.n:.1%} (p = {known.p_value:.2g}).")
    figures = (f"{name} {_share(*result)}" for name, result in found.baselines.items())
    yield (f"Simple baselines that learnt from {found.baseline_pictures:,} pictures have right on "
           f"validation: {', '.join(figures)}.")
    labels = found.labels
    yield (f"A model of shapes and colours agrees with {_share(labels.agree, labels.n)} of the "
           f"labels and is confident that {labels.confident:,} others are wrong"
           f"{'' if labels.reliable else ', most of them by its own fault'}.")


def _numbers(named: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in named.items())


def _share(right: int, n: int) -> str:
    return f"{right / n:.1%} ({right:,} of {n:,})"
