"""A PostgreSQL server of the test's own, from the programs that Debian installs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), None)


def program(name: str) -> str | None:
    """Where a program of the server lies; None where there is none."""
    for place in PLACES:
        if found := shutil.which(name, path=place and str(place)):
            return found
    return None


MISSING = program("initdb") is None
REASON = "PostgreSQL's server is not installed"


@contextmanager
def server() -> Iterator[str]:
    """The URL of a fresh database, for as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    initdb, postgres = program("initdb"), program("postgres")
    assert initdb and postgres
    # It refuses to run as root, and may not enter the folders of pytest.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    try:
        subprocess.run(
            [initdb, "-D", data, "-A", "trust", "-U", "alexnet", "--no-sync"],
            check=True, user=user, capture_output=True, cwd=folder,
        )
        with open(folder / "log", "wb") as log, subprocess.Popen(
            [postgres, "-D", data, "-p", str(port), "-k", folder, "-F",
             "-c", "listen_addresses=127.0.0.1"],
            user=user, stdout=log, stderr=log, cwd=folder,
        ) as running:
            try:
                _wait(port, running)
                yield f"postgresql://alexnet:secret@127.0.0.1:{port}/postgres"
            finally:
                running.send_signal(signal.SIGINT)  # "fast": clients need not go first
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, running: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(200):
        assert running.poll() is None, "PostgreSQL has ended"
        try:
            psycopg.connect(
                f"host=127.0.0.1 port={port} user=alexnet dbname=postgres connect_timeout=1"
            ).close()
            return
        except psycopg.OperationalError:
            try:
                running.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    raise AssertionError("PostgreSQL does not answer")
