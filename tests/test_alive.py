"""Who still lives, as other processes of the same machine see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_mlflow.alive import gone, living


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_living_and_the_dead() -> None:
    with living() as worker:
        assert not gone(worker)
        assert not gone({**worker, "host": "elsewhere"}), "of another machine nothing is known"
    assert gone(worker)
    assert not gone({**worker, "lock": "/no/such/folder/x.lock"})
    assert not gone({**worker, "folder": "0:0"}), "a folder of that name in another container"


def test_a_killed_process_is_gone() -> None:
    script = (
        "import os, signal, json\nfrom alexnet_mlflow.alive import living\n"
        "with living() as worker:\n    print(json.dumps(worker), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    worker = json.loads(done.stdout)
    assert Path(worker["lock"]).exists() and gone(worker)
    assert not Path(worker["lock"]).exists(), "its lock is cleared away"
