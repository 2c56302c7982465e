"""A search that is killed by -9 again and again ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.stages.test_search import rows_of

KILLS = int(os.environ.get("ALEXNET_KILLS", "4"))
SEARCH = """
import sys
from alexnet_mlflow import checkpoint, cli
checkpoint.SECONDS_BETWEEN = 0  # after every epoch
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(
    "ALEXNET_SLOW" not in os.environ, reason="ALEXNET_SLOW is not set: kills a search many times"
)
@pytest.mark.parametrize("prune", ["halving"])
def test_the_table_of_a_killed_search_is_the_same(
    prune: str, store: Path, pictures: Path, tmp_path: Path, checked: None
) -> None:
    words = [
        "search", f"--dataset={pictures}", "--batch-size=8", "--trials=3", "--fine-trials=2",
        "--epochs=3", "--repeats=1", "--optimizer=adam", "--lr-low=1e-5", "--lr-high=1e-3",
        "--seed=5", f"--prune={prune}", "--device=cpu", "--force",
    ]
    command = [sys.executable, "-c", SEARCH, *words]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    whole = {**environment, "ALEXNET_STORAGE": f"sqlite:///{tmp_path}/whole.db"}
    started = time.monotonic()
    done = subprocess.run(command, env=whole, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    took = time.monotonic() - started
    chance, kills, within = random.Random(1), 0, 0
    while kills < KILLS:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            try:  # a search that has ended is followed by another
                assert running.wait(chance.uniform(0.1, 0.7) * took) == 0
            except subprocess.TimeoutExpired:
                running.kill()
                kills += 1
        within += bool(list(Path("checkpoints").glob("*/last.pt")))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert within or KILLS < 3, "no kill came within a trial"

    client = MlflowClient()
    first, *others = client.search_runs(
        ["0"], "tags.stage = 'search'", order_by=["attributes.start_time ASC"]
    )
    assert others, "nothing was searched"
    for other in others:
        assert other.info.status == "FINISHED", "a killed search has left a second parent"
        same_table(client, first, other)
        same_trials(client, other)
    assert not list(Path("checkpoints").glob("*/last.pt")), "a checkpoint stays"


def same_table(client: MlflowClient, first: Run, second: Run) -> None:
    tables = [
        [{key: text for key, text in row.items() if key not in ("seconds", "run_id")}
         for row in rows_of(client, run.info.run_id)]
        for run in (first, second)
    ]
    assert tables[0] == tables[1]
    assert first.data.params["best_lr"] == second.data.params["best_lr"]


def same_trials(client: MlflowClient, parent: Run) -> None:
    """Every slot has one run, which is finished and has every epoch once."""
    trials = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    slots = [run.data.tags["slot"] for run in trials]
    assert sorted(slots) == sorted(set(slots)), "a trial has two runs"
    assert len(slots) == len(rows_of(client, parent.info.run_id))
    for run in trials:
        assert run.info.status == "FINISHED", run.data.tags["slot"]
        told = client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in told] == sorted({point.step for point in told})
