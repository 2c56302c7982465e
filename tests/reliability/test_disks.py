"""Disks that fill up, are read-only, or somebody else's: one sentence, and nothing half done.

Each disk is a tmpfs of the test's own. The program runs as a person runs it, in its own process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pytest

from alexnet_mlflow import checkpoint
from alexnet_mlflow.models import load_model
from alexnet_mlflow.options import BadInput
from tests.tmpfs import fill, mounted, remount

TRAIN = ["final", "--lr=0.001", "--weight-decay=0", "--batch-size=16", "--device=cpu"]


EACH_EPOCH = """
import sys
from alexnet_mlflow import checkpoint, cli
checkpoint.SECONDS_BETWEEN = 0
offer = checkpoint.Writer.offer
def each(writer, *given):
    writer.wait()  # an epoch that ends while another is being written would not be
    return offer(writer, *given)
checkpoint.Writer.offer = each
sys.exit(cli.main(sys.argv[1:]))
"""


def called(
    folder: Path, *words: str, store: str | None = None, prefix: Sequence[str] = (),
    program: Sequence[str] = ("-m", "alexnet_mlflow"),
) -> subprocess.CompletedProcess[str]:
    """The program, in this folder."""
    own = {"MLFLOW_TRACKING_URI": store or f"sqlite:///{folder}/mlflow.db",
           "ALEXNET_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*prefix, sys.executable, *program, *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **own}, timeout=240,
    )


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of exit code 2."""
    assert done.returncode == 2, f"{done.returncode}: {done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr and done.stdout == "", done.stderr[-3000:]
    last = done.stderr.rstrip("\n").split("\n")[-1]
    assert last.startswith("Error: "), done.stderr[-3000:]
    return last


@pytest.fixture
def folder(store: Path) -> Path:
    """A working folder with a store and artifacts of its own."""
    return store


def trained(folder: Path, pictures: Path, epochs: int, *more: str) -> list[str]:
    return [*TRAIN, f"--dataset={pictures}", f"--epochs={epochs}", *more]


def status(folder: Path) -> str:
    with sqlite3.connect(folder / "mlflow.db") as database:
        rows = database.execute("SELECT status FROM runs ORDER BY start_time").fetchall()
    database.close()
    return str(rows[-1][0]) if rows else "none"


def test_a_disk_that_fills_up_at_a_checkpoint(folder: Path, pictures: Path) -> None:
    """The first checkpoint fits; the second, beside the first, does not."""
    with mounted(folder / "checkpoints", "400m") as disk:
        words = trained(folder, pictures, 6)
        last = told(called(folder, *words, program=("-c", EACH_EPOCH)))
        assert "full" in last and "room" in last
        [kept] = checkpoint.newest(disk)
        state = checkpoint.load(checkpoint.path_of(kept, disk))
        assert state["history"], "the checkpoint before loads"
        files = {path.name for path in disk.rglob("*") if path.is_file()}
        assert files == {checkpoint.FILE, checkpoint.BEFORE, checkpoint.LOCK}, "half of one stays"
        assert status(folder) == "FAILED"
        fill(disk)
        assert "full" in told(called(folder, *trained(folder, pictures, 6, "--resume=last")))
        assert status(folder) == "FAILED", "it was not taken up"
        remount(disk, "size=2g")
        done = called(folder, *trained(folder, pictures, 6, "--resume=last"))
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout.splitlines()[-1])["run_id"] == kept


def test_a_read_only_disk_for_checkpoints(folder: Path, pictures: Path) -> None:
    with mounted(folder / "checkpoints", "4m", "ro") as disk:
        last = told(called(folder, *trained(folder, pictures, 1)))
        assert "checkpoints" in last and "ead-only" in last
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_cache_that_cannot_be_written_is_gone_without(
    folder: Path, pictures: Path, kind: str
) -> None:
    with mounted(folder / "cache", "1m", "ro" if kind == "read-only" else "rw") as disk:
        if kind == "full":
            fill(disk)
        done = called(folder, *trained(folder, pictures, 1))
        assert done.returncode in (0, 1), done.stderr[-2000:]
        assert "Traceback" not in done.stderr and "without the cache" in done.stderr
        entries = [path for path in disk.iterdir() if path.name != "filling"]
        assert entries == [], "no part of an entry"


def test_a_disk_that_is_full_of_artifacts(folder: Path, pictures: Path) -> None:
    with mounted(folder / "mlruns", "1m"):
        last = told(called(folder, *trained(folder, pictures, 1)))
        assert "full" in last
        client = mlflow.MlflowClient()
        for half in client.search_logged_models(["0"]):  # MLflow's copy stops in the middle
            assert str(half.status) != "READY"
            with pytest.raises(BadInput, match="cannot be loaded"):
                load_model(half.model_uri)
        [run] = client.search_runs(["0"])
        assert "model_uri" not in run.data.tags and "verdict" not in run.data.tags
    assert status(folder) == "FAILED"
    [kept] = checkpoint.newest(folder / "checkpoints")
    assert checkpoint.load(checkpoint.path_of(kept, folder / "checkpoints"))["history"]
    done = called(folder, *trained(folder, pictures, 1, "--resume=last"))
    assert done.returncode == 0, done.stderr[-2000:]


def stored(disk: Path, folder: Path) -> str:
    """The store moves to this disk; its artifacts stay."""
    shutil.copy(folder / "mlflow.db", disk / "mlflow.db")
    return f"sqlite:///{disk}/mlflow.db"


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_store_that_cannot_be_written(folder: Path, pictures: Path, kind: str) -> None:
    with mounted(folder / "disk", "8m") as disk:
        uri = stored(disk, folder)
        before = (disk / "mlflow.db").read_bytes()
        if kind == "full":
            fill(disk)
        else:
            remount(disk, "ro")
        last = told(called(folder, *trained(folder, pictures, 1), store=uri))
        assert ("full" in last) if kind == "full" else ("ead" in last), last
        remount(disk, "rw")
        (disk / "filling").unlink(missing_ok=True)
        assert mlflow.MlflowClient(uri).search_runs(["0"]) is not None, "the store is whole"
        if kind == "read-only":
            assert (disk / "mlflow.db").read_bytes() == before


def test_a_report_that_finds_no_room(folder: Path) -> None:
    with mounted(folder / "data-check", "1m") as disk:
        fill(disk)
        assert "No space left" in told(called(folder, "data", "check", "digits"))
        assert not [path for path in disk.rglob("*") if "digits" in path.parts and path.is_file()]


OVERRIDE = "-dac_override,-dac_read_search"  # by which root may write anywhere


@pytest.mark.parametrize("place", ["checkpoints", "cache", "mlflow.db", "mlruns"])
def test_a_place_of_somebody_else(folder: Path, pictures: Path, place: str) -> None:
    """The program without root's right to write anywhere; one place is another user's."""
    prefix = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write anywhere, and there is no setpriv to take that from it")
        prefix = ["setpriv", f"--bounding-set={OVERRIDE}", f"--inh-caps={OVERRIDE}"]
    target = folder / place
    if place != "mlflow.db":
        target.mkdir(exist_ok=True)
    target.chmod(0o555 if target.is_dir() else 0o444)
    done = called(folder, *trained(folder, pictures, 1), prefix=prefix)
    inside = [path for path in target.rglob("*")] if target.is_dir() else []
    target.chmod(0o755)
    assert inside == []
    if place == "cache":
        assert done.returncode in (0, 1) and "without the cache" in done.stderr
        return
    assert re.search("permission denied|read-only|writable", told(done)), done.stderr[-1000:]
