"""An MLflow server of the tests' own, on sqlite, artifacts served through it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(folder: Path, workers: int = 1) -> Iterator[str]:
    """Its URL, while it runs."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", str(workers),
        "--artifacts-destination", f"{folder}/artifacts",
    ]
    with open(folder / "log", "wb") as log, subprocess.Popen(
        command, stdout=log, stderr=log, cwd=folder, start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    ) as running:
        try:
            await_health(uri, running, folder / "log")
            yield uri
        finally:
            running.terminate()
            running.wait(30)


def await_health(uri: str, running: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers; fail with its log if it ends or takes two minutes."""
    for _ in range(600):
        assert running.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"no answer: {log.read_text()}")
