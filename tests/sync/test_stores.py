"""What a store is said to be and is (what is refused: stages/test_sync)."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace as Thing
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from alexnet_mlflow.options import BadInput
from alexnet_mlflow.sync import stores
from alexnet_mlflow.sync.stores import Store, opened
from tests import postgres
from tests.stores import made


def test_the_target_is_the_default_for_as_long_as_it_is_open(
    store: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///elsewhere.db")
    before, target = mlflow.get_tracking_uri(), made(empty_store, store / "target")
    with opened("sqlite:///mlflow.db", target, False) as (first, second):
        assert mlflow.get_tracking_uri() == target == second.uri == mlflow.get_registry_uri()
        assert first.uri == f"sqlite:///{store}/mlflow.db"
        with pytest.raises(BadInput, match="another sync into .* is going on"):
            with opened("sqlite:///mlflow.db", target, False):
                pass
        with opened("sqlite:///mlflow.db", target, True) as (_, looked_at):  # a dry run may look
            assert looked_at.uri == target
    assert mlflow.get_tracking_uri() == before
    assert os.environ["MLFLOW_REGISTRY_URI"] == "sqlite:///elsewhere.db"


def test_pages_are_gone_through(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PAGE", 2)
    uri, client = mlflow.get_tracking_uri(), MlflowClient()
    made = [client.create_run("0", start_time=at).info.run_id for at in (30, 10, 20, 50, 40)]
    for number in range(3):
        client.create_registered_model(f"m{number}")
        client.create_model_version("m0", "s3://nowhere/x")
    here = Store("--from", uri, uri, client)
    assert [run.info.start_time for run in here.runs("0")] == [10, 20, 30, 40, 50]
    client.delete_run(made[0])
    assert len(list(here.runs("0"))) == 4 and len(list(here.runs("0", deleted=True))) == 5
    assert [one.name for one in here.registered()] == ["m0", "m1", "m2"]
    assert [int(one.version) for one in here.versions("m0")] == [1, 2, 3]
    assert here.run(made[1]) and here.run("f" * 32) is None and here.model("m-" + "f" * 32) is None
    assert here.registered_model("m9") is None


@pytest.mark.parametrize(
    ("uri", "location", "told"),
    [
        ("http://x", "/no/such/folder", "in a folder of its own machine"),
        ("http://x", "file:///no/such/folder", "in a folder of its own machine"),
        ("http://x", "mlflow-artifacts:/0", ""),
        ("http://x", "s3://bucket/0", ""),
        ("http://x", "/tmp", ""),
        ("sqlite:////x.db", "/no/such/folder", ""),
        ("sqlite:////x.db", "mlflow-artifacts:/0", "give the server's address"),
    ],
)
def test_artifacts_that_only_another_machine_can_reach(uri: str, location: str, told: str) -> None:
    client: Any = None
    there = Store("--from", uri, uri, client)
    experiment = Thing(name="e", artifact_location=location)
    if not told:
        there.reachable(experiment)
        return
    with pytest.raises(BadInput, match=told):
        there.reachable(experiment)


@pytest.mark.skipif(postgres.MISSING, reason=postgres.REASON)
def test_postgresql_is_a_store_and_its_password_is_not_told(store: Path) -> None:
    with postgres.server() as url:
        with opened("sqlite:///mlflow.db", url, False) as (_, second):
            assert [one.name for one in second.experiments()] == ["Default"]
            assert "secret" in second.uri and "secret" not in second.shown
    with pytest.raises(BadInput, match=r"alexnet:\*\*\*@.*cannot be opened") as refused:
        with opened("sqlite:///mlflow.db", url, False):
            pass
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("API request failed with error code 401", "user or password are wrong"),
        ("Response with status 403: no", "user or password are wrong"),
        ('password authentication failed for user "x"', "user or password are wrong"),
        ("http://127.0.0.1:4013 refused", "http://127.0.0.1:4013 refused"),
        ("[Errno 13] Permission denied: '/srv/mlruns'", "[Errno 13] Permission denied: '/srv/ml"),
    ],
)
def test_only_a_refused_login_is_called_one(error: str, told: str) -> None:
    assert stores._reason(OSError(error)).startswith(told)


def test_a_name_with_an_apostrophe_is_found(store: Path) -> None:
    client = mlflow.MlflowClient()
    for name in ("it's", "plain"):
        client.create_registered_model(name)
        found = client.search_registered_models(f"name = {stores.quoted(name)}")
        assert [one.name for one in found] == [name]
