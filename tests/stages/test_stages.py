"""What the stages share: the opened run, its tags, and the result's line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from alexnet_mlflow.config import OverfitConfig, SanityConfig, resolve
from alexnet_mlflow.data import load
from alexnet_mlflow.model import build
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import StageResult, git_commit, layer_lines, opened
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult, better


def result(accuracy: float, loss: float, diverged_at: int | None = None) -> EpochResult:
    return EpochResult(1, 0.5, 0.5, loss, accuracy, 0.01, 1.0, 1.0, diverged_at, dict)


def test_an_opened_run_logs_what_every_training_needs(store: Path) -> None:
    config = resolve(SanityConfig(seed=7))
    data = load(config)
    with opened(config, connect(), data) as run:
        pass
    client = MlflowClient()
    found = client.get_run(str(run.run_id))
    assert found.data.params["batch_size"] == "16" and found.data.params["seed"] == "7"
    assert found.data.tags["data_digest"] == data.digest
    assert "data_dir" not in found.data.params
    picture = client.download_artifacts(str(run.run_id), "plots/augmentation.png", str(store))
    assert np.asarray(Image.open(picture)).std() > 20, "an empty picture"
    assert found.inputs.dataset_inputs[0].dataset.name == data.title


def test_fewer_pictures_than_the_batch_is_told_before_a_run_is_made(store: Path) -> None:
    config = OverfitConfig(batch_size=1000)
    with pytest.raises(BadInput, match="144 training pictures, fewer than the batch of 1000"):
        with opened(config, connect(), load(config)):
            pass
    assert MlflowClient().search_runs(["0"]) == []


def test_better_is_by_accuracy_then_loss_and_never_diverged() -> None:
    good = result(0.9, 0.3)
    assert better(good, None)
    assert better(result(0.9, 0.2), good) and not better(result(0.9, 0.3), good)
    assert better(result(0.91, 9.0), good) and not better(result(0.89, 0.0), good)
    assert not better(result(1.0, 0.0, diverged_at=3), None)
    assert not better(result(1.0, 0.0, diverged_at=3), good)


def test_the_result_is_one_line_of_json() -> None:
    line = StageResult("final", "abc", "pass", ("Fine.",), {"lr": 0.1}, "models:/m-1").as_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "stage": "final", "run_id": "abc", "verdict": "pass", "lr": 0.1, "model_uri": "models:/m-1",
    }
    with pytest.raises(ValueError):
        StageResult("final", "abc", "pass", (), {"lr": float("nan")}).as_json()


def test_the_commit_is_the_one_that_runs() -> None:
    here = Path(__file__).parent
    words = ["git", "-C", str(here), "rev-parse", "HEAD"]
    head = subprocess.run(words, capture_output=True, text=True).stdout
    assert git_commit().removesuffix("+changes") in (head.strip(), "unknown")


def test_the_layer_table_reads_well() -> None:
    lines = layer_lines(build(10, 0)).splitlines()
    assert lines[-1].split() == ["all", "23,272,266", "62,742,528"]
    assert len({len(line) for line in lines}) == 1, "columns do not line up"
