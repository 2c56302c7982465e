"""Registered models: numbers, aliases and who may move them (promotions: stages/test_sync)."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from alexnet_mlflow.sync import runs, versions
from alexnet_mlflow.sync.runs import Task
from alexnet_mlflow.sync.stores import opened
from tests.sync.test_runs import task

__all__ = ["task"]  # the fixture
NAME = "alexnet-x"


def copied(task: Task, dry_run: bool = False) -> Task:
    with opened(task.source.uri, task.target.uri, dry_run) as (source, target):
        now = Task(source, target, dry_run)
        for pair in runs.experiments(now):
            runs.begin(now, pair)
        versions.copy(now)
    return now


def version(client: MlflowClient, source: str = "s3://bucket/model", **more: str) -> str:
    """A version of files that lie elsewhere: its number."""
    return str(client.create_model_version(NAME, source, **more).version)


def aliases(task: Task) -> dict[str, str]:
    found = task.target.client.get_registered_model(NAME).aliases
    return {alias: str(number) for alias, number in found.items()}


def test_numbers_are_translated_where_the_target_has_versions_of_its_own(task: Task) -> None:
    source, target = MlflowClient(), task.target.client
    for client in (source, target):
        client.create_registered_model(NAME, description="of " + client.tracking_uri)
    version(target)
    for _ in range(3):
        version(source, description="mine")
    source.set_model_version_tag(NAME, "1", "succeeds", "3")
    source.set_registered_model_alias(NAME, "challenger", "3")
    source.set_registered_model_tag(NAME, "promoting.1", "ticket")
    source.set_registered_model_tag(NAME, "owner", "me")
    planned = copied(task, dry_run=True)
    assert planned.copied["versions"] == 3 and len(task.target.versions(NAME)) == 1
    assert copied(task).copied == {"versions": 3, "aliases": 1}
    found = task.target.versions(NAME)
    assert [one.description for one in found] == [None, "mine", "mine", "mine"]
    assert found[1].tags["succeeds"] == "4" and aliases(task) == {"challenger": "4"}
    registered = target.get_registered_model(NAME)
    assert registered.tags["owner"] == "me" and "promoting.1" not in registered.tags
    assert registered.description == "of " + target.tracking_uri
    assert copied(task).copied == {}


def test_an_alias_follows_the_source_until_the_target_moves_it(task: Task) -> None:
    source, target = MlflowClient(), task.target.client
    source.create_registered_model(NAME)
    for _ in range(3):
        version(source)
    source.set_registered_model_alias(NAME, "champion", "1")
    source.set_registered_model_alias(NAME, "challenger", "2")
    copied(task)
    assert aliases(task) == {"champion": "1", "challenger": "2"}
    source.set_registered_model_alias(NAME, "champion", "2")
    source.delete_registered_model_alias(NAME, "challenger")
    copied(task)
    assert aliases(task) == {"champion": "2"}
    target.set_registered_model_alias(NAME, "champion", "3")
    source.set_registered_model_alias(NAME, "champion", "1")
    version(source)
    done = copied(task)
    assert aliases(task) == {"champion": "3"}
    assert done.notes == [
        "Alias champion of alexnet-x stays with version 3 in the target; the source's is version 1 "
        "there. `promote` in the target decides."
    ]
    target.delete_registered_model_alias(NAME, "champion")
    copied(task)
    assert aliases(task) == {}


def test_tags_that_changed_follow_and_a_rollback_takes_succeeds_away(task: Task) -> None:
    source = MlflowClient()
    source.create_registered_model(NAME)
    for _ in range(2):
        version(source)
    source.set_model_version_tag(NAME, "2", "succeeds", "1")
    copied(task)
    task.target.client.set_model_version_tag(NAME, "2", "own", "kept")
    source.delete_model_version_tag(NAME, "2", "succeeds")
    source.update_model_version(NAME, "2", "rolled back")
    assert copied(task).updated == {"versions": 1}
    [_, second] = task.target.versions(NAME)
    assert "succeeds" not in second.tags and second.tags["own"] == "kept"
    assert second.description == "rolled back"


@pytest.mark.parametrize("where", ["artifacts", "runs:/"])
def test_a_version_of_a_runs_files_is_one_of_its_copys(task: Task, where: str) -> None:
    source = MlflowClient()
    run = source.create_run("0")
    source.create_registered_model(NAME)
    base = run.info.artifact_uri if where == "artifacts" else f"runs:/{run.info.run_id}"
    version(source, f"{base}/model", run_id=run.info.run_id)
    copied(task)
    [made] = task.target.versions(NAME)
    [copy] = task.target.runs("0")
    base = copy.info.artifact_uri if where == "artifacts" else f"runs:/{copy.info.run_id}"
    assert made.source == f"{base}/model" and made.run_id == copy.info.run_id


def test_a_version_whose_run_is_deleted_is_left_out_and_told(task: Task) -> None:
    source = MlflowClient()
    run = source.create_run("0")
    source.create_registered_model(NAME)
    version(source, f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    version(source)
    source.set_registered_model_alias(NAME, "champion", "1")
    source.delete_run(run.info.run_id)
    done = copied(task)
    assert done.notes == ["Version 1 of alexnet-x is left out: its model is deleted."]
    assert done.copied["versions"] == 1 and aliases(task) == {}
    assert len(task.target.versions(NAME)) == 1
