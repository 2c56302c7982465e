"""Versions and the champion's alias, on a real sqlite registry."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from alexnet_mlflow import registry


class Echo(mlflow.pyfunc.PythonModel):
    """The smallest thing that can be registered."""

    def predict(self, context: object, model_input: list[str]) -> list[str]:
        return model_input


@pytest.fixture
def source(store: Path) -> tuple[str, str]:
    """A logged model's URI and its run."""
    with mlflow.start_run() as run:
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Echo(), pip_requirements=["mlflow"]
        )
    return info.model_uri, run.info.run_id


def test_no_champion_before_the_first(store: Path) -> None:
    assert registry.champion("alexnet-none") is None


def test_a_version_is_made_once_and_crowned(source: tuple[str, str]) -> None:
    name = registry.registered_name("faces")
    first = registry.register(name, *source, {"test_accuracy": 0.5})
    assert registry.champion(name) is None
    again = registry.register(name, *source, {"test_accuracy": 0.75})
    assert first.number == again.number == "1"
    assert again.tags["test_accuracy"] == "0.75"
    registry.crown(again)
    champion = registry.champion(name)
    assert champion is not None
    assert (champion.number, champion.run_id) == ("1", source[1])
    assert champion.uri == "models:/alexnet-faces/1"
    assert len(MlflowClient().search_model_versions(f"name = '{name}'")) == 1
