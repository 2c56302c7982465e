"""From photos and lists to patches: the same bytes again, and every loss told."""

from __future__ import annotations

import hashlib
import io
import math
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.data import DataError, ellipses, patches
from alexnet_mlflow.data.ellipses import FOLDS, Lists
from alexnet_mlflow.data.manifest import Row
from alexnet_mlflow.data.patches import Built, Cut

PHOTOS = 80
# Of the squares of the 200 photos. Where it changes, raise manifest.PROTOCOL.
DIGEST = "1e38f6fcb5d6ed2b5b0c4d0cdccdfc87a91a0f484a656e1a657c1af20582aa5a"


class Made(NamedTuple):
    """A small FDDB: ten lists, and photos as files."""

    lists: Lists
    files: dict[str, bytes]  # photo -> JPEG

    def folder(self, place: Path) -> Path:
        for name, raw in self.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.jpg").write_bytes(raw)
        return place

    def archive(self, path: Path, below: str = "", names: Iterable[str] = ()) -> Path:
        with tarfile.open(path, "w:gz") as packed:
            for name in names or self.files:
                info = tarfile.TarInfo(f"{below}{name}.jpg")
                info.size = len(self.files[name])
                packed.addfile(info, io.BytesIO(self.files[name]))
        return path


def jpeg(pixels: np.ndarray, width: int, height: int) -> bytes:
    """A smooth picture of this size."""
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def name_of(number: int) -> str:
    return f"2002/07/{number % 28 + 1:02d}/big/img_{number}"


@pytest.fixture(scope="module")
def made() -> Made:
    """80 photos, eight a fold, every ninth grey; each with one face or two of 34 to 56 pixels."""
    draw, pixels = Random(0).uniform, np.random.default_rng(0)
    lines: dict[int, list[str]] = {fold: [] for fold in FOLDS}
    files = dict[str, bytes]()
    for number in range(PHOTOS):
        width, height, count = round(draw(190, 220)), round(draw(140, 170)), 1 + number % 2
        edges = (17, 28), (17, 28), (-1.5, 1.5), (25, width - 25), (25, height - 25)
        faces = [[draw(*edge) for edge in edges] for _ in range(count)]
        shown = [" ".join(f"{value:.6f}" for value in face) + "  1" for face in faces]
        lines[1 + number % 10] += [name_of(number), str(count), *shown]
        shape = (8, 8) if number % 9 == 0 else (8, 8, 3)
        files[name_of(number)] = jpeg(pixels.integers(0, 256, shape, np.uint8), width, height)
    texts = {fold: "\n".join([*some, ""]).encode() for fold, some in lines.items()}
    return Made(ellipses.parse(texts), files)


@pytest.fixture(scope="module")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return patches.build(made.archive(tmp_path_factory.mktemp("made") / "photos.tgz"), made.lists)


def squares(built: Built) -> list[tuple[str, str, int, int, int]]:
    return sorted((row.photo, row.label, row.x, row.y, row.side) for row in built.rows)


# What is cut


def test_patches_are_what_the_photos_show(made: Made, built: Built) -> None:
    assert len(built.rows) > PHOTOS and built.pixels.shape == (len(built.rows), 3, 32, 32)
    for row, patch in zip(built.rows, built.pixels, strict=True):
        photo = Image.open(io.BytesIO(made.files[row.photo]))
        assert (photo.width, photo.height, photo.mode) == (row.width, row.height, row.mode)
        box = (row.x, row.y, row.x + row.side, row.y + row.side)
        small = photo.crop(box).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(patch.transpose(1, 2, 0), small)
        assert row.sha256 == hashlib.sha256(small.tobytes()).hexdigest()


def test_grey_photos_have_three_equal_channels(built: Built) -> None:
    grey = built.pixels[[row.mode == "L" for row in built.rows]]
    assert len(grey) and (grey == grey[:, :1]).all()


