"""Each check of pictures on both sides of its tolerance."""

from __future__ import annotations

import pytest

from alexnet_mlflow import checks
from tests.checks.judged import judge


def counts(**train: int) -> dict[str, dict[str, int]]:
    return {"train": train, "val": dict(train), "test": dict(train)}


@pytest.mark.parametrize(
    ("train", "verdict"),
    [
        ({"a": 50, "b": 50}, "pass"),
        ({"a": 75, "b": 25}, "pass"),
        ({"a": 76, "b": 24}, "warn"),
        ({"a": 20, "b": 40, "c": 40, "d": 40, "e": 60}, "pass"),
        ({"a": 20, "b": 20, "c": 20, "d": 20, "e": 60}, "warn"),
    ],
)
def test_classes_balanced(train: dict[str, int], verdict: str) -> None:
    judge(checks.classes_balanced(counts(**train)), verdict)


def test_a_class_that_is_missing_fails() -> None:
    known = counts(a=5, b=5)
    known["test"]["b"] = 0
    check = checks.classes_balanced(known)
    judge(check, "fail")
    assert "'b' in test" in check.sentence


@pytest.mark.parametrize(
    ("exact", "seen", "published", "verdict", "part"),
    [
        (0, 0, False, "pass", "No picture"),
        (0, 3, True, "warn", "3 of 200"),
        (2, 2, True, "warn", "2 of 200"),
        (2, 2, False, "warn", "same group in a CSV"),
    ],
)
def test_no_duplicates_across(
    exact: int, seen: int, published: bool, verdict: str, part: str
) -> None:
    check = checks.no_duplicates_across(exact, seen, 200, published)
    judge(check, verdict)
    assert part in check.sentence and check.measured == seen / 200


@pytest.mark.parametrize(("divided", "verdict"), [(0, "pass"), (1, "fail")])
def test_groups_whole(divided: int, verdict: str) -> None:
    judge(checks.groups_whole(divided, 10), verdict)


@pytest.mark.parametrize(
    ("correct", "p_value", "paired", "verdict"),
    [
        (520, 0.2, True, "pass"),
        (519, 1e-9, True, "pass"),  # too little to matter
        (600, 1e-9, True, "fail"),
        (600, 1e-9, False, "warn"),
        (600, 0.002, True, "pass"),  # by chance
    ],
)
def test_metadata_at_chance(correct: int, p_value: float, paired: bool, verdict: str) -> None:
    judge(checks.metadata_at_chance(correct, 500, 1000, p_value, paired), verdict)


@pytest.mark.parametrize(
    ("confident", "against", "reliable", "verdict"),
    [(0, 0, True, "pass"), (11, 0, True, "warn"), (11, 0, False, "pass"), (0, 1, False, "warn")],
)
def test_labels_plausible(confident: int, against: int, reliable: bool, verdict: str) -> None:
    judge(checks.labels_plausible(confident, against, 1000, reliable), verdict)


@pytest.mark.parametrize(
    ("copies", "verdict"), [(0, "pass"), (10, "pass"), (11, "fail"), (100, "fail")]
)
def test_few_copies(copies: int, verdict: str) -> None:
    check = checks.few_copies("val_not_in_train", copies, 100)
    judge(check, verdict)
    assert check.name == "val_not_in_train" and check.measured == copies / 100
