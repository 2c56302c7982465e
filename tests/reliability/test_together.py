"""Several at once, a store that somebody else holds, a clock that jumps."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import track
from alexnet_mlflow.config import FinalConfig
from alexnet_mlflow.stages import final
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult, fit

LOCKED_SECONDS = 30
STEPS_METRICS = ("train_loss", "val_accuracy", "learning_rate")


def settings(pictures: Path, **changes: object) -> FinalConfig:
    values: dict[str, object] = {
        "dataset": str(pictures), "optimizer": "adam", "lr": 1e-4, "weight_decay": 1e-4,
        "epochs": 3, "batch_size": 8, "device": "cpu", **changes,
    }
    return FinalConfig(**values)  # type: ignore[arg-type]


def steps(run_id: str | None, metric: str) -> list[int]:
    return [point.step for point in MlflowClient().get_metric_history(str(run_id), metric)]


@contextmanager
def locked(database: Path, seconds: float) -> Iterator[None]:
    """Somebody else has the only right to write, and lets go after so many seconds."""
    began = threading.Event()

    def hold() -> None:
        with sqlite3.connect(database) as other:
            other.execute("BEGIN EXCLUSIVE")
            began.set()
            time.sleep(seconds)
            other.rollback()

    thread = threading.Thread(target=hold)
    thread.start()
    began.wait()
    yield
    thread.join()


def test_a_store_that_somebody_locks_for_half_a_minute_loses_nothing(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first epoch on; each metric arrives once."""
    shown, waiting = final.shown, [True]

    def watched(*arguments: object) -> Iterator[object]:
        for number, result in enumerate(shown(*arguments)):  # type: ignore[arg-type]
            if number == 1 and waiting.pop():
                holding.append(locked(store / "mlflow.db", LOCKED_SECONDS))
                holding[0].__enter__()
            yield result

    holding: list[object] = []
    monkeypatch.setattr(final, "shown", watched)
    result = final.run(settings(pictures), connect())
    assert holding, "nobody locked it"
    holding[0].__exit__(None, None, None)  # type: ignore[attr-defined]
    assert MlflowClient().get_run(str(result.run_id)).info.status == "FINISHED"
    for name in STEPS_METRICS:
        assert steps(result.run_id, name) == [1, 2, 3], name


def test_a_clock_that_jumps_back_an_hour_does_not_reorder_metrics(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the second epoch and the third: their times go on, the rest of the run too."""
    real, done = time.time, list[int]()

    def counted(*given: object) -> Iterator[EpochResult]:
        for epoch in fit(*given):  # type: ignore[arg-type]
            done.append(epoch.epoch)
            yield epoch

    monkeypatch.setattr(final, "fit", counted)
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * (len(done) > 2))
    result = final.run(settings(pictures, epochs=5), connect())
    assert real() - time.time() > 3000, "the clock did not jump"
    run = MlflowClient().get_run(str(result.run_id))
    for name in STEPS_METRICS:
        history = MlflowClient().get_metric_history(str(result.run_id), name)
        assert [point.step for point in history] == [1, 2, 3, 4, 5], name
        assert run.data.metrics[name] == history[-1].value, name
    assert run.info.status == "FINISHED"


def test_a_clock_that_jumps_back_between_two_processes_does_not_either(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect().child("x", {"stage": "final"}) as run:
        for epoch in (1, 2):
            run.metrics({"loss": 1 / epoch}, epoch)
    real = time.time
    monkeypatch.setattr(track, "_last_ms", 0)  # as in a new process
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    with connect().child("x", {"stage": "final"}, run.run_id) as again:
        again.metrics({"loss": 0.1}, 3)
    assert steps(run.run_id, "loss") == [1, 2, 3]
    ended = MlflowClient().get_run(str(run.run_id))
    assert ended.data.metrics["loss"] == 0.1 and ended.info.end_time > ended.info.start_time


def test_two_demos_in_one_folder(store: Path) -> None:
    """Both end well, each with runs of its own, and one of the models is champion."""
    command = [
        sys.executable, "-m", "alexnet_mlflow", "babysit", "--dataset=faces", "--limit=60",
        "--optimizer=adam", "--trials=2", "--fine-trials=1", "--repeats=0", "--search-epochs=2",
        "--epochs=2", "--batch-size=16", "--force", "--lr-low=1e-4", "--lr-high=1e-3",
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    both = [
        subprocess.Popen(command, cwd=store, env=environment, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=500) for process in both]
    codes = [process.returncode for process in both]
    assert set(codes) <= {0, 1}, told  # 1: a gate said no to a network of two epochs
    assert all("Traceback" not in errors for _, errors in told), told
    client = MlflowClient()
    runs = client.search_runs(["0"], "tags.stage = 'final'")
    assert runs and all(run.info.status != "RUNNING" for run in runs)
    for run in runs:
        assert steps(run.info.run_id, "train_loss") == [1, 2], run.info.run_id
    assert len(runs) == 2 and {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    versions = client.search_model_versions("name = 'alexnet-faces'")
    assert versions and len({version.run_id for version in versions}) == len(versions)
    champion = client.get_model_version_by_alias("alexnet-faces", "champion")
    assert champion.version in {version.version for version in versions}
