"""The two data sets that come with a dependency."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import load, load_test


def test_faces(cache_folder: Path) -> None:
    splits, test = load(DataConfig()), load_test(DataConfig())
    assert splits.name == "faces" and splits.classes == ("face", "nonface")
    assert splits.counts["train"] == {"face": 72, "nonface": 72}
    assert splits.counts["val"] == {"face": 8, "nonface": 8}
    assert splits.counts["test"] == {"face": 20, "nonface": 20}
    for split in (splits.train, splits.val, test):
        rows = np.char.partition(split.ids, "/")[:, 2].astype(int)
        assert np.array_equal(split.labels, rows >= 100)
        assert np.array_equal(split.images[:, 0], split.images[:, 2])
    assert splits.train.images.max() > 250 and not cache_folder.exists()


def test_digits() -> None:
    splits, test = load(DataConfig(dataset="digits")), load_test(DataConfig(dataset="digits"))
    assert splits.name == "digits" and splits.classes == tuple("0123456789")
    assert len(splits.train) + len(splits.val) + len(test) == 1797
    assert splits.train.images.max() == 255 and splits.train.images.min() == 0
    zero = splits.train.images[splits.train.labels == 0].mean(axis=(0, 1))
    one = splits.train.images[splits.train.labels == 1].mean(axis=(0, 1))
    assert zero[16, 16] < 50 < 150 < one[16, 16]  # a nought is empty in the middle
