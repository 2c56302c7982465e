"""What the data tests share: a cache of their own, and small real pictures on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PictureMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test, away from the user's."""
    place = tmp_path / "cache"
    monkeypatch.setenv("ALEXNET_CACHE", str(place))
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    return place


@pytest.fixture
def make_pictures(tmp_path: Path) -> PictureMaker:
    """Writes a folder of random pictures: {"train/cat": 3} -> train/cat/000.png ... 002.png."""

    def make(
        counts: Mapping[str, int], name: str = "pets", suffix: str = "png", side: int = 32
    ) -> Path:
        rng = np.random.default_rng(len(counts))
        for below, count in counts.items():
            place = tmp_path / name / below
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number:03d}.{suffix}")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real cifar10/ and fddb/."""
    place = os.environ.get("ALEXNET_SHARED_DATA")
    if not place:
        pytest.skip("ALEXNET_SHARED_DATA does not name the folder with cifar10/ and fddb/")
    return Path(place)
