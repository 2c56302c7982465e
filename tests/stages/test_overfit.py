"""Learning a part by heart, or being told that it did not work."""

from __future__ import annotations

import math
from pathlib import Path

from mlflow import MlflowClient

from alexnet_mlflow.config import OverfitConfig
from alexnet_mlflow.stages import overfit
from alexnet_mlflow.track import connect


def test_a_part_is_learnt_by_heart(store: Path, pictures: Path) -> None:
    config = OverfitConfig(
        dataset=str(pictures), optimizer="adam", batch_size=8, pictures=16, device="cpu"
    )
    result = overfit.run(config, connect())
    assert result.verdict == "pass" and result.figures["train_accuracy"] == 1.0
    assert result.figures["pictures"] == 16
    assert len(result.sentences) == 2
    run = MlflowClient().get_run(str(result.run_id))
    history = MlflowClient().get_metric_history(str(result.run_id), "train_accuracy")
    assert [point.value == 1.0 for point in history] == [False] * (len(history) - 1) + [True]
    assert run.data.params["weight_decay"] == "0.0" and run.data.params["dropout"] == "0.0"
    assert {"check_overfits", "check_held_out_above_chance"} <= set(run.data.metrics)
    plots = MlflowClient().list_artifacts(str(result.run_id), "plots")
    assert {item.path for item in plots} == {"plots/augmentation.png", "plots/curves.png"}


def test_one_that_diverges_fails_and_says_so(store: Path, pictures: Path) -> None:
    config = OverfitConfig(dataset=str(pictures), lr=1e6, batch_size=8, device="cpu")
    result = overfit.run(config, connect())
    assert result.verdict == "fail"
    assert "stopped being a number" in result.sentences[0]
    run = MlflowClient().get_run(str(result.run_id))
    assert run.data.tags["outcome"] == "diverged"
    assert run.data.metrics["diverged_at_step"] >= 1
    for name in ("train_loss", "val_loss"):
        history = MlflowClient().get_metric_history(str(result.run_id), name)
        assert all(math.isfinite(point.value) and point.value < 1e300 for point in history)
