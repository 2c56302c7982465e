"""`mlflow run` that is stopped: what it has started stops too, as by a signal of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint, runner
from tests.test_entry_points import ROOT

SECONDS = 5 + runner.LOOK_SECONDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_leaves_with_its_runner(
    store: Path, pictures: Path, number: signal.Signals
) -> None:
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
        text=True,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "epoch 3/40" in line:
                break
        came = time.monotonic()
        running.send_signal(number)
        assert running.wait(5) == -number
        rest = running.stderr.read()  # until the training has left
        assert time.monotonic() - came < SECONDS, rest
    assert "Traceback" not in rest
    client = MlflowClient()
    [run] = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    logged = [at.step for at in client.get_metric_history(run.info.run_id, "val_loss")]
    path = checkpoint.path_of(run.info.run_id, ROOT / checkpoint.FOLDER)
    try:
        assert checkpoint.load(path)["training"]["epoch"] == logged[-1] >= 3
    finally:
        checkpoint.remove(path)
