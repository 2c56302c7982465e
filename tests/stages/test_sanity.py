"""The first checks, on real pictures and in MLflow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import probes
from alexnet_mlflow.config import SanityConfig
from alexnet_mlflow.stages import sanity
from alexnet_mlflow.track import connect

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_healthy_net_passes(store: Path, pictures: Path, optimizer: str) -> None:
    config = SanityConfig(dataset=str(pictures), optimizer=optimizer, batch_size=8, device="cpu")
    result = sanity.run(config, connect())
    assert result.verdict == "pass", result.sentences
    assert result.figures["first_loss"] == pytest.approx(math.log(2), rel=0.02)
    client, run_id = MlflowClient(), str(result.run_id)
    checks = json.loads(Path(client.download_artifacts(run_id, "checks.json")).read_text())
    assert [check["name"] for check in checks] == [
        "classes_balanced", "no_duplicates_across", "few_copies_across", "groups_whole",
        "labels_plausible", "val_not_in_train", "first_loss", "class_share", "first_step_loss",
        "penalty_raises_loss", "samples_independent", "gradient", "input_as_stored",
        "deterministic", "all_layers_move", "update_ratio", "layers_alive", "blanked_at_majority",
        "lr_too_low", "lr_too_high", "overfits_2", "overfits_20", "first_epoch_loss",
    ]
    run = client.get_run(run_id)
    assert run.data.tags["verdict"] == "pass" and run.info.status == "FINISHED"
    assert run.data.metrics["check_first_loss"] == result.figures["first_loss"]
    assert run.data.params["pictures"] == "46"  # of the one epoch: all
    names = [artifact.path for artifact in client.list_artifacts(run_id, "plots")]
    assert [Path(name).stem for name in names] == [
        "augmentation", "near_duplicates", "suspect_labels",
    ]


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"low_lr": 0.05, "optimizer": "adam"}, {"lr_too_low"}),
        ({"high_lr": 1e-6}, {"lr_too_high"}),
        ({"lr": 10.0}, {"first_epoch_loss"}),
    ],
)
def test_a_probe_that_does_not_do_what_it_must_fails(
    store: Path, pictures: Path, changes: dict[str, object], failing: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "HANDFULS", ())
    config = SanityConfig(dataset=str(pictures), batch_size=8, device="cpu", **changes)  # type: ignore[arg-type]
    result = sanity.run(config, connect())
    assert result.verdict == "fail"
    run_id = str(result.run_id)
    checks = json.loads(Path(MlflowClient().download_artifacts(run_id, "checks.json")).read_text())
    assert {check["name"] for check in checks if check["verdict"] == "fail"} == failing
    assert MlflowClient().get_run(run_id).info.status == "FAILED"


def test_of_a_large_set_the_epoch_sees_a_part(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanity, "EPOCH_PICTURES", 10)
    monkeypatch.setattr(probes, "HANDFULS", ())
    config = SanityConfig(dataset=str(pictures), batch_size=8, device="cpu")
    run = MlflowClient().get_run(str(sanity.run(config, connect()).run_id))
    assert run.data.params["pictures"] == "10"
