"""What the system tells of this process, and of one that has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_mlflow import process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def test_this_one() -> None:
    pid = os.getpid()
    assert int(process.started(pid)) > 0 and process.parent(pid) == os.getppid()
    assert process.text(Path("/proc/self/comm")) and process.words(pid)[0]


def test_one_that_has_ended() -> None:
    """Also before its parent has taken note of it."""
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.read() == b""
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert process.started(other.pid) == "" and process.parent(other.pid) == os.getpid()
    assert process.started(other.pid) == "" and process.parent(other.pid) == 0
    assert process.words(other.pid) == [""] and process.text(Path("/proc/self/nothing")) == ""
