"""Processes beside this one: their command line, their share, what they say, what ends them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from alexnet_mlflow import abreast
from alexnet_mlflow.cli import commands
from alexnet_mlflow.config import BabysitConfig

SPEAKS = """
import os, sys, time
print("first", file=sys.stderr, flush=True)
open(sys.argv[1], "w").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
print("second", file=sys.stderr)
print("a sentence")
print('{"found": 1}')
"""
TELLS = """
import os
print(*(os.environ.get(name, "-") for name in (
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MLFLOW_RUN_ID", "ALEXNET_LEADER_PID", "TOLD"
)))
"""


def python(text: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", text, *map(str, arguments)]


def test_the_command_gives_the_same_stage() -> None:
    config = BabysitConfig(dataset="digits", optimizer="both", trials=3, lr_low=1e-4, force=True)
    words = abreast.command(config, optimizer="adam", storage="")
    assert words[1:4] == ["-m", "alexnet_mlflow", "babysit"]
    with commands.commands["babysit"].make_context("babysit", words[4:]) as context:
        told = BabysitConfig(**context.params)
    assert told.optimizer == "adam"
    for name in ("dataset", "trials", "lr_low", "epochs", "force", "seeds"):
        assert getattr(told, name) == getattr(config, name)


def test_what_it_says_is_read_while_it_says_more(tmp_path: Path) -> None:
    """The place in the file is one for both processes: reading must not move it."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    with abreast.running([python(SPEAKS, begun, go)], "cpu", {}) as [other]:
        while not begun.exists() and other.process.poll() is None:
            time.sleep(0.01)
        assert other.said() == b"first\n"
        go.touch()
        assert other.process.wait() == 0
        assert other.said() == b"first\nsecond\n" and other.said(6) == b"second\n"
        assert other.last_words == "second" and other.result == '{"found": 1}'


def test_nothing_said_is_an_empty_line() -> None:
    with abreast.running([python("pass")], "cpu", {}) as [other]:
        other.process.wait()
        assert (other.said(), other.last_words, other.result) == (b"", "", "")


@pytest.mark.parametrize(
    ("threads", "cards", "others", "wanted"),
    [(2, 0, 1, ["1 -"]), (8, 0, 3, ["2 -"] * 3), (2, 0, 3, ["1 -"] * 3),
     (3, 0, 1, ["1 -"]), (4, 2, 3, ["1 1", "1 0", "1 1"])],
)
def test_each_has_its_share(
    monkeypatch: pytest.MonkeyPatch, threads: int, cards: int, others: int, wanted: list[str]
) -> None:
    """Threads, and where there are GPUs one of them each; this process keeps the first."""
    before = torch.get_num_threads()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("MLFLOW_RUN_ID", "ofthisone")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    torch.set_num_threads(threads)
    try:
        assert abreast.places("auto") == (cards or threads)
        assert abreast.places("cpu") == threads
        with abreast.running([python(TELLS)] * others, "auto", {"TOLD": "so"}) as running:
            mine = {(2, 1): 1, (8, 3): 2, (2, 3): 1, (3, 1): 2, (4, 3): 1}
            assert torch.get_num_threads() == mine[threads, others]
            for other, share in zip(running, wanted, strict=True):
                other.process.wait()
                assert other.result == f"{share} - {os.getpid()} so"
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_ends_them() -> None:
    found: list[abreast.Other] = []
    with pytest.raises(KeyError), abreast.running(
        [python("import time; time.sleep(60)")] * 2, "cpu", {}
    ) as others:
        found += others
        raise KeyError
    assert [other.process.returncode for other in found] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize(
    ("named", "count", "names"),
    [("", 2, ["0", "1"]), ("2,3", 2, ["2", "3"]), ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]),
     ("", 0, []), ("2,3", 0, [])],
)
def test_the_user_s_choice_of_gpus_stays(named: str, count: int, names: list[str]) -> None:
    assert abreast.cards_of({"CUDA_VISIBLE_DEVICES": named}, count) == names


def test_a_process_that_cannot_start_leaves_the_threads() -> None:
    before = torch.get_num_threads()
    with pytest.raises(FileNotFoundError), abreast.running([["/nowhere/python"]], "cpu", {}):
        pass
    assert torch.get_num_threads() == before
