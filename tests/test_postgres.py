"""A PostgreSQL in a folder: real programs, killed and started again; skipped where none are."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from alexnet_mlflow import postgres
from alexnet_mlflow.options import BadInput
from tests.postgres import MISSING, REASON

installed = pytest.mark.skipif(MISSING, reason=REASON)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that root's PostgreSQL, another user, can enter; pytest's it cannot."""
    folder = Path(tempfile.mkdtemp(prefix="place-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@installed
def test_it_is_made_once_and_kept(place: Path) -> None:
    data, log = place / "database", place / "log"
    with postgres.running(data, log) as (address, process):
        with psycopg.connect(address) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        sockets = Path(address.partition("host=")[2])
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        owner = Path(f"/proc/{process.pid}").stat().st_uid
        assert owner != 0 and owner == sockets.stat().st_uid == data.stat().st_uid
    assert process.returncode == 0 and not sockets.exists()
    assert not (data / "postmaster.pid").exists()
    with postgres.running(data, log) as (address, _), psycopg.connect(address) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


@installed
def test_one_left_by_a_killed_server_is_named(place: Path) -> None:
    code = (
        "import pathlib, sys, time; from alexnet_mlflow import postgres\n"
        f"place = pathlib.Path({str(place)!r})\n"
        "with postgres.running(place / 'database', place / 'log'):\n"
        "    print('there', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        process.kill()
    number = int((place / "database" / "postmaster.pid").read_text().split()[0])
    try:
        with pytest.raises(BadInput, match=f"`kill -INT {number}`"):
            with postgres.running(place / "database", place / "log"):
                pass
    finally:
        os.kill(number, signal.SIGINT)
    for _ in range(100):
        if not (place / "database" / "postmaster.pid").exists():
            break
        time.sleep(0.1)
    with postgres.running(place / "database", place / "log") as (address, _):
        psycopg.connect(address).close()


@installed
def test_an_unfinished_one_is_made_anew(place: Path) -> None:
    unfinished = place / "database.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("15\n")
    with postgres.running(place / "database", place / "log") as (address, _):
        psycopg.connect(address).close()
    assert not unfinished.exists()


@installed
def test_another_versions_database_is_refused(place: Path) -> None:
    (place / "database").mkdir()
    (place / "database" / "PG_VERSION").write_text("8.4\n")
    with pytest.raises(BadInput, match="made by PostgreSQL 8.4, and here is"):
        with postgres.running(place / "database", place / "log"):
            pass


def test_without_programs_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PLACES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="apt-get install postgresql.*--database=postgresql://"):
        with postgres.running(tmp_path / "database", tmp_path / "log"):
            pass


@installed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL is another user")
def test_a_folder_that_it_cannot_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(BadInput, match="as the user postgres for root, cannot make"):
        with postgres.running(tmp_path / "database", tmp_path / "log"):
            pass
