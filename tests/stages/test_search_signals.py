"""A search that a signal stops: its runs are closed, nothing holds its trials, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from alexnet_mlflow import checkpoint, cli, process
from tests.killed import started
from tests.processes import children
from tests.stages.test_search import words

pytestmark = pytest.mark.usefixtures("narrow")

EPOCHS = 12
SECONDS = 5
SECONDS_OF_WORKERS = 10  # they are told when the leader's own trial is closed
SAID = Path("said")


@contextmanager
def begun(pictures: Path, **changes: object) -> Iterator[BaseProcess]:
    """The program, forked from a process that has imported everything, as long as the block lasts.
    """
    command = words("", pictures, prune="off", lr_low=1e-5, lr_high=1e-4, **changes)
    search = started(_program, command[2:])
    try:
        yield search
    finally:
        search.kill()
        search.join()


def _program(arguments: list[str]) -> None:
    with open(SAID, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ["MLFLOW_TRACKING_URI"] = mlflow.get_tracking_uri()  # its workers' too
    sys.argv = arguments
    cli.script()


def runs_of(stage: str) -> list[Run]:
    return list(MlflowClient().search_runs(["0"], f"tags.stage = '{stage}'"))


def steps_of(run: Run, metric: str = "train_loss") -> list[int]:
    return [at.step for at in MlflowClient().get_metric_history(run.info.run_id, metric)]


def await_epochs(search: BaseProcess, trials: int) -> None:
    """Until so many trials are between two of their epochs."""
    end = time.monotonic() + 120
    while sum(len(steps_of(run)) > 1 for run in runs_of("trial")) < trials:
        assert search.is_alive() and time.monotonic() < end, SAID.read_text()
        time.sleep(0.02)


def stopped(search: BaseProcess, number: int) -> float:
    """Seconds that it takes after the signal; all is closed then."""
    assert search.pid
    came = time.monotonic()
    os.kill(search.pid, number)
    search.join(60)
    seconds = time.monotonic() - came
    assert search.exitcode == 128 + number and "Traceback" not in SAID.read_text(), SAID.read_text()
    statuses = [run.info.status for stage in ("search", "trial") for run in runs_of(stage)]
    assert set(statuses) == {"KILLED"}
    with sqlite3.connect("optuna.db") as database:
        held = [row for row in database.execute("SELECT * FROM trials WHERE state = 'RUNNING'")]
    database.close()
    assert not held, "the study has a trial that nobody trains"
    return seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_search_that_a_signal_stops_goes_on_where_it_was(
    store: Path, pictures: Path, checked: None, number: signal.Signals
) -> None:
    with begun(pictures, trials=1, epochs=EPOCHS) as search:
        await_epochs(search, 1)
        assert stopped(search, number) < SECONDS
    [parent], [trial] = runs_of("search"), runs_of("trial")
    path = checkpoint.path_of(trial.info.run_id)
    assert checkpoint.load(path)["training"]["epoch"] == steps_of(trial)[-1] < EPOCHS
    with begun(pictures, trials=1, epochs=EPOCHS) as search:
        search.join(120)
    assert search.exitcode in (0, 1), SAID.read_text()
    assert json.loads(SAID.read_text().splitlines()[-1])["run_id"] == parent.info.run_id
    [found], trials = runs_of("search"), runs_of("trial")
    assert found.info.run_id == parent.info.run_id and found.info.end_time
    assert len(trials) == 2 and trial.info.run_id in {run.info.run_id for run in trials}
    for run in trials:
        assert run.info.status == "FINISHED" and steps_of(run) == list(range(1, EPOCHS + 1))
        for metric in run.data.metrics:
            assert len(steps_of(run, metric)) == len(set(steps_of(run, metric))), metric
    assert not path.exists(), "a checkpoint stays"


def test_the_workers_of_a_search_that_a_signal_stops_end_with_it(
    store: Path, pictures: Path, checked: None
) -> None:
    with begun(pictures, trials=2, epochs=1000, workers=2) as search:
        await_epochs(search, 2)
        workers = children(search.pid)
        came = time.monotonic()
        try:
            stopped(search, signal.SIGTERM)
            left = [pid for pid in workers if process.started(pid)]
            assert len(workers) == 1 and not left
            assert time.monotonic() - came < SECONDS_OF_WORKERS
        finally:
            for pid in filter(process.started, workers):
                os.kill(pid, signal.SIGKILL)


def test_a_second_signal_leaves_no_worker(store: Path, pictures: Path, checked: None) -> None:
    with begun(pictures, trials=2, epochs=1000, workers=2) as search:
        await_epochs(search, 2)
        [worker] = children(search.pid)
        assert search.pid
        for _ in range(2):
            os.kill(search.pid, signal.SIGTERM)
            time.sleep(0.3)
        search.join(5)
        assert search.exitcode == 143
        end = time.monotonic() + SECONDS_OF_WORKERS
        while process.started(worker) and time.monotonic() < end:
            time.sleep(0.1)
        try:
            assert not process.started(worker), "it trains on, for nobody"
        finally:
            if process.started(worker):
                os.kill(worker, signal.SIGKILL)
