"""Test pictures that training has seen are found by row, whatever else is compared."""

from __future__ import annotations

import pytest

from alexnet_mlflow.data import copies, seen_rows
from tests.data.test_audit import striped, toy


def test_nothing_is_found_where_nothing_was_planted() -> None:
    train, val, test = toy()
    rows, compared = seen_rows(train, val, test)
    assert rows.tolist() == [] and compared == len(test)


def test_equal_mirrored_and_noisy_copies_in_train_or_validation_are_found() -> None:
    train, val, test = toy()
    test.images[3] = train.images[7]
    test.images[5] = val.images[2][..., ::-1]
    test.images[9] = (train.images[11].astype(int) + 3).clip(0, 255)
    test.images[20] = test.images[21]  # a copy within the test split has not been trained on
    rows, _ = seen_rows(train, val, test)
    assert rows.tolist() == [3, 5, 9]


def test_copies_between_train_and_validation_do_not_count() -> None:
    train, val, test = toy()
    val.images[:] = train.images[: len(val)]
    assert seen_rows(train, val, test)[0].tolist() == []
    near, _, _ = copies.near_copies((train, val, test), 0, with_last_only=True)
    assert near == []
    assert copies.near_copies((train, val, test), 0)[0]


def test_of_large_sets_a_part_is_compared_and_equal_pixels_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "COMPARED", 60)
    train, val, test = toy()
    test.images[4] = train.images[8]
    rows, compared = seen_rows(train, val, test)
    assert rows.tolist() == [4] and compared == 10


def test_the_first_listed_are_those_of_other_labels() -> None:
    train, val = striped("train", 6, 1), striped("val", 4, 2)
    val.images[:2] = train.images[[0, 1]]
    val.labels[1] = 1 - val.labels[1]
    found, _ = copies.exact_copies((train, val))
    told = copies.listed(found)
    assert (told.count, told.conflicts) == (2, 1) and told.listed[0].conflict
