"""What is told where a store does not answer; settings; passwords."""

from __future__ import annotations

import os

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
    ErrorCode,
)

from alexnet_mlflow import reach


def test_a_store_that_is_away_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEXNET_CONTAINER", raising=False)
    text = str(reach.unanswered("http://me:geheim@host:5000", OSError("no route\nat all")))
    assert text == (
        "the tracking store http://me:***@host:5000 does not answer (no route): start it, or set "
        "MLFLOW_TRACKING_URI to another"
    )


def test_from_a_container_only_servers_are_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CONTAINER", "true")
    text = str(reach.unanswered("sqlite:////x/mlflow.db", OSError("unable to open")))
    assert "MLFLOW_TRACKING_URI=http://HOST:5000" in text and "network=host" in text


def test_a_refused_login_is_told_as_such() -> None:
    refused = MlflowException("who?", error_code=ErrorCode.Value("UNAUTHENTICATED"))
    assert refused.error_code == "UNAUTHENTICATED"
    text = str(reach.unanswered("http://host:5000", refused))
    assert "refuses this login" in text and "MLFLOW_TRACKING_PASSWORD" in text


def test_a_database_that_is_away_is_noticed_at_once() -> None:
    with pytest.raises(sqlalchemy.exc.OperationalError):
        reach.probe("postgresql+psycopg://me@127.0.0.1:1/x")
    reach.probe("sqlite://")
    reach.probe("http://127.0.0.1:1")  # no database: whoever connects notices


def test_settings_that_are_not_the_users_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    reach.prepare()
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_A", "own")
    monkeypatch.delenv("ALEXNET_B", raising=False)
    with reach.environment({"ALEXNET_A": "1", "ALEXNET_B": "2"}):
        assert (os.environ["ALEXNET_A"], os.environ["ALEXNET_B"]) == ("own", "2")
    assert os.environ["ALEXNET_A"] == "own" and "ALEXNET_B" not in os.environ


def test_what_is_preferred_gives_way_to_what_a_block_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.delenv(name, raising=False)
    reach.prepare()
    with reach.environment({name: "1"}):
        assert os.environ[name] == "1"
    assert os.environ[name] == reach.PREFERRED[name]
    monkeypatch.setenv(name, "7")
    with reach.environment({name: "1"}):
        assert os.environ[name] == "7", "the user's"
    with reach.environment({name: "1"}, always=True):
        assert os.environ[name] == "1"
    assert os.environ[name] == "7"


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (MlflowException("no answer"), True),
        (MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("too many", error_code=REQUEST_LIMIT_EXCEEDED), True),
        (MlflowException("UNIQUE constraint failed", error_code=BAD_REQUEST), True),
        (ConnectionError("refused"), True),
        (MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST), False),
        (MlflowException("who?", error_code=UNAUTHENTICATED), False),
        (MlflowException("database or disk is full", error_code=TEMPORARILY_UNAVAILABLE), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("a mistake of ours"), False),
    ],
)
def test_what_may_be_asked_again(error: Exception, away: bool) -> None:
    assert reach.away(error) is away
