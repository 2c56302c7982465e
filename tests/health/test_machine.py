"""Disks that are full or read-only, files left by broken writes, a GPU, an engine."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
import torch

from alexnet_mlflow.health import machine
from tests.tmpfs import mounted


def test_a_disk_with_room_is_well_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "FEW_BYTES", 1)
    [found] = machine.disks({"cache": tmp_path / "a" / "b"})
    assert found.verdict == "pass" and found.name == "disk (cache)"
    assert not list(tmp_path.iterdir())


def test_a_small_disk_is_told(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "4m") as folder:
        [found] = machine.disks({"store": folder / "later"})
        assert found.verdict == "fail" and "0.0 GiB free" in found.sentence
        assert "make room" in found.sentence


def test_a_disk_with_little_room_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LEAST_BYTES", 1)
    monkeypatch.setattr(machine, "FEW_BYTES", 1 << 60)
    [found] = machine.disks({"store": tmp_path})
    assert found.verdict == "warn"


def test_a_read_only_disk_is_told_to_root_too(tmp_path: Path) -> None:
    with mounted(tmp_path / "still", "4m", "ro") as folder:
        [found] = machine.disks({"checkpoints": folder})
    assert found.verdict == "fail" and "cannot be written to" in found.sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    [found] = machine.disks({"checkpoints": tmp_path})
    tmp_path.chmod(stat.S_IRWXU)
    assert found.verdict == "fail" and "cannot be written to" in found.sentence


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    [found] = machine.disks({"checkpoints": tmp_path / "checkpoints"})
    assert found.verdict == "fail" and "is a file" in found.sentence


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("abc/last.tmp", True), (".cifar10.0a1b.part", True), ("admin.unfinished", True),
        (f".faces-1.{'0a' * 16}", True), ("abc/last.pt", False), ("faces-1", False),
        (".download.lock", False),
    ],
)
def test_what_a_broken_write_leaves_is_found(tmp_path: Path, name: str, left: bool) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x" * 2**20)
    assert machine.leftovers({"x": tmp_path}).verdict == "pass", "it may be being written"
    long_ago = time.time() - 2 * machine.LEFT_SECONDS
    os.utime(file, (long_ago, long_ago))
    found = machine.leftovers({"x": tmp_path, "again": tmp_path, "none": tmp_path / "none"})
    assert found.verdict == ("warn" if left else "pass")
    assert (f"1 unfinished, 1.0 MiB ({file})" in found.sentence) == left


def test_no_gpu_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.gpu().verdict == "pass" and machine.gpu().sentence == "no GPU: CPU."
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert machine.gpu().verdict == "warn" and "driver" in machine.gpu().sentence


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
def test_a_gpu_is_named() -> None:
    found = machine.gpu()
    assert found.verdict == "pass" and torch.cuda.get_device_name(0) in found.sentence


def test_no_engine_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    found = machine.engine()
    assert found.verdict == "pass" and "does not answer" in found.sentence
