"""The cache: what is read is what was written, or it is built anew."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import cache, folder, load
from alexnet_mlflow.data.split import DataError, Decoded

Maker = Callable[..., Path]


def entries(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.exists() else []


def same(a: Decoded, b: Decoded) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    pairs += [(a.facts[name], b.facts[name]) for name in a.facts.keys() | b.facts.keys()]
    return all(
        np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
        for one, other in pairs
        if one is not a.facts
    )


def test_round_trip(make_pictures: Maker, cache_folder: Path) -> None:
    source = folder.find(make_pictures({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1}), "p")
    decoded = cache.through(source, False)
    (entry,) = entries(cache_folder)
    assert entry.name == f"p-{cache.key(source, False)[:16]}"
    assert {file.name for file in entry.iterdir()} == {*cache.FILES, cache.MANIFEST}
    before = {file.name: file.stat().st_mtime_ns for file in entry.iterdir()}
    assert same(decoded, cache.through(source, False)) and same(decoded, cache.read(entry))
    assert before == {file.name: file.stat().st_mtime_ns for file in entry.iterdir()}
    assert list(cache.read(entry).division) == ["train", "test"]


@pytest.mark.parametrize("name", [*cache.FILES, cache.MANIFEST])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "empty"])
def test_damage_is_rebuilt(
    name: str, harm: str, make_pictures: Maker, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder.find(make_pictures({"a": 3, "b": 3}), "p")
    decoded = cache.through(source, False)
    (entry,) = entries(cache_folder)
    file = entry / name
    raw = bytearray(file.read_bytes())
    if harm == "flip":
        raw[-3] ^= 1
    kept = {"flip": bytes(raw), "cut": bytes(raw[: len(raw) // 2]), "empty": b""}
    file.unlink() if harm == "remove" else file.write_bytes(kept[harm])
    with pytest.raises(DataError, match="damaged"):
        cache.read(entry)
    assert same(decoded, cache.through(source, False))
    assert "decoding anew" in caplog.text
    assert same(decoded, cache.read(entry)) and entries(cache_folder) == [entry]


def test_every_flipped_manifest_byte_is_noticed(make_pictures: Maker, cache_folder: Path) -> None:
    cache.through(folder.find(make_pictures({"a": 2, "b": 2}), "p"), False)
    (entry,) = entries(cache_folder)
    manifest, whole = entry / cache.MANIFEST, cache.read(entry)
    raw = manifest.read_bytes()
    for at in range(len(raw)):
        manifest.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        try:
            assert same(whole, cache.read(entry))  # white space may have become other white space
        except DataError:
            pass


@pytest.mark.parametrize("body", [b"[]", b"null", b"{}", b"\xff", b'{"sha256": 1, "format": 1}'])
def test_foreign_manifest(body: bytes, tmp_path: Path) -> None:
    (tmp_path / cache.MANIFEST).write_bytes(body)
    with pytest.raises(DataError, match="damaged"):
        cache.read(tmp_path)


def test_pickled_arrays_are_not_loaded(make_pictures: Maker, cache_folder: Path) -> None:
    cache.through(folder.find(make_pictures({"a": 2, "b": 2}), "p"), False)
    (entry,) = entries(cache_folder)
    np.save(entry / "labels.npy", np.array([{}] * 4), allow_pickle=True)
    body = json.loads((entry / cache.MANIFEST).read_text())
    del body["sha256"]
    body["files"]["labels.npy"] = cache._sha256(entry / "labels.npy")
    (entry / cache.MANIFEST).write_text(json.dumps({**body, "sha256": cache._seal(body)}))
    with pytest.raises(DataError, match="allow_pickle=False"):
        cache.read(entry)


def test_key_follows_sources_and_options(make_pictures: Maker) -> None:
    root = make_pictures({"a": 2, "b": 2})
    keys = [cache.key(folder.find(root, "p"), skip) for skip in (False, True)]
    os.utime(root / "a/000.png", ns=(time.time_ns(), 1))
    keys.append(cache.key(folder.find(root, "p"), False))
    (root / "a/001.png").rename(root / "a/002.png")
    keys.append(cache.key(folder.find(root, "p"), False))
    root.rename(root.with_name("moved"))
    keys.append(cache.key(folder.find(root.with_name("moved"), "p"), False))
    assert len(set(keys)) == 5


def test_unwritable_cache_is_gone_without(
    make_pictures: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file" / "cache"))
    caplog.set_level(logging.WARNING)
    assert len(load(DataConfig(dataset=str(make_pictures({"a": 9, "b": 9})))).train)
    assert "going on without the cache" in caplog.text


def test_entry_that_is_a_file(make_pictures: Maker, cache_folder: Path) -> None:
    source = folder.find(make_pictures({"a": 2, "b": 2}), "p")
    cache_folder.mkdir()
    (cache_folder / f"p-{cache.key(source, False)[:16]}").touch()
    assert len(cache.through(source, False).labels) == 4
    assert len(entries(cache_folder)) == 1  # no draft left behind


def test_winner_of_a_race_stays(make_pictures: Maker, cache_folder: Path) -> None:
    source = folder.find(make_pictures({"a": 2, "b": 2}), "p")
    decoded = cache.through(source, False)
    (entry,) = entries(cache_folder)
    inode = entry.stat().st_ino
    cache.write(decoded, entry)
    assert entry.stat().st_ino == inode and entries(cache_folder) == [entry]


def test_four_processes_build_one_entry(make_pictures: Maker, cache_folder: Path) -> None:
    root = make_pictures({"a": 60, "b": 60}, side=64)
    code = (
        "import sys; from alexnet_mlflow.config import DataConfig; from alexnet_mlflow import data;"
        "sys.stdin.readline(); print(data.load(DataConfig(dataset=sys.argv[1])).digest)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(root)]
    pipe = subprocess.PIPE
    four = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)
    ]
    for process in four:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in four]
    digest = load(DataConfig(dataset=str(root))).digest
    assert [out.strip() for out, _ in results] == [digest] * 4, results
    (entry,) = entries(cache_folder)
    assert len(cache.read(entry).labels) == 120


def test_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    assert cache.folder() == tmp_path
    monkeypatch.delenv("ALEXNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "alexnet_mlflow"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "alexnet_mlflow"
