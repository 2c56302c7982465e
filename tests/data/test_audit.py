"""What is planted in a data set is found, and what is not there is not."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import copies, load, load_test
from alexnet_mlflow.data.audit import Audit, Groups, Metadata, audit, baselines
from alexnet_mlflow.data.split import Images, Integers, Split

CLASSES = ("flat", "steep")
module: Any = sys.modules[audit.__module__]  # which the package hides behind its function


def split(name: str, images: Images, labels: object, **known: object) -> Split:
    ids = np.array([f"{name}/{row:04d}" for row in range(len(images))], np.str_)
    groups = np.array(known.get("groups", ids), np.str_)
    facts = {fact: np.array(column, np.float32) for fact, column in known.items()
             if fact != "groups"}
    return Split(name, images, np.array(labels, np.int64), ids, groups, facts)


def stripes(labels: Integers, seed: int) -> Images:
    """Coloured clouds with waves on them: lying for class 0, standing for class 1, ..."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    down, across = np.indices((32, 32))
    angle = labels * np.pi / (labels.max() + 1) + rng.uniform(-0.1, 0.1, n)
    place = np.cos(angle)[:, None, None] * down + np.sin(angle)[:, None, None] * across
    width, shift = rng.uniform(3, 9, n), rng.uniform(0, 6.3, n)
    waves = np.sin(2 * np.pi * place / width[:, None, None] + shift[:, None, None])
    clouds = [Image.fromarray(cloud).resize((32, 32), Image.Resampling.BICUBIC)
              for cloud in rng.integers(60, 196, (n, 6, 6, 3), dtype=np.uint8)]
    colour = np.stack([np.asarray(cloud) for cloud in clouds]).transpose(0, 3, 1, 2)
    return (colour + 40 * waves[:, None]).clip(0, 255).astype(np.uint8)


def striped(name: str, count: int, seed: int, classes: int = 2) -> Split:
    labels = np.arange(count) % classes
    return split(name, stripes(labels, seed), labels)


def toy() -> tuple[Split, Split, Split]:
    return striped("train", 160, 1), striped("val", 40, 2), striped("test", 40, 3)


def changed(one: Split, **fields: object) -> Split:
    return dataclasses.replace(one, **fields)  # type: ignore[arg-type]


def recompressed(image: Images) -> Images:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def test_nothing_is_found_in_a_sound_set() -> None:
    found = audit(*toy(), CLASSES)
    assert found.counts == {"train": {"flat": 80, "steep": 80}, "val": {"flat": 20, "steep": 20},
                            "test": {"flat": 20, "steep": 20}}
    assert found.exact.count == found.contradictions.count == found.near.count == 0
    assert found.seen_test_rows == () and found.near_is_whole
    assert found.compared == {"train": 160, "val": 40, "test": 40}
    assert found.groups == Groups(0, 0, ())
    assert found.metadata is None
    assert found.labels.n == 200 and found.labels.agree >= 198 and found.labels.confident == 0


def test_exact_copies_and_contradictions() -> None:
    train, val, test = toy()
    for one, row, other, copy in (
        (train, 3, val, 5), (train, 4, test, 7), (val, 1, test, 2), (train, 10, train, 21),
        (train, 12, train, 30),  # of one label: no fault
    ):
        other.images[copy] = one.images[row]
    white = np.full((3, 32, 32), 255, np.uint8)  # too flat for a near-duplicate
    train.images[50] = test.images[30] = test.images[31] = white
    found = audit(train, val, test, CLASSES)
    pairs = {((copy.first.split, copy.first.row), (copy.second.split, copy.second.row))
             for copy in found.exact.listed}
    assert pairs == {
        (("train", 3), ("val", 5)), (("train", 4), ("test", 7)), (("val", 1), ("test", 2)),
        (("train", 50), ("test", 30)), (("train", 50), ("test", 31)),
    }
    assert found.exact.count == 5 and found.exact.conflicts == 3
    assert [copy.conflict for copy in found.exact.listed] == [True] * 3 + [False] * 2
    for copy in found.exact.listed:
        for place in (copy.first, copy.second):
            own = {"train": train, "val": val, "test": test}[place.split]
            assert place.id == own.ids[place.row] and place.label == own.labels[place.row]
    assert found.contradictions.count == 1
    assert found.contradictions.listed[0].first.row == 10
    assert found.contradictions.listed[0].second.row == 21
    assert found.seen_test_rows == (2, 7, 30, 31)
    assert found.near.count == 3  # all but the white ones