def test_pairs(made: Made, built: Built) -> None:
    """A face around its ellipse, and a background of its size away from every ellipse."""
    photos = {photo.name: photo for photo in made.lists.photos}
    pairs: dict[str, dict[str, Row]] = {row.photo: {} for row in built.rows}
    for row in built.rows:
        pairs[row.photo][row.label] = row
    assert 2 * len(pairs) == len(built.rows)
    for name, pair in pairs.items():
        face, background = pair["face"], pair["nonface"]
        assert face.side == background.side >= 32
        assert (face.fold, face.split, face.group) == (
            photos[name].fold, background.split, background.group)
        around = [one for one in photos[name].faces if face.side == math.ceil(2 * max(one.reach))]
        assert any(one.contains(*np.array([[face.x + face.side / 2], [face.y + face.side / 2]]))
                   for one in around)
        across, down = np.meshgrid(*(at + np.arange(face.side + 1)
                                     for at in (background.x, background.y)))
        assert not any(one.contains(across, down).any() for one in photos[name].faces)


def test_rows_are_in_order(built: Built) -> None:
    parts = ("train", "val", "test")
    order = [(parts.index(row.split), row.photo, row.label) for row in built.rows]
    assert order == sorted(order) and len(set(order)) == len(order)
    folds = {part: {row.fold for row in built.rows if row.split == part} for part in parts}
    assert folds == {"train": set(range(1, 9)), "val": {9}, "test": {10}}


def test_every_face_is_accounted_for(made: Made, built: Built) -> None:
    faces = sum(len(photo.faces) for photo in made.lists.photos)
    dropped = [cut for cuts in built.dropped.values() for cut in cuts]
    assert len(built.rows) // 2 + len(dropped) == faces
    assert list(built.dropped) == list(patches.RULES)
    assert all(cut.kind == rule for rule, cuts in built.dropped.items() for cut in cuts)


def test_what_was_dropped_can_be_looked_at(made: Made, built: Built) -> None:
    assert len(built.crops) == len({cut for cuts in built.dropped.values() for cut in cuts}) > 0
    for cut, crop in built.crops.items():
        photo = Image.open(io.BytesIO(made.files[cut.photo])).crop(cut.box).convert("RGB")
        small = photo.resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(crop.transpose(1, 2, 0), small)


def test_sentences(made: Made, built: Built) -> None:
    first, folds, near, dropped = built.sentences
    assert first == (
        f"{len(built.rows)} patches, not the official 2,240: a face and a background of each of "
        f"{len(built.rows) // 2} photos; 80 of the 80 photos are there"
    )
    counts = Counter(row.fold for row in built.rows)
    assert folds == f"pairs in folds 1 to 10: {str([counts[fold] // 2 for fold in FOLDS])[1:-1]}"
    assert near.endswith(f" of the {len(built.rows) // 2} backgrounds are next to a face")
    assert f"{len(built.dropped['another face'])} faces of a photo that has its pair" in dropped


def test_written_and_read(built: Built, tmp_path: Path) -> None:
    patches.write(built, tmp_path)
    data = patches.read(tmp_path)
    assert np.array_equal(data.images, built.pixels) and data.identity == built.identity
    assert data.ids.tolist() == [f"{row.photo}/{row.label}" for row in built.rows]


# The same again


@pytest.mark.parametrize("form", ["reversed", "below", "zip", "folder"])
def test_the_form_of_the_photos_does_not_matter(
    form: str, made: Made, built: Built, tmp_path: Path
) -> None:
    path = tmp_path / "photos"
    if form == "reversed":
        made.archive(path, names=list(made.files)[::-1])
    elif form == "below":
        made.archive(path, below="./originalPics/")
    elif form == "folder":
        made.folder(path)
        (path / "2002" / "readme.jpg").write_bytes(b"passed over")
        (path / name_of(1)).with_name("img_999999.jpg").write_bytes(b"of no list")
    else:
        with zipfile.ZipFile(path, "w") as packed:
            for name, raw in made.files.items():
                packed.writestr(f"{name}.jpg", raw)
    again = patches.build(path, made.lists)
    assert again.manifest == built.manifest and np.array_equal(again.pixels, built.pixels)


