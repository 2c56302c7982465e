"""Logged models: their run, figures and state (with files and kills in stages/test_sync)."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Metric

from alexnet_mlflow.progress import Copying
from alexnet_mlflow.sync import models, runs
from alexnet_mlflow.sync.runs import Task
from tests.sync.test_runs import task

__all__ = ["task"]  # the fixture


def copied(task: Task) -> list[object]:
    task = Task(task.source, task.target, dry_run=False)
    for pair in runs.experiments(task):
        runs.begin(task, pair)
        with Copying(0, "model") as bar:
            models.copy(task, pair, bar)
    return [task.copied["logged models"], task.updated["logged models"]]


def test_a_model_that_gets_ready_and_is_measured_again(task: Task) -> None:
    client = MlflowClient()
    final, evaluation = (client.create_run("0", run_name=name).info.run_id for name in "fe")
    model = client.create_logged_model("0", "net", final, {"kind": "a"}, {"depth": "8"}, "cnn")
    assert copied(task) == [1, 0]
    [copy] = task.target.models("0")
    assert str(copy.status) == "PENDING" and copy.model_type == "cnn"
    assert copy.params["depth"] == "8"
    new = {run.info.run_name: run.info.run_id for run in task.target.runs("0")}
    assert copy.source_run_id == new["f"] and copy.tags["kind"] == "a"
    client.finalize_logged_model(model.model_id, "READY")
    for step in (1, 2):
        link = (model.model_id, "pictures", "abc", evaluation)
        client.log_batch(evaluation, metrics=[Metric("accuracy", 0.5 * step, 9, step, *link)])
        assert copied(task) == [0, 1]
    assert copied(task) == [0, 0]
    [copy] = task.target.models("0")
    assert str(copy.status) == "READY"
    points = sorted((one.step, one.value, one.run_id, one.dataset_digest) for one in copy.metrics)
    assert points == [(1, 0.5, new["e"], "abc"), (2, 1.0, new["e"], "abc")]
    history = task.target.client.get_metric_history(new["e"], "accuracy")
    assert [one.step for one in history] == [1, 2]


def test_a_model_without_its_run_is_copied_all_the_same(task: Task) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    client.create_logged_model("0", "net", run_id)
    gone = client.create_logged_model("0", "gone", run_id)
    client.delete_logged_model(gone.model_id)
    client.delete_run(run_id)
    assert copied(task) == [1, 0]
    [copy] = task.target.models("0")
    assert copy.name == "net" and not copy.source_run_id
