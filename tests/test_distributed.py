"""Several processes, started by torchrun, train what one would, each on its share of a batch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from alexnet_mlflow import distributed
from alexnet_mlflow.models import load_model
from alexnet_mlflow.options import BadInput
from tests.shared_batches import trained

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 240


def torchrun(
    size: int, words: Sequence[str], folder: Path, **environment: str
) -> subprocess.Popen[str]:
    """Processes of that folder; the tracking store is the test's."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={size}", *words]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), **environment},
    )


def ended(running: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, said = running.communicate(timeout=PATIENCE_SECONDS)
    return running.returncode, out, said


@dataclass(frozen=True)
class Found:
    """What one process came to."""

    history: list[dict[str, Any]]
    next_draw: float
    weights: dict[str, torch.Tensor]


def together(
    folder: Path, size: int, settings: dict[str, Any], dropout: float, white: int | None = None
) -> list[Found]:
    words = [str(ROOT / "tests/shared_batches.py"), str(folder),
             json.dumps([settings, dropout, white])]
    code, _, said = ended(torchrun(size, words, folder))
    assert code == 0, said
    return [
        Found(**json.loads((folder / f"{rank}.json").read_text()),
              weights=torch.load(folder / f"{rank}.pt"))
        for rank in range(size)
    ]


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (2, {"optimizer": "sgd", "lr": 0.01, "recipe": "report", "epochs": 3}),
        (3, {"optimizer": "adam", "lr": 1e-4, "recipe": "strong", "epochs": 3}),
    ],
)
def test_they_equal_one_process_with_the_joint_batch(
    tmp_path: Path, size: int, settings: dict[str, Any]
) -> None:
    """Without dropout, whose draws differ. The last batch leaves a process without a picture."""
    alone, weights = trained(settings, dropout=0.0)
    found = together(tmp_path, size, settings, dropout=0.0)
    for one in found:
        for ours, theirs in zip(one.history, alone, strict=True):
            assert ours["diverged_at"] is theirs["diverged_at"] is None
            assert ours["learning_rate"] == theirs["learning_rate"]
            for name in ("train_loss", "val_loss"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
            for name in ("train_accuracy", "val_accuracy"):
                assert ours[name] == theirs[name]
        for name, weight in weights.items():
            assert torch.allclose(one.weights[name], weight, rtol=1e-5, atol=1e-7), name
            assert torch.equal(one.weights[name], found[0].weights[name])  # among themselves


def test_each_draws_its_own_dropout(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "lr": 0.01, "recipe": "plain", "epochs": 1}
    first, second = together(tmp_path, 2, settings, dropout=0.5)
    assert first.next_draw != second.next_draw
    assert first.history[0]["train_loss"] == second.history[0]["train_loss"]


def test_they_diverge_together(tmp_path: Path) -> None:
    """At one picture, which one of them sees; the other's loss is nan a step later."""
    settings = {"optimizer": "sgd", "lr": 0.01, "recipe": "plain", "epochs": 3}
    white = next(row for row in range(9) if diverged_at(trained(settings, 0.0, row)[0]) == 1)
    found = together(tmp_path, 2, settings, dropout=0.0, white=white)
    assert [diverged_at(one.history) for one in found] == [1, 1]


def diverged_at(history: list[dict[str, Any]]) -> int | None:
    """The step; there is no epoch after it."""
    steps = [row["diverged_at"] for row in history]
    assert steps[:-1] == [None] * (len(steps) - 1)
    return None if steps[-1] is None else int(steps[-1])


WORDS = ("--optimizer=sgd", "--lr=0.01", "--weight-decay=1e-4", "--batch-size=16", "--device=cpu",
         "--epochs=30")


def final(
    pictures: Path, folder: Path, *more: str, **environment: str
) -> subprocess.Popen[str]:
    words = ["-m", "tests.narrow", "final", f"--dataset={pictures}", *WORDS, *more]
    return torchrun(2, words, folder, **environment)


def test_a_final_of_two_processes_is_one_run_and_goes_on_after_a_signal(
    store: Path, pictures: Path
) -> None:
    code, out, said = ended(final(pictures, store))
    assert code == 0, said
    lines = [line for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 1, out  # the second process says nothing
    straight = json.loads(lines[0])
    client = MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.run_id == straight["run_id"] and run.info.status == "FINISHED"
    assert run.data.tags["processes"] == "2"

    running = final(pictures, store)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:  # some epochs are done
        assert time.monotonic() < until and running.poll() is None
        begun = [one for one in client.search_runs(["0"]) if one.info.run_id != run.info.run_id]
        if begun and "train_loss" in begun[0].data.metrics:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    ended(running)
    stopped = client.get_run(begun[0].info.run_id)
    assert stopped.info.status == "KILLED"
    assert len(client.get_metric_history(stopped.info.run_id, "train_loss")) < 30

    code, out, said = ended(final(pictures, store, "--resume=last"))
    assert code == 0, said
    resumed = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert resumed["run_id"] == stopped.info.run_id
    history = client.get_metric_history(stopped.info.run_id, "train_loss")
    assert [point.step for point in history] == list(range(1, 31))
    ours, theirs = (load_model(one["model_uri"]).state_dict() for one in (straight, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_seeds_are_trained_by_all_processes_one_after_the_other(
    store: Path, pictures: Path
) -> None:
    code, out, said = ended(final(pictures, store, "--epochs=1", "--seeds=2"))
    assert code == 0, said
    parent = json.loads(next(line for line in out.splitlines() if line.startswith("{")))["run_id"]
    runs = {run.info.run_id: run for run in MlflowClient().search_runs(["0"])}
    assert runs.pop(parent).data.tags["seeds"] == "2"
    assert sorted(run.data.tags["seed"] for run in runs.values()) == ["1", "2"]
    assert {run.data.tags["processes"] for run in runs.values()} == {"2"}


def test_what_the_first_one_refuses_is_told_once(store: Path, pictures: Path) -> None:
    """There is no search, so there are no rates: the others leave without a word."""
    words = ["-m", "alexnet_mlflow", "final", f"--dataset={pictures}", "--device=cpu"]
    code, _, said = ended(torchrun(2, words, store))
    told = re.findall("^Error: .*", said, re.MULTILINE)
    assert code != 0 and len(told) == 1 and "there is no finished search of" in told[0]


def test_what_torchrun_is_not_for_is_told(store: Path, pictures: Path) -> None:
    words = ["-m", "alexnet_mlflow", "sanity", f"--dataset={pictures}", "--device=cpu"]
    code, _, said = ended(torchrun(2, words, store))
    assert code != 0 and "Error: torchrun is for final: start sanity without it" in said
    assert MlflowClient().search_runs(["0"]) == []


def test_a_process_that_is_lost_is_told(store: Path, pictures: Path) -> None:
    """The first one ends too, without a traceback of its own."""
    running = final(pictures, store, "--epochs=500")
    client, until = MlflowClient(), time.monotonic() + PATIENCE_SECONDS
    while not any("train_loss" in run.data.metrics for run in client.search_runs(["0"])):
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.05)
    other = [pid for pid in children_of(running.pid) if rank_of(pid) == "1"]
    os.kill(other[0], signal.SIGKILL)
    _, _, said = ended(running)
    # It sees the closed connection, or torchrun's SIGTERM, whichever comes first.
    told = "Error: another process of this training has ended: see what it said"
    assert told in said or "exitcode  : 143" in said
    assert "[rank0]: Traceback" not in said  # torchrun's own stands there without the mark
    (run,) = client.search_runs(["0"])
    assert run.info.status in ("FAILED", "KILLED")


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> str:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(part.partition("=")[::2] for part in text.split("\0"))["RANK"]


def test_processes_on_several_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4",
                        "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.started() == distributed.Place(1, 4)
    assert distributed.place() == distributed.Place()  # it has joined nobody yet
    with pytest.raises(BadInput, match="on several machines.*--nnodes=1"), \
            distributed.joined(torch.device("cpu")):
        raise AssertionError("it must not be entered")