def test_near_duplicates_across_splits_and_not_within() -> None:
    train, val, test = toy()
    test.images[6] = recompressed(train.images[8])
    test.images[9] = recompressed(val.images[11])[:, :, ::-1]
    val.images[13] = recompressed(train.images[14])
    train.images[20] = recompressed(train.images[22])
    test.images[20] = recompressed(test.images[22])
    found = audit(train, val, test, CLASSES)
    pairs = {(copy.first.id, copy.second.id, copy.mirrored) for copy in found.near.listed}
    assert pairs == {
        ("train/0008", "test/0006", False), ("val/0011", "test/0009", True),
        ("train/0014", "val/0013", False),
    }
    assert found.near.count == 3 and found.near.conflicts == 1
    assert all(0.85 <= copy.correlation <= 1 for copy in found.near.listed)
    assert found.seen_test_rows == (6, 9)
    assert found.exact.count == 0


def test_groups_in_more_than_one_split() -> None:
    train, val, test = toy()
    photos = [changed(one, groups=np.array([f"{one.name}{row // 2}" for row in range(len(one))]))
              for one in (train, val, test)]
    assert audit(*photos, CLASSES).groups == Groups(120, 0, ())
    photos[0].groups[0] = photos[1].groups[3]  # train0 keeps one picture, val1 is now divided
    photos[2].groups[5] = photos[0].groups[7]
    found = audit(*photos, CLASSES)
    assert found.groups == Groups(118, 2, ("train3", "val1"))
    assert "2 of 118 groups" in " ".join(found.sentences())


