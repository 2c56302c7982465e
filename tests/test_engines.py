"""Workers: the command that each runs, that no password shows, and what ends them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_mlflow import engines, signals
from alexnet_mlflow.cli import commands
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.options import BadInput


def test_the_command_gives_the_same_search() -> None:
    config = SearchConfig(
        dataset="digits", trials=3, lr_low=1e-4, epochs=2, exhaustive=True, workers=4,
        engine="ray", storage="postgresql://me:geheim@somewhere/x", val_fraction=0.25,
    )
    words = engines.command(config, "digits-sgd-1")
    assert words[1:4] == ["-m", "alexnet_mlflow", "search"]
    assert "geheim" not in " ".join(words)
    command = commands.commands["search"]
    with command.make_context("search", words[4:]) as context:
        told = SearchConfig(**context.params)
    assert told.study == "digits-sgd-1" and told.workers == 1 and told.engine == "local"
    for name in ("dataset", "trials", "lr_low", "epochs", "exhaustive", "val_fraction"):
        assert getattr(told, name) == getattr(config, name)


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with engines.workers(SearchConfig(), "name", "sqlite:///x.db") as failures:
        assert failures() == ""


SLEEPS = """
import os, time
with open(os.environ['OUT'], 'a') as file:
    file.write(f"{os.getpid()} {os.getsid(0)}\\n")
time.sleep(60)
"""


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Workers that write their number and their session's, and then sleep for a minute."""
    monkeypatch.setattr(engines, "command", lambda *_: [sys.executable, "-c", SLEEPS])
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return tmp_path / "out"


def test_workers_end_with_an_error_of_the_leader(sleeper: Path) -> None:
    """Each is in a session of its own: a terminal's Ctrl-C is the leader's, who passes it on."""
    started: list[list[int]] = []
    with pytest.raises(KeyError), engines.workers(
        SearchConfig(workers=3, device="cpu"), "name", "sqlite:///x.db"
    ):
        while not sleeper.exists() or sleeper.read_text().count("\n") < 2:
            time.sleep(0.01)
        started += [[int(one) for one in line.split()] for line in sleeper.read_text().splitlines()]
        raise KeyError
    assert len(started) == 2 and not any(Path(f"/proc/{pid}/exe").exists() for pid, _ in started)
    assert all(pid == session for pid, session in started)


def test_a_leader_does_not_end_its_search_when_its_own_parent_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A course beside another one leads a search: for it a parent that is gone is a signal."""
    monkeypatch.setenv(signals.STARTER, "1234567")
    monkeypatch.delenv(engines.WORKER, raising=False)
    assert not engines.leader_gone()
    monkeypatch.setenv(engines.WORKER, "1")
    assert engines.leader_gone()


def test_a_cluster_needs_more_than_a_file() -> None:
    with pytest.raises(BadInput, match="ALEXNET_STORAGE"):
        engines.ready(SearchConfig(engine="ray", ray_address="host:6379"), "sqlite:////x.db")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:1", "", ":99999"])
def test_nobody_answers(address: str) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    config = SearchConfig(engine="ray", ray_address=address)
    with pytest.raises(BadInput) as caught, engines.workers(config, "name", "sqlite:///x.db"):
        pass
    told = str(caught.value)
    assert "no Ray cluster answers" in told and "\n" not in told
