"""The division: every class everywhere, in proportion, disjoint, and the same each time."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data.split import DataError, Decoded, Split, divide, division_digest, part_of


def decoded(*parts: tuple[str, list[int]], **other: Any) -> Decoded:
    """A data set whose parts have these numbers of pictures of class 0, 1, 2 ..."""
    labels = np.concatenate([np.repeat(np.arange(len(sizes)), sizes) for _, sizes in parts])
    edges = [0, *itertools.accumulate(sum(sizes) for _, sizes in parts)]
    ids = np.array([f"p{row}" for row in range(len(labels))], np.str_)
    classes = tuple(f"class{n}" for n in range(len(parts[0][1])))
    division = dict(zip([part for part, _ in parts], itertools.pairwise(edges), strict=True))
    images = np.zeros((len(labels), 3, 32, 32), np.uint8)
    fields = {"images": images, "labels": labels, "ids": ids, "division": division, **other}
    return Decoded(name="toy", title="Toy", classes=classes, source="toys", **fields)


def counts(data: Decoded, rows: Any) -> Any:
    return np.bincount(data.labels[rows], minlength=len(data.classes)).tolist()


def assert_whole(data: Decoded, rows: dict[str, Any]) -> None:
    for a, b in itertools.combinations(rows.values(), 2):
        assert not set(a) & set(b)
    for some in rows.values():
        assert (np.diff(some) > 0).all() and min(counts(data, some)) > 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=6),
    st.floats(0.02, 0.5),
    st.floats(0.02, 0.5),
    st.integers(0, 2**40),
)
def test_undivided_is_stratified(
    sizes: list[int], val_fraction: float, test_fraction: float, seed: int
) -> None:
    data = decoded(("undivided", sizes))
    config = DataConfig(val_fraction=val_fraction, test_fraction=test_fraction, split_seed=seed)
    rows = divide(data, config)
    assert_whole(data, rows)
    assert sum(map(len, rows.values())) == sum(sizes)
    test = counts(data, rows["test"])
    for size, tested, validated in zip(sizes, test, counts(data, rows["val"]), strict=True):
        assert abs(tested - size * test_fraction) <= 1
        assert abs(validated - (size - tested) * val_fraction) <= 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(2, 60), min_size=2, max_size=6),
    st.lists(st.integers(1, 9), min_size=6, max_size=6),
    st.booleans(),
    st.integers(4, 300),
)
def test_limit(sizes: list[int], given_val: list[int], has_val: bool, limit: int) -> None:
    val = [("val", given_val[: len(sizes)])] if has_val else []
    data = decoded(("train", sizes), *val, ("test", [4] * len(sizes)))
    whole = sum(sizes) + sum(sum(found) for _, found in val)
    if limit < 2 * len(sizes):
        with pytest.raises(DataError, match=f"--limit .* got {limit}: give {2 * len(sizes)} or"):
            divide(data, DataConfig(limit=limit))
        return
    rows = divide(data, DataConfig(limit=limit))
    assert_whole(data, rows)
    assert len(rows["train"]) + len(rows["val"]) == min(limit, whole)
    assert rows["test"].tolist() == data.rows("test").tolist()
    if has_val:
        assert set(rows["val"]) <= set(data.rows("val"))


def test_limit_is_proportional_and_grows() -> None:
    data = decoded(("train", [300, 100, 50]), ("test", [9, 9, 9]))
    pools = []
    for limit in (45, 90, 180):
        rows = divide(data, DataConfig(limit=limit))
        pools.append(set(rows["train"]) | set(rows["val"]))
        taken = counts(data, sorted(pools[-1]))
        assert taken == [limit * 300 // 450, limit * 100 // 450, limit * 50 // 450]
    assert pools[0] < pools[1] < pools[2]


def test_seed_decides_and_limit_leaves_the_test_alone() -> None:
    data = decoded(("undivided", [40, 30]))
    first, again = (divide(data, DataConfig(split_seed=7)) for _ in range(2))
    other, fewer = divide(data, DataConfig(split_seed=8)), divide(data, DataConfig(limit=20))
    assert all(np.array_equal(first[part], again[part]) for part in first)
    assert any(not np.array_equal(first[part], other[part]) for part in first)
    assert np.array_equal(fewer["test"], divide(data, DataConfig())["test"])
    assert not set(first["test"]) & (set(first["train"]) | set(first["val"]))


def test_known_division() -> None:
    """Written down so that a change of the draw, which changes every result, is noticed."""
    rows = divide(decoded(("undivided", [6, 6])), DataConfig())
    assert {part: found.tolist() for part, found in rows.items()} == {
        "train": [0, 1, 4, 5, 6, 8, 9, 10],
        "val": [2, 7],
        "test": [3, 11],
    }


def test_given_parts_are_kept() -> None:
    data = decoded(("train", [5, 6]), ("val", [2, 3]), ("test", [1, 1]))
    rows = divide(data, DataConfig())
    assert all(rows[part].tolist() == data.rows(part).tolist() for part in rows)
    no_test = decoded(("train", [5, 6]), ("val", [2, 3]))
    rows = divide(no_test, DataConfig())
    assert set(rows["test"]) < set(no_test.rows("train"))
    assert rows["val"].tolist() == no_test.rows("val").tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (decoded(("undivided", [9, 2])), "'class1' must have 3 or more .* got 2: add pictures"),
        (decoded(("train", [9, 1]), ("test", [1, 1])), "'class1' must have 2 or more .* got 1"),
        (decoded(("train", [9, 9]), ("test", [1, 0])), "'class1' must have 1 or more .*test .*0"),
        (decoded(("train", [9, 9]), ("val", [0, 2])), "'class0' must have 1 or more .*val .*got 0"),
        (decoded(("undivided", [9])), "has one class only .*two or more"),
    ],
)
def test_too_few(data: Decoded, message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide(data, DataConfig())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", np.zeros((4, 3, 8, 8), np.uint8), "pictures of shape"),
        ("images", np.zeros((4, 3, 32, 32), np.float32), "float32 pictures"),
        ("labels", np.zeros(3, np.int64), "labels of shape"),
        ("labels", np.zeros(4, np.int32), "int32 labels"),
        ("labels", np.array([0, 1, 2, 0]), "labels 0 to 2 for 2 classes"),
        ("ids", np.array(list("abca")), "names a picture twice"),
        ("division", {"train": (0, 2), "test": (3, 4)}, "in order"),
        ("division", {"train": (0, 2), "test": (2, 9)}, "in order"),
        ("division", {}, "in order"),
    ],
)
def test_decoded_is_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decoded(("train", [1, 1]), ("test", [1, 1]), **{field: value})


def test_digest_sees_everything() -> None:
    split = part_of(decoded(("undivided", [3, 3])), "train", np.arange(4))
    digests = {split.digest}
    for field in ("images", "labels", "ids"):
        changed = getattr(split, field).copy()
        changed.flat[-1] = "other" if field == "ids" else 1
        changed = changed.astype(getattr(split, field).dtype) if field != "ids" else changed
        digests.add(dataclasses.replace(split, **{field: changed}).digest)
    assert len(digests) == 3 + (split.labels[-1] != 1)
    assert split.digest == Split("renamed", split.images, split.labels, split.ids, split.ids).digest


def test_part_owns_its_memory() -> None:
    data = decoded(("undivided", [3, 3]))
    split = part_of(data, "train", np.array([0, 1, 2]))
    assert len(split) == 3 and split.images.flags.c_contiguous
    assert not np.shares_memory(split.images, data.images)




@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4)), min_size=40, max_size=80),
    st.integers(0, 2**40),
)
def test_groups_stay_whole(groups: list[tuple[int, int]], seed: int) -> None:
    """Groups of one to four pictures, each of one class; either class has ten more by itself."""
    pictures = [(label, f"g{at}") for at, (label, size) in enumerate(groups) for _ in range(size)]
    pictures += [(label, f"single{label}{at}") for label in (0, 1) for at in range(10)]
    pictures.sort()
    sizes = [sum(label == kind for label, _ in pictures) for kind in (0, 1)]
    names = np.array([name for _, name in pictures])
    data = decoded(("undivided", sizes), groups=names)
    rows = divide(data, DataConfig(split_seed=seed))
    assert_whole(data, rows)
    assert sum(map(len, rows.values())) == len(names)
    for a, b in itertools.combinations(rows.values(), 2):
        assert not set(names[a]) & set(names[b])
    for size, tested in zip(sizes, counts(data, rows["test"]), strict=True):
        assert abs(tested - size * 0.2) <= 4


def test_groups_of_both_classes_stay_whole() -> None:
    """Pairs of a face and a background of one photo, as FDDB's patches are."""
    names = np.array([f"photo{row % 50}" for row in range(100)])
    rows = divide(decoded(("undivided", [50, 50]), groups=names), DataConfig())
    assert [len(rows[part]) for part in ("train", "val", "test")] == [72, 8, 20]
    assert not set(names[rows["train"]]) & {*names[rows["val"]], *names[rows["test"]]}