def metadata(labels: Integers, **known: object) -> Metadata | None:
    """Of a set that has these facts, with one picture in four for validation."""
    images = np.zeros((len(labels), 3, 32, 32), np.uint8)
    whole = split("train", images, labels, **known)
    pool = [
        copies.Part(
            Split(name, images[rows], whole.labels[rows], whole.ids[rows], whole.groups[rows],
                  {fact: column[rows] for fact, column in whole.facts.items()}),
            rows,
        )
        for name, rows in (("train", np.arange(len(labels) * 3 // 4)),
                           ("val", np.arange(len(labels) * 3 // 4, len(labels))))
    ]
    found: Metadata | None = module._metadata(pool)
    return found


def test_facts_that_tell_the_class_are_noticed() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    leak = metadata(labels, width=rng.normal(300, 30, 400) + 40 * labels, mode=np.ones(400))
    assert leak is not None and leak.facts == ("width",)
    assert (leak.n, leak.majority) == (400, 200)
    assert leak.correct > 260 and leak.p_value < 1e-4
    ring = rng.normal(0, 1, (2, 400)) * np.where(labels, 3, 0.5)  # no line divides these
    around = metadata(labels, x=ring[0], y=ring[1])
    assert around is not None and around.correct > 320


def test_facts_that_tell_nothing_are_at_chance() -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(200) % 2)
        result = metadata(labels, width=rng.normal(300, 30, 200), height=rng.integers(1, 4, 200))
        assert result is not None
        found.append(result)
    assert min(result.p_value for result in found) > 0.005
    assert abs(np.mean([result.correct for result in found]) - 100) < 7


def test_facts_of_a_pair_cancel_out() -> None:
    """One face and one background from each photo: no classifier can do better than half."""
    width = np.repeat(np.random.default_rng(0).normal(300, 30, 150), 2)
    photos = np.repeat([f"photo{n}" for n in range(150)], 2)
    result = metadata(np.arange(300) % 2, width=width, groups=photos)
    assert result is not None
    assert (result.correct, result.p_value) == (150, 1.0)


def test_facts_that_tell_the_group_tell_no_class() -> None:
    """Each photo has a width of its own, and pictures of one class: that is not learnt by heart."""
    rng = np.random.default_rng(2)
    labels = np.repeat(rng.permutation(np.arange(60) % 2), 8)
    width = np.repeat(rng.permutation(60) * 10.0, 8)
    alone = metadata(labels, width=width)
    grouped = metadata(labels, width=width, groups=np.repeat([f"p{n}" for n in range(60)], 8))
    assert alone is not None and grouped is not None
    assert alone.correct > 420 and alone.p_value < 1e-9
    assert grouped.correct < 320 and grouped.p_value > 0.01


def test_no_facts_and_facts_that_never_differ() -> None:
    assert metadata(np.arange(40) % 2) is None
    assert metadata(np.arange(40) % 2, width=np.full(40, 20.0)) is None


def halves(labels: Integers, seed: int) -> Images:
    """Class 0 is bright above, class 1 below; brightness and contrast are the same."""
    images = np.random.default_rng(seed).normal(80, 8, (len(labels), 3, 32, 32))
    images[labels == 0, :, :16] += 60
    images[labels == 1, :, 16:] += 60
    return images.astype(np.uint8)


def contrasts(labels: Integers, seed: int) -> Images:
    """Noise, of more contrast in class 1; no pixel alone says anything."""
    rng = np.random.default_rng(seed)
    spread = np.where(labels, 30, 12)[:, None, None, None]
    return (128 + spread * rng.normal(0, 1, (len(labels), 3, 32, 32))).clip(0, 255).astype(np.uint8)


def test_each_baseline_sees_what_it_can() -> None:
    labels, others = np.arange(400) % 2, np.arange(200) % 2
    by_place = baselines(split("train", halves(labels, 0), labels),
                         split("val", halves(others, 1), others))
    by_spread = baselines(split("train", contrasts(labels, 0), labels),
                          split("val", contrasts(others, 1), others))
    assert by_place["pixels"] == (200, 200) and abs(by_place["statistics"][0] - 100) < 35
    assert by_spread["statistics"] == (200, 200) and abs(by_spread["pixels"][0] - 100) < 35


def test_baselines_are_at_chance_on_random_labels() -> None:
    rng = np.random.default_rng(4)
    train, test = striped("train", 300, 5), striped("test", 1000, 6)
    found = baselines(changed(train, labels=rng.integers(0, 2, 300)),
                      changed(test, labels=rng.integers(0, 2, 1000)))
    assert set(found) == {"statistics", "pixels"}
    for correct, n in found.values():
        assert n == 1000 and abs(correct - 500) < 4 * np.sqrt(250)


def test_the_nine_statistics() -> None:
    image = np.zeros((1, 3, 32, 32), np.uint8)
    image[0, 0] = 10
    image[0, 1, :, 1::2] = 100  # standing lines: steps of 100 across, none down
    image[0, 2, 16:] = 62  # one step of 62 among 31
    assert module._statistics(image)[0].tolist() == [10, 50, 31, 0, 50, 31, 0, 50, 1]


@pytest.mark.parametrize("classes", [2, 5])
def test_planted_wrong_labels_are_the_suspects(classes: int) -> None:
    train, val = striped("train", 400, 1, classes), striped("val", 100, 2, classes)
    wrong = {("train", row) for row in range(7, 400, 40)} | {("val", 33), ("val", 66)}
    for one in (train, val):
        for row in (row for name, row in wrong if name == one.name):
            one.labels[row] = (one.labels[row] + 1) % classes
    names = [f"class {number}" for number in range(classes)]
    found = audit(train, val, striped("test", 50, 3, classes), names).labels
    rows = [(suspect.place.split, suspect.place.row) for suspect in found.listed]
    assert set(rows[: found.confident]) <= wrong <= set(rows) and len(rows) <= len(wrong) + 3
    assert 0.5 * len(wrong) <= found.confident
    assert all((suspect.likely + 1) % classes == suspect.place.label
               for row, suspect in zip(rows, found.listed, strict=True) if row in wrong)
    if classes == 2:  # with more, the surest is not the most probable
        sure = [(suspect.confident, suspect.probability) for suspect in found.listed]
        assert sure == sorted(sure, reverse=True)
    assert found.agree == found.n - len(found.listed) and found.reliable


def test_a_group_is_not_judged_by_its_own() -> None:
    """Ten times the same picture with a wrong label: seen as wrong only if all are held out."""
    train, val, test = toy()
    train.images[:10], train.labels[:10] = train.images[0], 1
    photo = train.ids.copy()
    photo[:10] = "one photo"
    kept = audit(changed(train, groups=photo), val, test, CLASSES).labels
    assert {suspect.place.row for suspect in kept.listed if suspect.place.split == "train"} >= set(
        range(10)
    )


def test_unreliable_models_are_said_to_be() -> None:
    train, val, test = toy()
    rng = np.random.default_rng(0)
    found = audit(changed(train, labels=rng.integers(0, 2, 160)), val, test, CLASSES)
    assert not found.labels.reliable
    assert "by its own fault" in found.sentences()[-1]
    assert "by its own fault" not in audit(train, val, test, CLASSES).sentences()[-1]


def everything() -> Audit:
    """A set with one fault of each kind."""
    rng = np.random.default_rng(0)
    parts = [changed(one, facts={"width": rng.normal(0, 1, len(one)).astype(np.float32)},
                     groups=np.array([f"photo {row // 2}" for row in range(len(one))]))
             for one in toy()]
    parts[1].images[0] = parts[0].images[0]
    parts[2].images[1] = recompressed(parts[0].images[1])
    parts[0].images[9] = parts[0].images[8]
    return audit(*parts, CLASSES)


def test_the_result_is_plain_and_finite() -> None:
    found = everything()
    text = json.dumps(found.as_dict(), allow_nan=False)
    again = json.loads(text)
    assert again["counts"]["train"]["flat"] == 80
    assert again["exact"]["listed"][0]["first"]["id"] == "train/0000"
    assert again["baselines"]["pixels"] == list(found.baselines["pixels"])
    assert again["metadata"]["n"] == 200


def test_sentences_say_the_numbers() -> None:
    found = everything()
    known = found.metadata
    assert known is not None
    text = "\n".join(found.sentences())
    for part in (
        "160 train, 40 val, 40 test pictures; the largest of 2 classes has 50.0% of train",
        "1 pictures stand pixel for pixel in two splits",
        "1 of train equal another there but in label",
        "2 pairs of near-duplicates stand across splits, 0 with different labels; 1 of 40 test",
        "20 of 80 groups", "width give", f"({known.correct} of 200)",
        f"statistics {found.baselines['statistics'][0] / 40:.1%}", "learnt from 160 pictures",
        f"({found.labels.agree} of 200)",
    ):
        assert part in text
    assert "nan" not in text and len(found.sentences()) == 7


def test_the_same_each_time() -> None:
    assert everything() == everything()


def test_test_pictures_and_labels_are_not_learnt_or_scored() -> None:
    train, val, test = toy()
    other = changed(striped("test", 70, 9), labels=np.ones(70, np.int64))
    first, second = audit(train, val, test, CLASSES), audit(train, val, other, CLASSES)
    for name in ("baselines", "labels", "metadata", "contradictions"):
        assert getattr(first, name) == getattr(second, name)


def test_large_sets_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURES", 100)
    monkeypatch.setattr(copies, "COMPARED", 120)
    train, val, test = toy()
    test.images[:] = train.images[:40]
    train.labels[::10] = 1 - train.labels[::10]
    found = audit(train, val, test, CLASSES)
    assert found.compared == {"train": 80, "val": 20, "test": 20}
    assert "Only 80 train, 20 val, 20 test" in " ".join(found.sentences())
    assert found.baseline_pictures == found.labels.n == 100
    assert found.exact.count == 40 and len(found.seen_test_rows) == 40
    assert 0 < found.near.count < 20
    assert found.labels.listed
    places = [place for copy in found.near.listed for place in (copy.first, copy.second)]
    for place in [*places, *(suspect.place for suspect in found.labels.listed)]:
        own = {"train": train, "val": val, "test": test}[place.split]
        assert (place.id, place.label) == (own.ids[place.row], own.labels[place.row])
    assert all(copy.first.row == copy.second.row for copy in found.near.listed)


def test_a_search_that_ended_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val, test = toy()
    test.images[:] = train.images[:40]
    monkeypatch.setattr(copies.duplicates, "MOST", 40)
    found = audit(train, val, test, CLASSES)
    assert not found.near_is_whole
    assert "The search ended early, at 40 pairs" in " ".join(found.sentences())


def test_two_pictures_a_class_are_enough() -> None:
    small = [striped(name, count, seed) for name, count, seed in
             (("train", 4, 1), ("val", 2, 2), ("test", 2, 3))]
    found = audit(*small, CLASSES)
    assert found.labels.n == 6 and found.baselines["pixels"][1] == 2
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_class_in_one_group_only() -> None:
    """Then one fold has nothing to learn that class from."""
    train, val, test = toy()
    photos = [changed(one, groups=np.array(["a" if label else row for row, label in
                                            zip(one.ids, one.labels, strict=True)]))
              for one in (train, val)]
    found = audit(*photos, test, CLASSES)
    assert found.labels.agree <= 100
    json.dumps(found.as_dict(), allow_nan=False)


def test_fddbs_crops(shared_data: Path) -> None:
    config = DataConfig(dataset="fddb", data_dir=str(shared_data))
    splits, test = load(config), load_test(config)
    found = audit(splits.train, splits.val, test, splits.classes)
    assert sorted(test.ids[list(found.seen_test_rows)]) == [
        "test/face/Face-Image-75.jpg", "test/nonface/Non-Face-Image-211.jpg"
    ]
    assert found.exact.count == found.contradictions.count == 0
    assert found.near.count <= 6
    correct, n = found.baselines["statistics"]
    assert n == 200 and 182 <= correct <= 196
    assert 186 <= found.baselines["pixels"][0] <= 198
    assert found.labels.agree >= 1960 and found.labels.reliable
    on_test = baselines(splits.train, test)
    assert 172 <= on_test["statistics"][0] <= 184  # 171 and 177 are known from elsewhere
    assert 171 <= on_test["pixels"][0] <= 183
