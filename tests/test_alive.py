"""Who still lives, as other processes of the same machine see it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
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


def test_the_folder_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    with living() as worker:
        assert not gone(worker)
    assert gone(worker)


LOCK = "0123456789abcdef" * 2 + ".lock"


def planted(path: Path) -> Mapping[str, str]:
    """A record of this machine that names this file, as somebody else may write one."""
    status = path.parent.stat()
    return {
        "host": socket.gethostname(), "lock": str(path),
        "folder": f"{status.st_dev}:{status.st_ino}",
    }


@pytest.mark.parametrize(
    "place",
    ["precious.db", f"data/{LOCK}", f"workers/{LOCK}", "checkpoints/workers/precious.db",
     f"checkpoints/workers/{LOCK}.db", f"checkpoints/workers/x{LOCK}"],
)
def test_no_record_makes_it_delete_anything_but_a_lock(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")
    assert not gone(planted(path)) and path.read_text() == "precious"


def test_a_lock_is_named_by_its_whole_path(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "workers" / LOCK
    path.parent.mkdir(parents=True)
    path.touch()
    relative = path.relative_to(tmp_path)
    assert not gone({**planted(path), "lock": str(relative)}) and path.exists()
    assert gone(planted(path)) and not path.exists()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_lock_that_is_no_file_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "workers" / LOCK
    path.mkdir(parents=True)
    assert not gone(planted(tmp_path)), "a folder anywhere"
    if kind == "link":
        path.rmdir()
        (tmp_path / "precious.db").touch()
        path.symlink_to(tmp_path / "precious.db")
    assert not gone(planted(path)) and os.path.lexists(path)


@pytest.mark.parametrize("value", [None, 5, 1.5, [], {}, "", "x" * 5000, "\0", "\ud800"])
def test_nothing_is_known_of_a_record_of_another_shape(value: object, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "workers" / LOCK
    path.parent.mkdir(parents=True)
    path.touch()
    known = planted(path)
    assert not gone(value)
    for name in known:
        assert not gone({**known, name: value})
        assert not gone({other: text for other, text in known.items() if other != name})
    assert not gone({**known, "lock": f"/{value}/checkpoints/workers/{LOCK}"})
    assert path.exists()


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
