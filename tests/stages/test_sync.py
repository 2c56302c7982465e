"""A store copied into another: all of it, once, whatever it is broken off by."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from alexnet_mlflow.cli import main
from alexnet_mlflow.config import PromoteConfig
from alexnet_mlflow.stages import promote
from alexnet_mlflow.sync import files
from alexnet_mlflow.track import connect
from tests.evaluations import evaluated, predictions
from tests.stores import contents, dump, furnish, made, server

WRITES = (
    "create_experiment", "create_run", "log_batch", "log_inputs", "log_outputs", "update_run",
    "set_terminated", "set_tag", "create_logged_model", "finalize_logged_model",
    "set_logged_model_tags", "create_registered_model", "create_model_version",
    "set_model_version_tag", "update_model_version", "set_registered_model_alias",
    "set_registered_model_tag",
)

PRELOADED = [
    "tests.stages.test_sync", "alembic.script", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.db.utils",
]


@pytest.fixture(scope="module")
def full(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A furnished store that tests only read: its address."""
    folder = tmp_path_factory.mktemp("full")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.set_tracking_uri(uri := made(empty_store, folder))
        furnish()
        mlflow.set_tracking_uri(before)
    yield uri


@pytest.fixture(scope="module")
def listed(full: str) -> dict[str, Any]:
    """What it holds."""
    return contents(full)


