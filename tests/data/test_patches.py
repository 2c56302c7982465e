"""From photos and lists to patches: generated photos with ellipses, and FDDB's own."""

from __future__ import annotations

import random
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.data import DataError, ellipses, manifest, patches
from alexnet_mlflow.data.ellipses import Ellipse, Lists, Photo

WIDE, HIGH, EACH = 200, 160, 8  # photos a fold


@pytest.fixture(scope="module")
def lists() -> Lists:
    """Eight photos a fold, each with one face somewhere."""
    draw = random.Random(0)
    photos = [
        Photo(f"2002/07/{fold + 10}/big/img_{number}", fold, (Ellipse(
            draw.uniform(18, 22), draw.uniform(16, 18), draw.uniform(-1, 1),
            draw.uniform(25, WIDE - 25), draw.uniform(25, HIGH - 25)),))
        for fold in ellipses.FOLDS for number in range(EACH)
    ]
    return Lists(tuple(photos), "0" * 64, 0)


@pytest.fixture
def photos(lists: Lists, tmp_path: Path) -> Path:
    """Smooth noise, one file a photo, laid out as FDDB's."""
    noise = np.random.default_rng(0)
    for photo in lists.photos:
        file = tmp_path / "photos" / f"{photo.name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(noise.integers(0, 256, (12, 15, 3), dtype=np.uint8))
        coarse.resize((WIDE, HIGH), Image.Resampling.BICUBIC).save(file)
    return tmp_path / "photos"


def test_a_face_and_a_background_of_each_photo(photos: Path, lists: Lists) -> None:
    built = patches.build(photos, lists)
    assert len(built.rows) == len(built.pixels) > 60
    by_photo: dict[str, list[manifest.Row]] = {}
    for row, pixels in zip(built.rows, built.pixels, strict=True):
        by_photo.setdefault(row.photo, []).append(row)
        assert 0 <= row.x <= row.width - row.side and 0 <= row.y <= row.height - row.side
        assert row.sha256 == manifest.pixels_sha256(pixels)
        with Image.open(photos / f"{row.photo}.jpg") as photo:
            box = (row.x, row.y, row.x + row.side, row.y + row.side)
            cut = photo.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(cut).transpose(2, 0, 1), pixels)
    for pair in by_photo.values():
        assert sorted(row.label for row in pair) == ["face", "nonface"]
        assert len({(row.side, row.fold, row.split, row.group) for row in pair}) == 1
    assert {row.split for row in built.rows if row.fold == 10} == {"test"}
    assert {row.split for row in built.rows if row.fold == 9} == {"val"}


def test_the_same_photos_give_the_same_manifest(photos: Path, lists: Lists, tmp_path: Path) -> None:
    built = patches.build(photos, lists)
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as packed:
        packed.add(photos, "originalPics")
    again = patches.build(tmp_path / "photos.tar.gz", lists)
    assert again.manifest == built.manifest and np.array_equal(again.pixels, built.pixels)
    patches.write(built, tmp_path / "built")
    data = manifest.read(tmp_path / "built")
    assert data.identity == built.identity and np.array_equal(data.images, built.pixels)
    others = [patches.build(photos, lists, seed=1), patches.build(photos, lists, hard=True),
              patches.build(photos, lists, rotate=4)]
    assert len({built.identity, *(other.identity for other in others)}) == 4


@pytest.mark.parametrize("rotate", range(10))
def test_rotation(rotate: int, photos: Path, lists: Lists) -> None:
    built = patches.build(photos, lists, rotate=rotate)
    folds = {part: {row.fold for row in built.rows if row.split == part}
             for part in ("train", "val", "test")}
    test = rotate or 10
    assert folds["test"] == {test} and folds["val"] == {test - 1 or 10}
    assert len(folds["train"]) == 8 and not folds["train"] & (folds["test"] | folds["val"])


def test_missing_photos_are_counted(photos: Path, lists: Lists) -> None:
    for photo in lists.photos[:3]:
        (photos / f"{photo.name}.jpg").unlink()
    message = f"3 of the 80 photos .* missing .* first is '{lists.photos[0].name}'.*--allow-missing"
    with pytest.raises(DataError, match=message):
        patches.build(photos, lists)
    built = patches.build(photos, lists, allow_missing=True)
    assert len(built.dropped["missing"]) == 3
    assert not {row.photo for row in built.rows} & {photo.name for photo in lists.photos[:3]}


def test_a_broken_photo_is_named(photos: Path, lists: Lists) -> None:
    broken = photos / f"{lists.photos[7].name}.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    with pytest.raises(DataError, match=lists.photos[7].name):
        patches.build(photos, lists)
    built = patches.build(photos, lists, allow_missing=True)
    assert [cut.photo for cut in built.dropped["unreadable"]] == [lists.photos[7].name]


def test_a_photo_that_stands_in_two_folds_gives_one_pair(photos: Path, lists: Lists) -> None:
    first, last = lists.photos[2], lists.photos[-2]
    with Image.open(photos / f"{first.name}.jpg") as photo:
        photo.save(photos / f"{last.name}.jpg", quality=50)
    built = patches.build(photos, lists)
    assert last.name in {cut.photo for cut in built.dropped["near-duplicate"]}
    assert not [row for row in built.rows if row.photo == last.name]
    groups: dict[str, set[str]] = {}
    for row in built.rows:
        groups.setdefault(row.group, set()).add(row.split)
    assert all(len(splits) == 1 for splits in groups.values())


def test_a_fold_without_photos_cannot_test(photos: Path, lists: Lists) -> None:
    shutil.rmtree(photos / "2002" / "07" / "20")
    with pytest.raises(DataError, match="--rotate 0"):
        patches.build(photos, lists, allow_missing=True)


def test_fddb(shared_data: Path) -> None:
    place = shared_data / "fddb"
    lists = ellipses.read(place / "FDDB-folds.tgz")
    built = patches.build(place / "originalPics.tar.gz", lists, allow_missing=True)
    counts = Counter(row.label for row in built.rows)
    assert counts["face"] == counts["nonface"] >= 60
    assert len(built.dropped["missing"]) == 2645 and built.sentences
