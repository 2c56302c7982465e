"""Coarse, narrowed, fine: what the trials leave in MLflow, and that no diverged one can win."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.stages import search
from alexnet_mlflow.track import connect
from tests.conftest import Babysat


def rows_of(client: MlflowClient, run_id: str) -> list[dict[str, str]]:
    with open(client.download_artifacts(run_id, "trials.csv")) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("place", [0, 1])
def test_the_best_is_the_best_row_and_a_run(babysat: Babysat, place: int) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    run = babysat.runs["search"][place]
    rows = rows_of(client, run.info.run_id)
    assert [row["phase"] for row in rows] == ["coarse"] * 4 + ["fine"] * 2
    best = max(
        (row for row in rows if row["outcome"] == "completed"),
        key=lambda row: (float(row["best_val_accuracy"]), -float(row["best_val_loss"])),
    )
    assert run.data.params["best_lr"] == best["lr"]
    assert run.data.params["best_weight_decay"] == best["weight_decay"]
    assert run.data.tags["best_trial"] == best["run_id"]
    trial = client.get_run(best["run_id"])
    assert trial.data.params["lr"] == best["lr"]
    assert trial.data.metrics["best_val_accuracy"] == float(best["best_val_accuracy"])
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"narrowing.txt", "plots", "trials.csv"} <= artifacts


def test_the_fine_draws_lie_in_the_narrowed_range(babysat: Babysat) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    for run in babysat.runs["search"]:
        text = Path(client.download_artifacts(run.info.run_id, "narrowing.txt")).read_text()
        low, high = text.split("becomes ")[1].split(",")[0].split(" .. ")
        floor, ceiling = (10 ** float(part.removeprefix("10^")) for part in (low, high))
        for row in rows_of(client, run.info.run_id):
            if row["phase"] == "fine":
                assert floor * 0.98 <= float(row["lr"]) <= ceiling * 1.02


def test_where_all_diverge_the_search_says_no(store: Path, pictures: Path) -> None:
    config = SearchConfig(
        dataset=str(pictures), batch_size=8, trials=2, epochs=3, device="cpu",
        lr_low=1e5, lr_high=1e6,
    )
    result = search.run(config, connect())
    assert result.verdict == "fail" and result.figures["diverged"] == 2
    assert result.sentences[0].startswith("No trial did better than chance (50.0%)")
    client = MlflowClient()
    for row in rows_of(client, str(result.run_id)):
        assert row["outcome"] == "diverged" and row["best_val_accuracy"] == ""
        assert row["epochs"] == "1", "a diverged trial went on"
        run = client.get_run(row["run_id"])
        assert run.info.status == "FINISHED" and run.data.tags["outcome"] == "diverged"
        assert run.data.metrics["diverged_at_step"] == float(row["diverged_at_step"])
        assert "best_val_accuracy" not in run.data.metrics
    assert client.get_run(str(result.run_id)).info.status == "FAILED"


def test_the_same_seed_tries_the_same_points_with_the_same_outcome(
    store: Path, pictures: Path
) -> None:
    config = SearchConfig(
        dataset=str(pictures), batch_size=8, trials=2, fine_trials=1, epochs=1, device="cpu",
        lr_low=1e-4, lr_high=1e-3, optimizer="adam", seed=4,
    )
    tables = []
    for _ in range(2):
        rows = rows_of(MlflowClient(), str(search.run(config, connect()).run_id))
        kept = [{k: v for k, v in row.items() if k not in ("seconds", "run_id")} for row in rows]
        tables.append(kept)
    assert tables[0] == tables[1] and len(tables[0]) >= 2