@pytest.fixture
def target(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store, and the folder that it lies in as the current one."""
    monkeypatch.chdir(tmp_path)
    return made(empty_store, tmp_path / "target")


def synced(
    source: str, target: str, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    """What the last line of standard output says."""
    capsys.readouterr()
    assert main(["sync", f"--from={source}", f"--to={target}", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_everything_is_copied_and_a_second_time_nothing(
    full: str, listed: dict[str, Any], target: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = dump(tmp_path / "target")
    before = dump(Path(full.removeprefix("sqlite:///")).parent)
    planned = synced(full, target, capsys, "--dry-run")
    assert dump(tmp_path / "target") == empty and not (tmp_path / "target" / "mlruns").exists()
    said = synced(full, target, capsys)
    assert contents(target) == listed
    assert [len(listed[f"runs of {name}"]) for name in ("Default", "other")] == [12, 0]
    for kind, count in (("runs", 12), ("logged_models", 3), ("versions", 3), ("experiments", 1)):
        assert said["copied"][kind] == planned["copied"][kind] == count
    assert said["copied"]["aliases"] == 2 and said["updated"] == {}
    after = dump(tmp_path / "target")
    again = synced(full, target, capsys)
    assert again["copied"] == again["updated"] == {} and again["there"]["runs"] == 12
    assert dump(tmp_path / "target") == after
    assert dump(Path(full.removeprefix("sqlite:///")).parent) == before, "the source was changed"


def test_ids_are_the_targets_own(
    full: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    synced(full, target, capsys)
    old, new = MlflowClient(full, full), MlflowClient(target, target)
    [search] = new.search_runs(["0"], "tags.stage = 'search'")
    [trial] = new.search_runs(["0"], "tags.stage = 'trial'")
    assert search.data.tags["best_trial"] == trial.info.run_id
    assert trial.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert trial.data.tags["beside"] == f"{search.info.run_id},{trial.info.run_id}"
    assert old.get_run(trial.data.tags["synced_from"]).data.tags["stage"] == "trial"
    version = new.get_model_version_by_alias("alexnet-x", "champion")
    evaluation = new.get_run(version.tags["evaluate_run"])
    assert evaluation.data.tags["final_run"] == version.run_id
    model = new.get_logged_model(version.source.removeprefix("models:/"))
    assert model.source_run_id == version.run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "alexnet-x", "version": 2}]
    linked = next(one for one in new.search_logged_models(["0"]) if "kind" in one.tags)
    text = (Path(linked.artifact_location) / "MLmodel").read_text()
    assert text == (
        f"artifact_path: {linked.artifact_location}\nmodel_id: {linked.model_id}\n"
        f"run_id: {linked.source_run_id}\n"
    )


def test_promoting_goes_on_in_the_copy(
    full: str, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced(full, target, capsys)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(target)
    try:
        root, client = connect(), MlflowClient()
        champion = client.get_model_version_by_alias("alexnet-x", "champion")
        assert champion.version == 2 and champion.tags["succeeds"] == "1"
        old = MlflowClient(full, full).search_model_versions("name = 'alexnet-x'", max_results=9)
        [best] = [one.tags["evaluate_run"] for one in old if one.version == 3]
        result = promote.run(PromoteConfig(dataset="x", run=best), root)  # the source's id
        assert result.figures["promoted"] and result.figures["champion"] == 3
        promote.run(PromoteConfig(dataset="x", rollback=True), root)
        result = promote.run(PromoteConfig(dataset="x", rollback=True), root)
        assert result.figures["champion"] == 1
        again = synced(full, target, capsys)
        assert again["copied"] == again["updated"] == {}
        aliases = client.get_registered_model("alexnet-x").aliases
        assert {key: str(to) for key, to in aliases.items()} == {"champion": "1"}
    finally:
        mlflow.set_tracking_uri(before)


def test_what_went_on_is_brought_up_to_date(
    store: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = f"sqlite:///{store}/mlflow.db", made(empty_store, store / "target")
    client, root = MlflowClient(), connect()
    evaluations = [
        evaluated(root, predictions(np.arange(100) < right))[1] for right in (60, 90)
    ]
    promote.run(PromoteConfig(dataset="x", run=evaluations[0]), root)
    live = client.create_run("0", run_name="live").info.run_id
    client.log_batch(live, metrics=[Metric("a", float(step), 1, step) for step in (1, 2)])
    client.log_text(live, "early", "notes.txt")
    said = synced(source, target, capsys)
    assert said["copied"]["running"] == 1 and contents(target) == contents(source)
    new = MlflowClient(target, target)
    [copy] = new.search_runs(["0"], f"tags.synced_from = '{live}'")
    assert copy.info.status == "RUNNING"
    new.set_tag(copy.info.run_id, "test_looks", "2")
    new.set_tag(copy.info.run_id, "own", "kept")
    client.log_batch(live, metrics=[Metric("a", 3.0, 1, 3)])
    client.log_text(live, "later", "notes.txt")  # as long as before
    client.set_tag(live, "test_looks", "1")
    client.set_terminated(live, "FAILED")
    promote.run(PromoteConfig(dataset="x", run=evaluations[1]), root)
    said = synced(source, target, capsys)
    assert said["updated"] == {"runs": 1} and said["copied"]["runs"] == 1
    copy = new.get_run(copy.info.run_id)
    assert copy.data.tags["test_looks"] == "2" and copy.data.tags["own"] == "kept"
    new.delete_tag(copy.info.run_id, "own")
    client.set_tag(live, "test_looks", "2")
    assert contents(target) == contents(source)
    assert new.get_model_version_by_alias("alexnet-x", "champion").version == 2
    assert Path(copy.info.artifact_uri, "notes.txt").read_text() == "later"


def test_two_sources_do_not_collide_and_a_ring_copies_nothing_twice(
    full: str, store: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, target = f"sqlite:///{store}/mlflow.db", made(empty_store, store / "target")
    root = connect()
    promote.run(PromoteConfig(
        dataset="x", run=evaluated(root, predictions(np.arange(100) < 50))[1]
    ), root)
    synced(first, target, capsys)
    said = synced(full, target, capsys)
    assert said["copied"]["runs"] == 12 and said["copied"]["versions"] == 3
    client = MlflowClient(target, target)
    versions = {one.version: one for one in client.search_model_versions("name = 'alexnet-x'")}
    assert len(versions) == 4 and versions[3].tags["succeeds"] == "2"
    aliases = client.get_registered_model("alexnet-x").aliases
    assert {key: str(to) for key, to in aliases.items()} == {"champion": "1", "previous": "2"}
    once = dump(store / "target")
    for source in (first, full):
        again = synced(source, target, capsys)
        assert again["copied"] == again["updated"] == {}
    assert dump(store / "target") == once
    back = synced(target, first, capsys)
    assert back["copied"]["runs"] == 12 and back["there"]["runs"] == 3
    assert synced(target, first, capsys)["copied"] == {}
    assert len(MlflowClient().search_runs(["0"])) == 15
    again = f"sqlite:///{store}/target/../target/other.db"
    shutil.copy(store / "target" / "mlflow.db", store / "target" / "other.db")
    assert "so they are one store" in refused(capsys, f"--from={again}", f"--to={target}")
    assert dump(store / "target") == once


def test_what_is_deleted_stays_so(
    full: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    synced(full, target, capsys)
    client = MlflowClient(target, target)
    [trial] = client.search_runs(["0"], "tags.stage = 'trial'")
    client.delete_run(trial.info.run_id)
    assert synced(full, target, capsys)["copied"] == {}
    assert client.search_runs(["0"], "tags.stage = 'trial'") == []


# Broken off


def dies(arguments: list[str], folder: str, after: int, during: bool) -> None:
    """Sync, and be killed after so many writes, or in the midst of the last of them."""
    os.chdir(folder)
    left = [after]

    def deadly(write: Any) -> Any:
        def call(*words: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and during:
                threading.Timer(0.004, os.kill, (os.getpid(), signal.SIGKILL)).start()
            result = write(*words, **more)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call

    for name in WRITES:
        setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))
    files.Place.put = deadly(files.Place.put)  # type: ignore[method-assign]
    os._exit(main(arguments))


def killed_again_and_again(
    source: str, target: str, folder: Path, step: int, during: bool = False
) -> int:
    """Until a sync ends: how often it was killed. Each makes so many writes more."""
    context = multiprocessing.get_context("forkserver")  # imports once
    context.set_forkserver_preload(PRELOADED)
    arguments = ["sync", f"--from={source}", f"--to={target}"]
    for kills in range(60):
        process = context.Process(
            target=dies, args=(arguments, str(folder), 2 + step * kills, during)
        )
        process.start()
        process.join(300)
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL
    raise AssertionError("it gets nowhere")


@pytest.fixture
def small(store: Path) -> str:
    """A store with two promoted finals, one with files, and a run with a history."""
    client, root = MlflowClient(), connect()
    for right in (60, 90):
        run = evaluated(root, predictions(np.arange(100) < right))[1]
        promote.run(PromoteConfig(dataset="x", run=run), root)
    model = client.search_logged_models(["0"])[0]
    (store / "MLmodel").write_text(f"model_id: {model.model_id}\n")
    client.log_model_artifact(model.model_id, str(store / "MLmodel"))
    return f"sqlite:///{store}/mlflow.db"


def test_killed_at_any_write_it_ends_with_one_of_each(
    small: str, store: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = made(empty_store, store / "target")
    assert killed_again_and_again(small, target, store, step=3) >= 5
    assert contents(target) == contents(small)
    assert synced(small, target, capsys)["copied"] == {}


def test_through_a_server_and_killed_in_the_midst_of_requests(
    small: str, full: str, listed: dict[str, Any], store: Path, empty_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with server(empty_store, store / "served") as address:
        assert killed_again_and_again(small, address, store, step=7, during=True) >= 3
        assert contents(address) == contents(small)
        said = synced(full, address, capsys)
        assert said["copied"]["runs"] == 12 and said["copied"]["files"] > 10
        after = dump(store / "served")
        again = synced(full, address, capsys)
        assert again["copied"] == again["updated"] == {} and dump(store / "served") == after
        assert list((store / "served" / "artifacts").rglob("net.pt2")), "not through the server"
        back = made(empty_store, store / "back")
        synced(address, back, capsys)
        found = contents(back)
        for kind in ("runs of Default", "models of Default"):
            assert [one for one in found[kind] if one in listed[kind]] == listed[kind]
        past = f"sqlite:///{store}/served/mlflow.db"
        assert "give the server's address" in refused(capsys, f"--from={past}", f"--to={address}")
        assert dump(store / "served") == after
    assert "cannot be opened" in refused(capsys, f"--from={small}", f"--to={address}")


def test_a_second_copy_that_a_repeated_request_made_is_taken_away(
    small: str, store: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = made(empty_store, store / "target")
    client = MlflowClient(target, target)
    [run, *_] = MlflowClient().search_runs(["0"])
    for _ in range(2):
        client.create_run("0", run.info.start_time, {"synced_from": run.info.run_id})
    synced(small, target, capsys)
    assert contents(target) == contents(small)


# Refused


class Locked(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated")

    do_POST = do_GET

    def log_message(self, *words: Any) -> None:
        pass


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["sync", *words]) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and "Traceback" not in caught.err and "secret" not in caught.err
    assert caught.err.startswith("Error: ") and caught.err.count("\n") == 1, caught.err
    return caught.err


def test_bad_input_is_told_in_a_sentence_and_changes_nothing(
    full: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dump(tmp_path / "target")
    to, here = f"--to={target}", f"--from={full}"
    assert "--from must name a tracking store" in refused(capsys, to)
    assert "--to must name a tracking store" in refused(capsys, here)
    assert "are the same store" in refused(capsys, here, f"--to={full}")
    assert "there is no such file" in refused(capsys, "--from=sqlite:///nowhere.db", to)
    assert "a file is --from=sqlite:///mlflow.db" in refused(capsys, "--from=mlflow.db", to)
    assert "mlflow migrate-filestore" in refused(capsys, "--from=mlruns", to)
    assert "there is no such file" in refused(capsys, here, "--to=sqlite:///no/folder/a.db")
    Path("text.db").write_text("not a database, but long enough to be looked at" * 50)
    assert "file is not a database" in refused(capsys, "--from=sqlite:///text.db", to)
    sqlite3.connect("empty.db").close()
    Path("empty.db").touch()
    assert "it holds no MLflow store" in refused(capsys, "--from=sqlite:///empty.db", to)
    with sqlite3.connect("optuna.db") as database:
        database.execute("CREATE TABLE studies (id INTEGER)")
    database.close()
    assert "another program's tables" in refused(capsys, here, "--to=sqlite:///optuna.db")
    nobody = "http://me:secret@127.0.0.1:9"
    assert "http://me:***@127.0.0.1:9 cannot be opened" in refused(capsys, here, f"--to={nobody}")
    with HTTPServer(("127.0.0.1", 0), Locked) as locked:
        thread = threading.Thread(target=locked.serve_forever)
        thread.start()
        said = refused(capsys, here, f"--to=http://127.0.0.1:{locked.server_port}")
        locked.shutdown()
        thread.join()
    assert "user or password are wrong" in said and "MLFLOW_TRACKING_PASSWORD" in said
    assert dump(tmp_path / "target") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty.db", "optuna.db", "target", "text.db"
    ]


def test_a_store_of_another_mlflow_is_not_migrated(
    full: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "target" / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'older'")
        database.execute("DROP TABLE logged_model_tags")
    database.close()
    before = dump(tmp_path / "target")
    for words in ((f"--from={full}", f"--to={target}"), (f"--from={target}", f"--to={full}")):
        assert f"mlflow db upgrade {target}" in refused(capsys, *words)
    assert dump(tmp_path / "target") == before


def test_a_deleted_experiment_is_not_written_to(
    full: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(target, target)
    number = client.create_experiment("other")
    client.delete_experiment(number)
    before = dump(tmp_path / "target")
    said = refused(capsys, f"--from={full}", f"--to={target}")
    assert f"mlflow experiments restore --experiment-id {number}" in said
    assert dump(tmp_path / "target") == before


def test_a_dry_run_makes_no_store(
    full: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = synced(full, "sqlite:///new.db", capsys, "--dry-run")
    assert said["copied"]["runs"] == 12 and said["to"].endswith("/new.db")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
