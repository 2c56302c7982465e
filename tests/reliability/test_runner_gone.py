"""`mlflow run` that is stopped: what it has started stops too, as by a signal of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint, process, runner
from tests.processes import children
from tests.test_entry_points import ROOT

SECONDS = 5 + runner.LOOK_SECONDS


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [(signal.SIGTERM, False, -signal.SIGTERM), (signal.SIGKILL, False, -signal.SIGKILL),
     (signal.SIGINT, True, 1)],
    ids=["SIGTERM", "SIGKILL", "Ctrl-C"],
)
def test_a_training_leaves_with_its_runner(
    store: Path, pictures: Path, number: signal.Signals, to_all: bool, code: int
) -> None:
    """A terminal sends Ctrl-C to all processes of the command; MLflow sends SIGTERM after it, and
    at last says FAILED over what the training has said (3.17: it looks for the status's name among
    numbers).
    """
    note_ends(store)
    values = {
        "dataset": pictures, "optimizer": "adam", "lr": "1e-4", "weight_decay": "0",
        "epochs": "40", "batch_size": "8", "device": "cpu",
    }
    given = [word for name, text in values.items() for word in ("-P", f"{name}={text}")]
    program = Path(sys.executable).parent
    command = [program / "mlflow", "run", ROOT, "--env-manager=local", "-e", "final", *given]
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "PATH": f"{program}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        [str(word) for word in command], cwd=store, env=environment, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "epoch 3/40" in line:
                break
        [training] = children(running.pid)
        time.sleep(0.2)  # within the fourth: the third is logged after its line
        came = time.monotonic()
        os.killpg(running.pid, number) if to_all else running.send_signal(number)
        while process.started(training):
            assert time.monotonic() - came < SECONDS
            time.sleep(0.02)
        rest = running.stderr.read()
        assert running.wait(30) == code, rest
    assert "Traceback" not in rest
    client = MlflowClient()
    [run] = client.search_runs(["0"])
    logged = [at.step for at in client.get_metric_history(run.info.run_id, "val_loss")]
    path = checkpoint.path_of(run.info.run_id, ROOT / checkpoint.FOLDER)
    try:
        assert checkpoint.load(path)["training"]["epoch"] == logged[-1] >= 3
    finally:
        checkpoint.remove(path)
    ends = ends_of(store)
    assert ends[0] == "KILLED" and ends[1:] in ([], ["FAILED"] if to_all else [])


def note_ends(store: Path) -> None:
    """From now on the store keeps every status with which a run is ended."""
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("CREATE TABLE ends (status)")
        database.execute(
            "CREATE TRIGGER note AFTER UPDATE ON runs WHEN NEW.status <> 'RUNNING' AND "
            "NEW.status <> OLD.status BEGIN INSERT INTO ends VALUES (NEW.status); END"
        )
    database.close()


def ends_of(store: Path) -> list[str]:
    with sqlite3.connect(store / "mlflow.db") as database:
        found = [status for [status] in database.execute("SELECT status FROM ends")]
    database.close()
    return found
