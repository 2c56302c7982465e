"""Runs: what is sent when, and in which order (the whole in stages/test_sync)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import Copying
from alexnet_mlflow.sync import runs
from alexnet_mlflow.sync.runs import Task
from alexnet_mlflow.sync.stores import Store
from tests.stores import made


@pytest.fixture
def task(store: Path, empty_store: Path) -> Task:
    """From the store that is set into an empty one."""
    source, target = mlflow.get_tracking_uri(), made(empty_store, store / "target")
    ends = [Store(name, uri, uri, MlflowClient(uri, uri)) for name, uri in
            (("--from", source), ("--to", target))]
    return Task(*ends, dry_run=False)


def copied(task: Task) -> list[Any]:
    """Copy the runs of Default; what the target has then."""
    for pair in runs.experiments(task):
        runs.begin(task, pair)
        with Copying(0, "run") as bar:
            runs.fill(task, pair, bar)
    return list(task.target.runs("0"))


def test_metrics_go_a_thousand_a_request_and_texts_fifty(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    for key in ("a", "b"):
        points = [Metric(key, 1.0, 1, step) for step in range(750)]
        client.log_batch(run_id, metrics=points)
    for number in range(60):
        client.log_param(run_id, f"p{number}", "é" * 3000)
    sent, log = [], MlflowClient.log_batch

    def counted(self: MlflowClient, run: str, **entries: Any) -> None:
        sent.extend((name, len(some)) for name, some in entries.items())
        log(self, run, **entries)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    [copy] = copied(task)
    assert sent == [("params", 50), ("params", 10), ("metrics", 1000), ("metrics", 500)]
    assert len(copy.data.params) == 60 and set(copy.data.metrics) == {"a", "b"}
    client.log_metric(run_id, "a", 2.0, 1, 750)
    sent.clear()
    copied(Task(task.source, task.target, dry_run=False))
    assert sent == [("metrics", 1)], "what is there was sent again"


def test_a_run_is_finished_last_and_its_digest_after_that(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    run_id = client.create_run("0", start_time=5, run_name="one").info.run_id
    client.log_text(run_id, "x", "a.txt")
    client.set_terminated(run_id, "KILLED", 77)
    ended = MlflowClient.set_terminated

    def looked(self: MlflowClient, run: str, status: str, end: int) -> None:
        found = self.get_run(run)
        assert found.info.status == "RUNNING" and "synced_state" not in found.data.tags
        assert Path(found.info.artifact_uri, "a.txt").is_file()
        ended(self, run, status, end)

    monkeypatch.setattr(MlflowClient, "set_terminated", looked)
    [copy] = copied(task)
    assert (copy.info.status, copy.info.start_time, copy.info.end_time) == ("KILLED", 5, 77)
    assert copy.info.run_name == "one" and "synced_state" in copy.data.tags
    client.update_run(run_id, "RUNNING", "another")  # resumed
    [copy] = copied(Task(task.source, task.target, dry_run=False))
    assert (copy.info.status, copy.info.run_name) == ("RUNNING", "another")


def test_a_name_that_is_missing_is_made_with_its_tags(task: Task) -> None:
    client = MlflowClient()
    client.create_experiment("new", tags={"a": "1"})
    client.set_experiment_tag("0", "b", "source")
    task.target.client.set_experiment_tag("0", "b", "target")
    for _ in range(2):
        runs.experiments(task)
    found = {one.name: one.tags for one in task.target.experiments()}
    assert found["new"]["a"] == "1" and found["Default"]["b"] == "target" and len(found) == 2


def test_a_deleted_experiment_stops_it_before_anything_is_made(task: Task) -> None:
    for name in ("first", "gone", "last"):
        MlflowClient().create_experiment(name)
    number = task.target.client.create_experiment("gone")
    task.target.client.delete_experiment(number)
    with pytest.raises(BadInput, match="experiment 'gone' is deleted"):
        runs.experiments(task)
    assert [one.name for one in task.target.experiments()] == ["Default"]
