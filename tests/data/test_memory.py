"""Room for pictures: the same numbers in memory and in a mapped file, and no file left behind."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import load, load_test, memory


def mapped_mib() -> float:
    """What of this process's memory is shared with files, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem"))]
    return sum(found) / 1024


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 1000)


@pytest.mark.usefixtures("small")
def test_many_bytes_lie_in_a_file_without_a_name(cache_folder: Path) -> None:
    array = memory.blank((4, 3, 32, 32))
    array[:] = 7
    assert array.flags.writeable and array.flags.c_contiguous and array.sum() == 7 * 4 * 3072
    assert cache_folder.is_dir() and not list(cache_folder.iterdir())


def test_few_bytes_need_no_folder(cache_folder: Path) -> None:
    assert memory.blank((4, 3, 32, 32)).shape == (4, 3, 32, 32)
    assert not cache_folder.exists()


@pytest.mark.usefixtures("small")
def test_what_is_let_go_comes_back() -> None:
    array = memory.blank((20_000, 1024))
    before = mapped_mib()
    array[:] = 3
    touched = mapped_mib()
    memory.let_go(array)
    assert touched - before > 15 and mapped_mib() - before < 5
    assert (array == 3).all()


@pytest.mark.usefixtures("small")
def test_a_view_of_a_mapped_array_is_let_go_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((20_000, 1024), 5, np.uint8))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")[::2].view(np.ndarray)
    assert int(array.max()) == 5
    touched = mapped_mib()
    memory.let_go(array)
    assert touched - mapped_mib() > 10
    memory.let_go(np.zeros(3, np.uint8))


@pytest.mark.usefixtures("small")
def test_no_room_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert memory.blank((4, 3, 32, 32)).shape == (4, 3, 32, 32)
    assert "going on in memory" in caplog.text


def test_rows_are_copied_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK", 3)
    images = np.random.default_rng(0).integers(0, 256, (11, 3, 4, 4), dtype=np.uint8)
    rows = np.array([9, 0, 3, 3, 10, 1, 2])
    assert np.array_equal(memory.taken(images, rows), images[rows])
    assert memory.taken(images.transpose(0, 3, 2, 1), rows).flags.c_contiguous


@pytest.mark.parametrize("cached", [False, True])
def test_a_data_set_in_files_is_the_same(
    cached: bool,
    make_pictures: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    cache_folder: Path,
) -> None:
    config = DataConfig(dataset=str(make_pictures({"a": 12, "b": 12})))
    expected, sealed = load(config), load_test(config)
    if not cached:
        monkeypatch.setenv("ALEXNET_CACHE", str(cache_folder.with_name("other")))
    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 1000)
    found, opened = load(config), load_test(config)
    assert found.digest == expected.digest and opened.digest == sealed.digest
    assert found.train.images.base is not None  # a view of the mapping, not memory of its own
    kept = [name for name in os.listdir(os.environ["ALEXNET_CACHE"]) if name.startswith(".")]
    assert kept == []
