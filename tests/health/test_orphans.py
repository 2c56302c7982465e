"""Runs left RUNNING: whose process is gone, whose lives, and of whom nothing is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from alexnet_mlflow import alive
from alexnet_mlflow.health import orphans
from alexnet_mlflow.health.orphans import CLOSED, HOUR, Orphan
from alexnet_mlflow.runs import PROCESS, SYNCED_FROM
from alexnet_mlflow.track import connect

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, time
from mlflow import MlflowClient
from alexnet_mlflow.track import connect
with connect().child("parent", {"stage": "search"}) as parent:
    parent.metrics({"loss": 1.0}, 1)
    while not MlflowClient().get_metric_history(parent.run_id, "loss"):
        time.sleep(0.01)  # it is on its way from the journal
    with parent.child("trial", {"stage": "trial"}):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed() -> None:
    """A process that had two runs open, and was killed."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{Path.cwd()}/mlflow.db"}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment)
    assert done.returncode == -signal.SIGKILL


def running(name: str, hours: float = 0.0, **tags: str) -> str:
    """A run that stands as RUNNING, whose last sign is so old."""
    begun = int(time.time() * 1000 - hours * HOUR)
    run = MlflowClient().create_run("0", begun, {"stage": "final", **tags}, run_name=name)
    return str(run.info.run_id)


def elsewhere() -> str:
    return json.dumps({**json.loads(alive.myself()), "host": "another"})


def found(older_than: float = 0.0) -> dict[str, Orphan]:
    return {one.name: one for one in orphans.left_open(older_than)}


def test_a_killed_process_leaves_runs_that_are_named_and_closed(store: Path) -> None:
    killed()
    client = MlflowClient()
    before = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert {run.info.status for run in before.values()} == {"RUNNING"}
    left = found()
    assert set(left) == {"parent", "trial"} and all(one.close for one in left.values())
    pid = json.loads(before["trial"].data.tags[PROCESS])["pid"]
    assert left["trial"].why == f"its process ({pid} on {os.uname().nodename}) has ended"
    assert all(orphans.close(one) for one in left.values())
    for run in client.search_runs(["0"]):
        assert run.info.status == "FAILED" and run.data.tags["outcome"] == "failed"
        assert "has ended" in run.data.tags[CLOSED]
        assert run.info.end_time == left[run.info.run_name].last_sign_ms
    trial, parent = before["trial"], before["parent"]
    [metric] = client.get_metric_history(parent.info.run_id, "loss")
    assert left["trial"].last_sign_ms == trial.info.start_time
    assert left["parent"].last_sign_ms == max(metric.timestamp, trial.info.start_time)
    assert found() == {}


def test_a_living_process_keeps_its_runs(store: Path) -> None:
    with connect().child("mine", {"stage": "final"}):
        assert found() == {} and found(older_than=1e-9) == {}


def test_a_closed_run_can_be_gone_on_with(store: Path) -> None:
    killed()
    trial = found()["trial"]
    assert orphans.close(trial)
    with connect().child("trial", {"stage": "trial"}, trial.run_id) as here:
        assert here.run_id == trial.run_id and "trial" not in found()
    assert MlflowClient().get_run(trial.run_id).info.status == "FINISHED"


def test_a_run_that_somebody_took_up_meanwhile_is_left_alone(store: Path) -> None:
    killed()
    trial = found()["trial"]
    with connect().child("trial", {"stage": "trial"}, trial.run_id):
        assert not orphans.close(trial)
        assert MlflowClient().get_run(trial.run_id).info.status == "RUNNING"
    assert not orphans.close(trial), "it has ended by itself"
    assert MlflowClient().get_run(trial.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("process", [None, "nonsense", "elsewhere"])
def test_of_other_machines_runs_nothing_is_known(store: Path, process: str | None) -> None:
    tags = {} if process is None else {PROCESS: elsewhere() if process == "elsewhere" else process}
    running("far", hours=30, **tags)
    assert not found()["far"].close and "nothing is known" in found()["far"].why
    assert "30.0 hours" in found()["far"].why
    assert not found(older_than=31)["far"].close
    assert found(older_than=29)["far"].close


def test_a_sign_is_a_metric_or_a_child(store: Path) -> None:
    client = MlflowClient()
    run_id = running("far", hours=30)
    hour_ago = int(time.time() * 1000 - HOUR)
    client.log_batch(run_id, metrics=[Metric("loss", 1.0, hour_ago, 1)])
    assert not found(older_than=2)["far"].close and found(older_than=0.5)["far"].close
    client.create_run("0", tags={"mlflow.parentRunId": run_id, "stage": "trial"})
    assert not found(older_than=0.5)["far"].close


def test_a_copy_is_its_originals_to_close(store: Path) -> None:
    killed()
    dead = found()["trial"].process
    running("copy", hours=99, **{PROCESS: dead, SYNCED_FROM: "0" * 32})
    for hours in (0, 1):
        assert not found(hours)["copy"].close and "sync" in found(hours)["copy"].why


def test_other_peoples_runs_are_none_of_ours(store: Path) -> None:
    MlflowClient().create_run("0", 0, run_name="theirs")
    other = MlflowClient().create_experiment("other")
    MlflowClient().create_run(other, 0, {"stage": "final"}, run_name="ours")
    assert set(found(1)) == {"ours"}


def test_a_run_that_mlflow_run_has_begun_and_no_stage_taken_up(store: Path) -> None:
    """It says nothing of its process: it is named, and closed when it gives no sign for long."""
    client = MlflowClient()
    begun = int(time.time() * 1000 - 30 * HOUR)
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    theirs = {"theirs": ("main", ("dataset", "optimizer"))}
    ours = {name: (name, entry["parameters"]) for name, entry in entries.items()}
    for name, (entry, given) in (ours | theirs).items():
        run = client.create_run("0", begun, {orphans.ENTRY_POINT: entry}, run_name=name)
        client.log_batch(run.info.run_id, params=[Param(one, "x") for one in given])
    assert set(found()) == set(ours) and "promote" in ours
    assert found()["final"].stage == "final" and "`mlflow run`" in found()["main"].why
    assert not found()["main"].close and found(older_than=29)["main"].close
    assert orphans.close(found(older_than=29)["main"]) and "main" not in found()