def test_another_seed_is_another_data_set(made: Made, built: Built, tmp_path: Path) -> None:
    other = patches.build(made.archive(tmp_path / "photos"), made.lists, seed=1)
    assert squares(other) != squares(built) and other.identity != built.identity


def test_rotation(made: Made, built: Built, tmp_path: Path) -> None:
    """Every fold is the test once and validates once, and no patch changes."""
    photos, tests, vals = made.archive(tmp_path / "photos"), list[int](), list[int]()
    for rotate in range(10):
        turned = patches.build(photos, made.lists, rotate=rotate)
        assert squares(turned) == squares(built)
        folds = {part: {row.fold for row in turned.rows if row.split == part}
                 for part in ("train", "val", "test")}
        assert set.union(*folds.values()) == set(FOLDS)
        assert [len(some) for some in folds.values()] == [8, 1, 1]
        tests += folds["test"]
        vals += folds["val"]
    assert tests == [10, *range(1, 10)] and vals == [9, 10, *range(1, 9)]


def test_hard_has_its_own_name(made: Made, tmp_path: Path) -> None:
    hard = patches.build(made.archive(tmp_path / "photos"), made.lists, hard=True)
    patches.write(hard, tmp_path / "hard")
    data = patches.read(tmp_path / "hard")
    assert data.name == "fddb-hard" and "half of the background" in data.title


# What is missing or broken


def without(made: Made, *names: str) -> Made:
    return made._replace(files={name: raw for name, raw in made.files.items() if name not in names})


def test_missing_photos_are_counted(made: Made, tmp_path: Path) -> None:
    path = without(made, name_of(20), name_of(5)).archive(tmp_path / "photos")
    told = f"^2 of the 80 photos in the lists are missing from .*first is '{name_of(20)}': give the"
    with pytest.raises(DataError, match=told):
        patches.build(path, made.lists)
    some = patches.build(path, made.lists, allow_missing=True)
    assert some.dropped["missing"] == (Cut("missing", name_of(20)), Cut("missing", name_of(5)))
    assert "78 of the 80 photos are there" in some.sentences[0]
    assert not {name_of(20), name_of(5)} & {row.photo for row in some.rows}


