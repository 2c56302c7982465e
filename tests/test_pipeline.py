"""The whole protocol, run for real on easy pictures, as it stands in MLflow afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import pipeline, track
from alexnet_mlflow.config import PRESETS, BabysitConfig, Preset
from tests.conftest import Babysat

EPOCH_METRICS = {
    "train_loss", "train_accuracy", "val_loss", "val_accuracy",
    "learning_rate", "epoch_seconds", "images_per_second",
}


def test_every_stage_ran_under_one_parent(babysat: Babysat) -> None:
    counts = {stage: len(runs) for stage, runs in babysat.runs.items()}
    assert counts == {
        "babysit": 1, "sanity": 2, "overfit": 2, "search": 2, "trial": 12,
        "final": 2, "evaluate": 2, "promote": 1,
    }
    [parent] = babysat.runs["babysit"]
    for stage, runs in babysat.runs.items():
        for run in runs:
            assert run.info.status == "FINISHED"
            if stage not in ("babysit", "trial"):
                assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    searches = {run.info.run_id for run in babysat.runs["search"]}
    parents = {run.data.tags["mlflow.parentRunId"] for run in babysat.runs["trial"]}
    assert parents == searches


def test_every_run_carries_its_tags(babysat: Babysat) -> None:
    for stage, runs in babysat.runs.items():
        for run in runs:
            tags = run.data.tags
            wanted = {"stage", "dataset", "optimizer", "seed", "data_digest", "git_commit"}
            assert wanted <= tags.keys(), stage
            assert tags["dataset"] == "colours"
            assert tags["outcome"] in ("completed", "diverged")
            if stage != "trial":
                assert tags["verdict"] == "pass"
            else:
                assert tags["phase"] in ("coarse", "fine")


def test_training_runs_can_be_compared(babysat: Babysat) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    for run in (*babysat.runs["trial"], *babysat.runs["final"]):
        assert {"lr", "weight_decay", "batch_size", "epochs", "recipe"} <= run.data.params.keys()
        float(run.data.params["lr"])
        if run.data.tags["outcome"] == "completed":
            assert EPOCH_METRICS | {"best_val_accuracy", "best_epoch"} <= run.data.metrics.keys()
            steps = [p.step for p in client.get_metric_history(run.info.run_id, "val_accuracy")]
            assert steps == list(range(1, len(steps) + 1))


def test_the_test_split_shows_in_evaluate_alone(babysat: Babysat) -> None:
    for stage, runs in babysat.runs.items():
        for run in runs:
            seen = {name for name in run.data.metrics if "test_" in name}
            assert bool(seen) == (stage == "evaluate"), (stage, seen)


def test_the_result_names_the_champion(babysat: Babysat) -> None:
    line = json.loads(babysat.result.as_json())
    assert line["stage"] == "babysit" and line["verdict"] == "pass"
    assert line["champion"] == 1 and line["model_uri"] == "models:/alexnet-colours/1"
    assert line["sgd_test_accuracy"] == 1.0 or line["adam_test_accuracy"] == 1.0
    table = [line for line in babysat.result.sentences if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in table] == ["optimizer", "sgd", "adam"]


def test_a_stage_that_says_no_stops_the_protocol(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one epoch the part is not learnt by heart: no search follows."""
    hurried = Preset(batch_size=8, overfit_epochs=1)
    monkeypatch.setitem(PRESETS, str(pictures), hurried)
    config = BabysitConfig(dataset=str(pictures), device="cpu")
    result = pipeline.run(config, track.connect())
    assert result.verdict == "fail"
    assert "sgd: overfit said no" in result.sentences
    runs = MlflowClient().search_runs(["0"])
    assert {run.data.tags["stage"] for run in runs} == {"babysit", "sanity", "overfit"}
    failed = {run.data.tags["stage"] for run in runs if run.info.status == "FAILED"}
    assert failed == {"babysit", "overfit"}
