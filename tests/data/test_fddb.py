"""FDDB's ready crops, from the archive and unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, check, fddb, load, load_test

Maker = Callable[..., Path]
COUNTS = {"train/face": 20, "train/nonface": 20, "test/face": 4, "test/nonface": 4}


def zipped(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as crops:
        for file in sorted(root.rglob("*.png"), reverse=True):
            crops.write(file, file.relative_to(root).as_posix())
        crops.writestr("readme.txt", "passed over")
    return archive


@pytest.fixture
def archive(make_pictures: Maker, tmp_path: Path) -> Path:
    """A small archive in a data folder of its own."""
    (tmp_path / "data").mkdir()
    pictures = make_pictures(COUNTS, name="pictures", side=20)
    return zipped(pictures, tmp_path / "data" / f"{fddb.CROPS}.zip")


def config(root: Path, **options: bool) -> DataConfig:
    return DataConfig(dataset="fddb", data_dir=str(root), **options)


def test_division_is_kept(archive: Path) -> None:
    splits, test = load(config(archive.parent)), load_test(config(archive.parent))
    assert (splits.name, splits.title) == ("fddb", "FDDB (ready 20 px crops)")
    assert splits.classes == ("face", "nonface")
    assert [len(splits.train), len(splits.val), len(test)] == [36, 4, 8]
    for split in (splits.train, splits.val, test):
        part = "test" if split is test else "train"
        assert {name.split("/")[0] for name in split.ids} == {part}
        assert np.array_equal(split.labels, np.char.find(split.ids, "nonface") >= 0)


@pytest.mark.parametrize("place", ["data", "data/fddb", "data/fddb-crops-20px"])
def test_unpacked_is_the_same(place: str, archive: Path, tmp_path: Path) -> None:
    zip_digest = load(config(archive.parent)).digest
    (tmp_path / place).parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive) as crops:
        crops.extractall(tmp_path / place)
    archive.unlink()
    assert load(config(tmp_path / "data")).digest == zip_digest


def test_nothing_is_unpacked(archive: Path) -> None:
    load(config(archive.parent))
    assert list(archive.parent.iterdir()) == [archive]


@pytest.mark.parametrize("name", ["/train/face/x.jpg", "train/../../x.jpg", "..\\x.jpg"])
def test_members_that_point_out_are_refused(name: str, archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as crops:
        crops.writestr(name, b"")
    with pytest.raises(DataError, match="is refused, since its member"):
        load(config(archive.parent))


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_cut_archive(kept: float, archive: Path) -> None:
    raw = archive.read_bytes()
    archive.write_bytes(raw[: int(kept * len(raw) if kept < 1 else kept)])
    with pytest.raises(DataError, match=r"(not whole|is neither a zip).*: get it again"):
        load(config(archive.parent))


def test_corrupt_member(archive: Path) -> None:
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"IDAT") + 20] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="is not whole .*CRC.*: get it again"):
        load(config(archive.parent))


def test_huge_member(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as crops:
        crops.writestr("train/face/huge.png", bytes(fddb.LARGEST_BYTES + 1))
    with pytest.raises(DataError, match="huge.png' in it has 1,048,577 bytes, over"):
        load(config(archive.parent))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_twice(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as crops:
        crops.writestr("train/face/000.png", crops.read("train/face/001.png"))
    with pytest.raises(DataError, match="is there twice"):
        load(config(archive.parent))


@pytest.mark.parametrize("lost", ["test/face", "train/nonface"])
def test_lost_class(lost: str, make_pictures: Maker, tmp_path: Path) -> None:
    root = make_pictures({below: 3 for below in COUNTS if below != lost}, name=fddb.CROPS)
    with pytest.raises(DataError, match=f"lack the folder .*{lost}"):
        check(config(root.parent))
    zipped(root, tmp_path / f"{fddb.CROPS}.zip")
    with pytest.raises(DataError, match=f"has no pictures in {lost}"):
        load(config(root.parent))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no FDDB patches, .*fddb'.*--data-dir or ALEXNET_DATA"):
        check(config(tmp_path))


def test_real(shared_data: Path) -> None:
    splits, test = load(config(shared_data)), load_test(config(shared_data))
    assert [len(splits.train), len(splits.val), len(test)] == [1800, 200, 200]
    assert splits.counts["val"] == {"face": 100, "nonface": 100} and splits.skipped == 0
