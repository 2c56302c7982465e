"""Pictures that stand in two splits: equal pixels, and near-duplicates (duplicates.py).

Near-duplicates are sought among COMPARED pictures at most, a like part of each split that the
pictures' ids decide. What is listed for people to look at is cut at LISTED, what is counted is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from alexnet_mlflow.data import duplicates
from alexnet_mlflow.data.split import Integers, Split, stratified_part

COMPARED, LISTED = 100_000, 100


@dataclass(frozen=True)
class Place:
    """One picture."""

    split: str
    row: int  # in its split
    id: str
    label: int


@dataclass(frozen=True)
class Copy:
    """The same picture twice."""

    first: Place
    second: Place
    correlation: float  # 1 for equal pixels
    mirrored: bool

    @property
    def conflict(self) -> bool:
        """Is it labelled differently?"""
        return self.first.label != self.second.label


@dataclass(frozen=True)
class Copies:
    """What was found of one kind."""

    count: int
    conflicts: int  # pairs of different labels
    listed: tuple[Copy, ...]  # LISTED at most, those of different labels and the surest first


class Part(NamedTuple):
    """Some pictures of a split, and the rows they have there."""

    split: Split
    rows: Integers

    def place(self, at: int) -> Place:
        name, ids, labels = self.split.name, self.split.ids, self.split.labels
        return Place(name, int(self.rows[at]), str(ids[at]), int(labels[at]))


def exact_copies(splits: Sequence[Split]) -> tuple[list[Copy], list[Copy]]:
    """Equal pixels across splits, and equal pixels of different labels in the first of them."""
    first = duplicates.first_with_pixels(*(split.images for split in splits))
    places = [Part(split, np.arange(len(split))) for split in splits]
    starts = np.cumsum([0, *map(len, splits)])
    across, against = list[Copy](), list[Copy]()
    for row in np.flatnonzero(first < np.arange(len(first))):
        owners = np.searchsorted(starts, [first[row], row], side="right") - 1
        one, two = (places[owner].place(at - starts[owner])
                    for owner, at in zip(owners, (first[row], row), strict=True))
        if one.split != two.split:
            across.append(Copy(one, two, 1.0, False))
        elif one.split == splits[0].name and one.label != two.label:
            against.append(Copy(one, two, 1.0, False))
    return across, against


def parts_of(splits: Sequence[Split], count: int, seed: int) -> list[Part]:
    """`count` pictures of these splits together at most, the same share of each."""
    share = min(1.0, count / sum(map(len, splits)))
    parts = [stratified_part(split, round(share * len(split)), seed) for split in splits]
    return [Part(part, np.flatnonzero(np.isin(split.ids, part.ids)))
            for split, part in zip(splits, parts, strict=True)]


def near_copies(
    splits: Sequence[Split], seed: int, with_last_only: bool = False
) -> tuple[list[Copy], bool, dict[str, int]]:
    """Near-duplicates across splits, whether these are all, and the pictures compared."""
    parts = parts_of(splits, COMPARED, seed)
    thumbs = [duplicates.thumbnails(part.split.images) for part in parts]
    found, whole = list[Copy](), True
    for (one, left), (two, right) in combinations(zip(parts, thumbs, strict=True), 2):
        if with_last_only and two is not parts[-1]:
            continue
        pairs = duplicates.near_pairs(left, right)
        whole &= len(pairs) < duplicates.MOST
        found += [Copy(one.place(pair.first), two.place(pair.second), *pair[2:]) for pair in pairs]
    return found, whole, {part.split.name: len(part.rows) for part in parts}


def listed(found: list[Copy]) -> Copies:
    """How many, and the first of them for people."""
    order = sorted(found, key=lambda copy: (not copy.conflict, -copy.correlation))
    return Copies(len(found), sum(copy.conflict for copy in found), tuple(order[:LISTED]))


def seen_rows(train: Split, val: Split, test: Split, seed: int = 0) -> tuple[Integers, int]:
    """Rows of `test` with an exact or near copy in train or val, and how many rows were compared.

    COMPARED pictures at most are looked at for near copies, a like share of each split.
    """
    exact, _ = exact_copies((train, val, test))
    near, _, compared = near_copies((train, val, test), seed, with_last_only=True)
    return rows_in(test, [*exact, *near]), compared[test.name]


def rows_in(split: Split, copies: Sequence[Copy]) -> Integers:
    """The rows of a split that have a copy in a split before it."""
    rows = {copy.second.row for copy in copies if copy.second.split == split.name}
    return np.array(sorted(rows), np.int64)
