"""Who still lives, as other processes of the same machine see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_mlflow import alive
from alexnet_mlflow.alive import ended, gone, living, myself


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


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def child(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


TELL = "from alexnet_mlflow.alive import myself\nprint(myself(), flush=True)\n"


@needs_proc
def test_a_process_is_told_by_its_line() -> None:
    assert ended(myself()) is False
    with child(TELL + "import time; time.sleep(100)") as other:
        assert other.stdout is not None
        line = other.stdout.readline()
        assert ended(line) is False
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert ended(line) is True, "nobody has waited for it: it stands in the table, and is over"
    assert ended(line) is True


@needs_proc
def test_the_same_number_is_not_the_same_process() -> None:
    line = json.loads(myself())
    assert ended(json.dumps({**line, "started": "1"})) is True, "the number was given again"


@needs_proc
@pytest.mark.parametrize("name", ["host", "machine", "numbers"])
def test_nothing_is_known_of_another_machine_or_container(name: str) -> None:
    assert ended(json.dumps({**json.loads(myself()), "pid": 2**22, name: "another"})) is None


@needs_proc
def test_what_ran_before_the_machine_was_started_anew_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = {**json.loads(myself()), "machine": "m"}
    monkeypatch.setattr(alive, "_here", lambda: here)
    before = {**here, "boot": "another"}
    assert ended(json.dumps(before)) is True
    monkeypatch.setattr(alive, "_here", lambda: {**here, "machine": ""})
    assert ended(json.dumps({**before, "machine": ""})) is None, "two machines may have one name"


@pytest.mark.parametrize("line", ["", "nonsense", "[]", "{}", '{"pid": "x"}', "null", '{"pid": 1}'])
def test_nothing_is_known_of_what_is_no_line(line: str) -> None:
    assert ended(line) is None