def test_groups_that_leave_a_part_without_a_class_are_told() -> None:
    names = np.array(["all of a"] * 5 + [f"b{row}" for row in range(5)])
    with pytest.raises(DataError, match="class 'class0' must have 1 or more"):
        divide(decoded(("undivided", [5, 5]), groups=names), DataConfig())


def test_a_manifest_is_the_digest_of_its_own_division_only() -> None:
    data = decoded(("train", [8, 8]), ("val", [2, 2]), ("test", [2, 2]), identity="m" * 64)
    for limit, own in ((0, True), (10, False)):
        rows = divide(data, DataConfig(limit=limit))
        splits = {part: part_of(data, part, rows[part]) for part in rows}
        assert (division_digest(data, splits) == data.identity) is own


@pytest.mark.parametrize("column", ["groups", "facts"])
def test_columns_have_a_value_a_picture(column: str) -> None:
    short = np.zeros(3, np.float32) if column == "facts" else np.array(["a", "b", "c"])
    value = {"width": short} if column == "facts" else short
    with pytest.raises(DataError, match=r"of shape \(3,\) for 4 pictures"):
        decoded(("undivided", [2, 2]), **{column: value})


def test_columns_travel_with_their_rows() -> None:
    facts = {"width": np.arange(6, dtype=np.float32)}
    data = decoded(("undivided", [3, 3]), groups=np.array(list("uvwxyz")), facts=facts)
    split = part_of(data, "train", np.array([1, 4]))
    assert split.groups.tolist() == ["v", "y"] and split.facts["width"].tolist() == [1, 4]
    again = part_of(split, "train", np.array([1]))
    assert again.groups.tolist() == ["y"] and again.facts["width"].tolist() == [4]
    assert part_of(decoded(("undivided", [1, 1])), "train", np.array([1])).groups.tolist() == ["p1"]
