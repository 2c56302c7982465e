"""CIFAR-10.1's pair of arrays, sound and not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, load, load_whole
from alexnet_mlflow.data.cifar10 import CLASSES


def pair(folder: Path, pictures: np.ndarray, labels: np.ndarray) -> DataConfig:
    np.save(folder / "cifar10.1_v6_data.npy", pictures)
    np.save(folder / "cifar10.1_v6_labels.npy", labels)
    return DataConfig(dataset=str(folder / "cifar10.1_v6_data.npy"))


def some(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_every_picture_and_its_label(tmp_path: Path) -> None:
    pictures, labels = some(), np.arange(20, dtype=np.int32) % 10
    found = load_whole(pair(tmp_path, pictures, labels))
    assert found.classes == CLASSES and found.title == "cifar10.1_v6"
    assert found.name == "cifar10-1-v6"
    assert np.array_equal(found.pictures.images, pictures.transpose(0, 3, 1, 2))
    assert found.pictures.labels.tolist() == labels.tolist()
    assert sum(found.counts["all"].values()) == 20


def test_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    config = pair(tmp_path, some(), np.arange(20) % 10)
    with pytest.raises(DataError, match="none to learn from"):
        load(config)


@pytest.mark.parametrize(
    ("pictures", "labels", "told"),
    [
        (some()[:, :16], np.zeros(20, int), r"must hold uint8 .* shape \(20, 16"),
        (some().astype(float), np.zeros(20, int), "got float64"),
        (some(), np.zeros(19, int), r"labels of shape \(19,\)"),
        (some(), np.full(20, 10), "labels 10 to 10 for 10 classes"),
        (some(), np.full(20, -1), "labels -1 to"),
        (some(), np.zeros(20), "must hold integers"),
        (some(0), np.zeros(0, int), "holds no picture"),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        load_whole(pair(tmp_path, pictures, labels))


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    config = pair(tmp_path, some(), np.arange(20) % 10)
    labels = tmp_path / "cifar10.1_v6_labels.npy"
    whole = labels.read_bytes()
    for content in (
        b"", b"\x93NUMPY", b"no array", whole[:100], b"PK\x03\x04abc",
        whole.replace(b"(20,)", b"((((("), whole.replace(b"(20,)", b"(-1,)"),
        whole.replace(b"(20,)", b"{[]:1"),
    ):
        labels.write_bytes(content)
        with pytest.raises(DataError, match="no whole array"):
            load_whole(config)
    archive = io.BytesIO()
    np.savez(archive, one=np.zeros(3))
    labels.write_bytes(archive.getvalue())
    with pytest.raises(DataError, match="no whole array"):
        load_whole(config)
    np.save(labels, np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="no whole array"):
        load_whole(config)
    labels.unlink()
    with pytest.raises(DataError, match="must lie beside"):
        load_whole(config)