@pytest.mark.parametrize("allow_missing", [False, True])
def test_no_photos_at_all(allow_missing: bool, made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives none of the 80 photos in the lists: name original"):
        patches.build(tmp_path, made.lists, allow_missing=allow_missing)
    with pytest.raises(DataError, match="the photos in .* cannot be read .*: name originalPics"):
        patches.build(tmp_path / "nowhere", made.lists, allow_missing=allow_missing)


def test_a_fold_without_pairs(made: Made, tmp_path: Path) -> None:
    lost = [photo.name for photo in made.lists.photos if photo.fold == 9]
    path = without(made, *lost).archive(tmp_path / "photos")
    with pytest.raises(DataError, match="get a pair each, but .* --rotate 0 gives val none: give"):
        patches.build(path, made.lists, allow_missing=True)
    assert patches.build(path, made.lists, rotate=5, allow_missing=True).rows


def encoded(size: tuple[int, int], kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind, **options)
    return file.getvalue()


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda raw: raw[: len(raw) // 2], "truncated"),
    "empty": (lambda raw: b"", "not one of"),
    "a PNG": (lambda raw: encoded((200, 150), "PNG"), "not one of"),
    "text": (lambda raw: b"%!PS-Adobe-3.0 EPSF-3.0\n", "not one of"),
    "too many pixels": (lambda raw: encoded((2049, 2048), "JPEG"), "more than 4,194,304 pixels"),
    "too many bytes": (lambda raw: raw + bytes(1 << 20), "bytes, over the 1,048,576 allowed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_photos_are_named(case: str, made: Made, built: Built, tmp_path: Path) -> None:
    spoil, reason = BROKEN[case]
    name = built.rows[0].photo
    spoilt = made._replace(files={**made.files, name: spoil(made.files[name])})
    path = spoilt.folder(tmp_path / "photos")
    with pytest.raises(DataError, match=f"^photo '{name}' in .* cannot be read .*{reason}.*: get"):
        patches.build(path, made.lists)
    rest = patches.build(path, made.lists, allow_missing=True)
    assert rest.dropped["unreadable"] == (Cut("unreadable", name),)
    assert name not in {row.photo for row in rest.rows}


def test_a_photo_twice(made: Made, tmp_path: Path) -> None:
    made.folder(tmp_path / "both" / "a")
    without(made, *list(made.files)[1:]).folder(tmp_path / "both" / "b")
    with pytest.raises(DataError, match=f"photo '{name_of(0)}' must be in .* once, got 'a/2002/"):
        patches.build(tmp_path / "both", made.lists, allow_missing=True)


def test_near_duplicates_give_one_pair(made: Made, built: Built, tmp_path: Path) -> None:
    """A copy of a photo of fold 1 in fold 10, resized and saved in another quality, is dropped."""
    paired = {row.photo for row in built.rows}
    first, *_, last = [photo.name for photo in made.lists.photos if photo.name in paired]
    size = Image.open(io.BytesIO(made.files[last])).size
    copy = io.BytesIO()
    Image.open(io.BytesIO(made.files[first])).resize(size).save(copy, "JPEG", quality=60)
    path = made._replace(files={**made.files, last: copy.getvalue()}).archive(tmp_path / "photos")
    again = patches.build(path, made.lists)
    assert again.dropped["near-duplicate"] == (Cut("near-duplicate", last, (0, 0, *size)),)
    assert last not in {row.photo for row in again.rows}
    assert first in {row.photo for row in again.rows}


def test_a_near_duplicate_without_a_face_gives_way(made: Made, tmp_path: Path) -> None:
    """The group keeps the first one's name, but the pair comes from the one that has a face."""
    photos = list(made.lists.photos)
    first, last = photos[0], photos[-1]
    photos[0] = ellipses.Photo(first.name, first.fold, ())
    lists = Lists(tuple(photos), made.lists.sha256, 0)
    size = Image.open(io.BytesIO(made.files[last.name])).size
    copy = io.BytesIO()
    Image.open(io.BytesIO(made.files[first.name])).resize(size).save(copy, "JPEG", quality=60)
    files = {**made.files, last.name: copy.getvalue()}
    again = patches.build(made._replace(files=files).archive(tmp_path / "photos"), lists)
    assert again.dropped["near-duplicate"] == ()
    assert {row.group for row in again.rows if row.photo == last.name} == {first.name}


def test_groups_are_in_one_split(built: Built) -> None:
    parts = {group: {row.split for row in built.rows if row.group == group}
             for group in {row.group for row in built.rows}}
    assert all(len(some) == 1 for some in parts.values())


# FDDB's own


def test_the_200_photos(shared_data: Path) -> None:
    """Squares only: another decoder may give other pixels, but never another square."""
    lists = ellipses.read(shared_data / "fddb" / "FDDB-folds.tgz")
    photos = shared_data / "fddb" / "originalPics.tar.gz"
    with pytest.raises(DataError, match="^2,645 of the 2,845 photos .*'2002/08/11/big/img_591'"):
        patches.build(photos, lists)
    some = patches.build(photos, lists, allow_missing=True)
    assert {rule: len(cuts) for rule, cuts in some.dropped.items()} == {
        "missing": 2645, "unreadable": 0, "near-duplicate": 0, "small": 8, "large": 10,
        "cut off": 12, "no room": 107, "no partner": 82, "another face": 70, "surplus": 0,
    }
    assert len(some.rows) == 148 and {row.mode for row in some.rows} == {"RGB", "L"}
    assert hashlib.sha256(repr(squares(some)).encode()).hexdigest() == DIGEST
