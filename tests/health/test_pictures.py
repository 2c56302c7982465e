"""Digests of pictures on disk: as published, as downloaded, as cut, as decoded, or not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.data import cache, cifar10, fetch
from alexnet_mlflow.data.split import Decoded
from alexnet_mlflow.health import Finding, pictures

FILE = cifar10.PARQUET[0]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))


def of(name: str, root: Path) -> list[Finding]:
    return [one for one in pictures.digests(root) if one.name == name]


def official(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    remote = fetch.Remote(FILE, len(content), hashlib.sha256(content).hexdigest(), ())
    monkeypatch.setattr(fetch, "CIFAR10", ((remote,),))


def test_nothing_there_is_nothing_wrong(tmp_path: Path) -> None:
    assert [one.verdict for one in pictures.digests(tmp_path)] == ["pass"]
    assert "0 decoded" in of("cache", tmp_path)[0].sentence


@pytest.mark.parametrize("below", ["", "cifar10", "plain_text", "cifar10/plain_text"])
def test_the_official_file_wherever_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    (tmp_path / below / FILE).write_bytes(b"official")
    official(monkeypatch, b"official")
    assert [one.verdict for one in of("data", tmp_path)] == ["pass"]


def test_another_copy_is_told_and_a_changed_download_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official(monkeypatch, b"official")
    (tmp_path / FILE).write_bytes(b"a copy")
    assert [one.verdict for one in of("data", tmp_path)] == ["warn"]
    for served, verdict in ((b"a copy", "warn"), (b"official", "fail")):
        record = {FILE: {"sha256": hashlib.sha256(served).hexdigest(), "url": "https://x"}}
        (tmp_path / cifar10.SOURCES).write_text(json.dumps(record))
        [found] = of("data", tmp_path)
        assert found.verdict == verdict
    assert "changed since it was downloaded" in found.sentence


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"a": 1}', "[" * 100_000])
def test_a_record_that_is_none_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    official(monkeypatch, b"official")
    (tmp_path / FILE).write_bytes(b"official")
    (tmp_path / cifar10.SOURCES).write_text(record)
    assert [one.verdict for one in of("data", tmp_path)] == ["pass"]


def test_patches_and_lists_that_are_not_as_they_were_fail(tmp_path: Path) -> None:
    (tmp_path / "fddb" / "patches").mkdir(parents=True)
    (tmp_path / "fddb" / "patches" / "manifest.csv").write_text("# {}\n")
    (tmp_path / "fddb" / "FDDB-folds").mkdir()
    found = of("data", tmp_path)
    assert [one.verdict for one in found] == ["fail", "fail"]
    assert "data get fddb" in found[0].sentence and all("\n" not in f.sentence for f in found)


def test_a_damaged_cache_entry_is_told(tmp_path: Path) -> None:
    images = np.zeros((4, 3, 32, 32), np.uint8)
    decoded = Decoded(
        name="x", title="X", classes=("a", "b"), source="here", images=images,
        labels=np.array([0, 0, 1, 1]), ids=np.array(list("abcd")), division={"undivided": (0, 4)},
    )
    for name in ("one", "two"):
        cache.write(decoded, tmp_path / "cache" / name)
    [found] = of("cache", tmp_path)
    assert found.verdict == "pass" and "2 decoded" in found.sentence
    broken = tmp_path / "cache" / "two" / "labels.npy"
    broken.write_bytes(broken.read_bytes()[:-1])
    shutil.copytree(tmp_path / "cache" / "two", tmp_path / "cache" / ".draft")
    [found] = of("cache", tmp_path)
    assert found.verdict == "warn" and "1 of 2" in found.sentence and "two" in found.sentence
