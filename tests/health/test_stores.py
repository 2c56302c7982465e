"""Stores that answer, refuse or are of another MLflow; aliases to nowhere; the round trip."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from alexnet_mlflow.health import stores
from alexnet_mlflow.track import connect
from tests.stores import server


def verdicts() -> dict[str, str]:
    found, _ = stores.answers()
    return {one.name: one.verdict for one in found}


@contextmanager
def answering(pages: dict[str, tuple[int, str]]) -> Iterator[str]:
    """A server that has these pages alone."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = pages.get(self.path.partition("?")[0], (404, "{}"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_store_that_answers(store: Path) -> None:
    assert stores.answers()[1] and verdicts() == {"store": "pass"}
    assert stores.places() == {"store": store, "artifacts": store / "mlruns"}


def test_no_store_is_made_where_there_is_none(store: Path) -> None:
    (store / "mlflow.db").unlink()
    found, there = stores.answers()
    assert not there and found[0].verdict == "pass"
    assert "the first run makes it" in found[0].sentence
    assert list(store.iterdir()) == []


def test_a_store_of_another_mlflow_is_told_with_the_way_out(store: Path) -> None:
    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '97727af70f4d'")
    found, there = stores.answers()
    assert not there and found[0].verdict == "fail"
    assert "mlflow db upgrade" in found[0].sentence and "\n" not in found[0].sentence


def test_a_file_that_is_no_store_is_told(store: Path) -> None:
    (store / "mlflow.db").write_bytes(b"nothing of the kind" * 100)
    assert verdicts() == {"store": "fail"}


def test_a_real_server(empty_store: Path, tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    with server(empty_store, tmp_path) as uri:
        mlflow.set_tracking_uri(uri)
        try:
            found, there = stores.answers()
            assert there and [one.verdict for one in found] == ["pass", "pass"]
            assert mlflow.__version__ in found[0].sentence and "asks for none" in found[1].sentence
            assert stores.places() == {} and stores.registry()[0].verdict == "pass"
        finally:
            mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(("status", "verdict"), [(200, "pass"), (401, "fail"), (403, "fail")])
def test_who_this_is_to_the_server(status: int, verdict: str) -> None:
    with answering({"/api/2.0/mlflow/users/current": (status, "{}")}) as uri:
        assert stores._login(uri).verdict == verdict


def test_a_server_of_others_without_a_login_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_asked", lambda uri, path: (404, ""))
    for uri, verdict in (("http://10.1.2.3:5000", "warn"), ("http://localhost:5000", "pass"),
                         ("http://127.0.0.1.evil.org", "warn")):
        assert stores._login(uri).verdict == verdict, uri


@pytest.mark.parametrize(
    ("page", "verdict"),
    [((200, mlflow.__version__), "pass"), ((200, "1.0.0"), "warn"), ((500, "no"), "warn")],
)
def test_a_server_of_another_version_is_warned_of(page: tuple[int, str], verdict: str) -> None:
    with answering({"/version": page}) as uri:
        assert stores._version(uri, uri).verdict == verdict


def test_aliases_that_lead_nowhere(store: Path) -> None:
    assert stores.registry()[0].verdict == "pass"
    client = MlflowClient()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2)).eval()
    with connect().child("final", {"stage": "final"}) as run:
        logged = run.model(net, torch.zeros(2, 3, 32, 32), ("a", "b"))
    assert logged is not None
    mlflow.register_model(logged.uri, "alexnet-x")
    client.set_registered_model_alias("alexnet-x", "champion", "1")
    [found] = stores.registry()
    assert found.verdict == "pass" and "ours: 1, with a champion: 1;" in found.sentence
    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        database.execute("INSERT INTO registered_model_aliases (alias, version, name, workspace) "
                         "SELECT 'previous', 7, name, workspace FROM registered_models")
    [found] = stores.registry()
    assert found.verdict == "fail" and "previous of alexnet-x is version 7" in found.sentence
    client.delete_registered_model_alias("alexnet-x", "previous")
    [model] = client.search_logged_models(["0"])
    shutil.rmtree(local_file_uri_to_path(model.artifact_location))
    [found] = stores.registry()
    assert found.verdict == "fail" and "cannot be read" in found.sentence
    assert "\n" not in found.sentence


def test_a_model_comes_back_the_same_and_nothing_stays(store: Path) -> None:
    uri, before = mlflow.get_tracking_uri(), sorted(store.rglob("*"))
    assert stores.round_trip().verdict == "pass"
    assert mlflow.get_tracking_uri() == uri and sorted(store.rglob("*")) == before
    assert MlflowClient().search_runs(["0"]) == []


def test_a_model_that_comes_back_otherwise_fails(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "load_model", lambda uri: lambda given: given.mean((1, 2, 3)))
    assert stores.round_trip().verdict == "fail"

    def broken(uri: str) -> None:
        raise OSError("no space\nleft")

    monkeypatch.setattr(stores, "load_model", broken)
    found = stores.round_trip()
    assert found.verdict == "fail" and "no space left" in found.sentence
