"""What the package promises as a whole: the seal, one division, one sentence for what is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DATASETS, DataError, Splits, check, load, load_test, slug

Maker = Callable[..., Path]


def arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Every array that can be reached from this value, and what each one is a view of."""
    if isinstance(value, np.ndarray):
        yield value
        yield from arrays(value.base)
    elif dataclasses.is_dataclass(value):
        for held in vars(value).values():
            yield from arrays(held)
    elif isinstance(value, dict):
        for held in value.values():
            yield from arrays(held)


@pytest.mark.parametrize("dataset", ["faces", "digits", "undivided", "divided"])
def test_the_test_split_is_sealed(dataset: str, make_pictures: Maker) -> None:
    counts = {"a": 12, "b": 12}
    if dataset == "undivided":
        dataset = str(make_pictures(counts))
    elif dataset == "divided":
        dataset = str(make_pictures({f"{part}/{c}": 5 for part in ("train", "test") for c in "ab"}))
    config = DataConfig(dataset=dataset)
    splits, test = load(config), load_test(config)
    assert {split.name for split in (splits.train, splits.val, test)} == {"train", "val", "test"}
    assert not set(test.ids) & {*splits.train.ids, *splits.val.ids}
    assert not set(splits.train.ids) & set(splits.val.ids)
    assert len(test) == sum(splits.counts["test"].values())
    pictures = {hashlib.sha256(picture.tobytes()).digest() for picture in test.images}
    for array in arrays(splits):
        rows = array.reshape(len(array), -1)
        assert len(array) in (len(splits.train), len(splits.val))
        assert not pictures & {hashlib.sha256(row.tobytes()).digest() for row in rows}


def test_the_digest_covers_test_pictures_and_class_names(make_pictures: Maker) -> None:
    root = make_pictures({f"{part}/{c}": 20 for part in ("train", "test") for c in "ab"})
    digests = [load(DataConfig(dataset=str(root))).digest for _ in range(2)]
    assert digests[0] == digests[1] and len(digests[0]) == 64
    file = root / "test/a/000.png"
    pixels = np.array(Image.open(file))
    pixels[31, 31, 2] ^= 1
    Image.fromarray(pixels).save(file)
    digests.append(load(DataConfig(dataset=str(root))).digest)
    for part in ("train", "test"):
        (root / part / "b").rename(root / part / "c")
    digests.append(load(DataConfig(dataset=str(root))).digest)
    digests.append(load(DataConfig(dataset=str(root), split_seed=1)).digest)
    assert len(set(digests)) == 4


def test_same_from_cache_and_from_files(make_pictures: Maker, monkeypatch: Any) -> None:
    config = DataConfig(dataset=str(make_pictures({"a": 9, "b": 9})))
    first, warm = load(config), load(config)
    monkeypatch.setenv("ALEXNET_CACHE", "/dev/null/none")
    assert first.digest == warm.digest == load(config).digest
    assert load_test(config).digest == load_test(config).digest


def test_shapes_and_types() -> None:
    splits = load(DataConfig())
    assert isinstance(splits, Splits)
    for split in (splits.train, splits.val, load_test(DataConfig())):
        n = len(split)
        assert split.images.shape == (n, 3, 32, 32) and split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous and split.images.flags.writeable
        assert split.labels.shape == split.ids.shape == (n,)
        assert split.labels.dtype == np.int64 and split.ids.dtype.kind == "U"


def test_limit_and_the_test_split() -> None:
    splits, test = load(DataConfig(limit=40)), load_test(DataConfig(limit=40))
    assert len(splits.train) + len(splits.val) == 40
    assert test.digest == load_test(DataConfig()).digest
    assert load(DataConfig(limit=10**9)).digest == load(DataConfig()).digest


def test_slug_is_the_name(make_pictures: Maker) -> None:
    root = make_pictures({"a": 9, "b": 9}, name="faces")
    for dataset in ("digits", str(root), f"{root}/"):
        assert load(DataConfig(dataset=dataset)).name == slug(dataset)
    assert slug(str(root)) == "faces-folder"


@pytest.mark.parametrize("dataset", ["", "cifar", "./nowhere", "a\0b", "x" * 5000, "FACES", "é"])
def test_unknown_data_set(dataset: str) -> None:
    with pytest.raises(DataError, match="neither a name nor a path .*: give .*fddb") as raised:
        load(DataConfig(dataset=dataset))
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError):
        check(DataConfig(dataset=dataset))
    with pytest.raises(DataError):
        load_test(DataConfig(dataset=dataset))


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "pictures.zip").touch()
    with pytest.raises(DataError, match="neither a folder, a zip, .* give the path of one"):
        load(DataConfig(dataset=str(tmp_path / "pictures.zip")))


@pytest.mark.parametrize("dataset", ["cifar10", "fddb"])
@pytest.mark.parametrize("place", ["nowhere", "file", "loop"])
def test_missing_data(dataset: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="ALEXNET_DATA"):
        load(DataConfig(dataset=dataset, data_dir=str(tmp_path / place)))


def test_limit_too_small() -> None:
    with pytest.raises(DataError, match="--limit .* got 3: give 4 or more, or 0 for all"):
        load(DataConfig(limit=3))


def test_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    batches = tmp_path / "cifar-10-batches-py"
    (batches / "data_batch_1").mkdir(parents=True)
    with pytest.raises(DataError, match="data_batch_1' must be a regular file"):
        load(DataConfig(dataset="cifar10", data_dir=str(tmp_path)))


def test_table() -> None:
    assert tuple(DATASETS) == ("faces", "digits", "cifar10", "fddb", "fddb-hard", "fddb-crops")
    for dataset in ("faces", "digits"):
        check(DataConfig(dataset=dataset))


def test_import_is_cheap() -> None:
    heavy = ["torch", "sklearn", "skimage", "pyarrow", "pandas", "scipy", "mlflow"]
    code = f"import sys, alexnet_mlflow.data; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and not done.stderr
