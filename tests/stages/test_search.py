"""Coarse, narrowed, fine: what the trials leave in MLflow, and that no diverged one can win."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from torch import Tensor

from alexnet_mlflow import train
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.options import BadInput, option_name, option_text
from alexnet_mlflow.stages import search
from alexnet_mlflow.storage import url_of
from alexnet_mlflow.study import Study
from alexnet_mlflow.track import connect
from tests import narrow, postgres
from tests.conftest import Babysat

pytestmark = pytest.mark.usefixtures("narrow")


def rows_of(client: MlflowClient, run_id: str) -> list[dict[str, str]]:
    with open(client.download_artifacts(run_id, "trials.csv")) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("place", [0, 1])
def test_the_best_is_the_best_row_and_a_run(babysat: Babysat, place: int) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    run = babysat.runs["search"][place]
    rows = rows_of(client, run.info.run_id)
    phases = [row["phase"] for row in rows]
    assert phases == ["coarse"] * 4 + ["fine"] * 2 + ["repeat"] * 2
    best = max(
        (row for row in rows if row["best_val_accuracy"] and row["phase"] != "repeat"),
        key=lambda row: (float(row["best_val_accuracy"]), -float(row["best_val_loss"])),
    )
    assert run.data.params["best_lr"] == best["lr"]
    assert run.data.params["best_weight_decay"] == best["weight_decay"]
    assert run.data.tags["best_trial"] == best["run_id"]
    trial = client.get_run(best["run_id"])
    assert trial.data.params["lr"] == best["lr"]
    assert trial.data.metrics["best_val_accuracy"] == float(best["best_val_accuracy"])
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"narrowing.txt", "findings.txt", "checks.json", "plots", "trials.csv"} <= artifacts
    plots = {item.path for item in client.list_artifacts(run.info.run_id, "plots")}
    assert {f"plots/{name}.png" for name in ("search", "trials", "narrowing")} <= plots
    repeats = [row for row in rows if row["phase"] == "repeat"]
    assert {row["lr"] for row in repeats} == {best["lr"]}
    seeds = {client.get_run(row["run_id"]).data.params["seed"] for row in repeats}
    assert len(seeds) == 2 and run.data.params["seed"] not in seeds


def test_the_gate_is_on_the_record(babysat: Babysat) -> None:
    """The protocol has just run sanity and overfit: the search asks for no more."""
    def of(optimizer: str, stage: str) -> str:
        runs = babysat.runs[stage]
        [found] = [run for run in runs if run.data.tags["optimizer"] == optimizer]
        return str(found.info.run_id)

    for run in babysat.runs["search"]:
        assert run.data.tags["gate"] == "recorded"
        for stage in ("sanity", "overfit"):
            assert run.data.tags[f"gate_{stage}"] == of(run.data.tags["optimizer"], stage)


def test_the_fine_draws_lie_in_the_narrowed_range(babysat: Babysat) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    for run in babysat.runs["search"]:
        text = Path(client.download_artifacts(run.info.run_id, "narrowing.txt")).read_text()
        [low, high] = re.findall(r"becomes 10\^(\S+) \.\. 10\^(-?[\d.]+\d)", text)[0]
        floor, ceiling = 10 ** float(low), 10 ** float(high)
        for row in rows_of(client, run.info.run_id):
            if row["phase"] == "fine":
                assert floor * 0.98 <= float(row["lr"]) <= ceiling * 1.02


def test_where_all_diverge_the_search_says_no(
    store: Path, pictures: Path, checked: None
) -> None:
    config = SearchConfig(
        dataset=str(pictures), batch_size=8, trials=2, epochs=3, device="cpu",
        lr_low=1e5, lr_high=1e6, force=True,
    )
    result = search.run(config, connect())
    assert result.verdict == "fail" and result.figures["diverged"] == 2
    assert result.sentences[1].startswith("No trial did better than chance (50.0%)")
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
    store: Path, pictures: Path, checked: None
) -> None:
    config = SearchConfig(
        dataset=str(pictures), batch_size=8, trials=2, fine_trials=1, epochs=1, device="cpu",
        lr_low=1e-4, lr_high=1e-3, optimizer="adam", seed=4, force=True, repeats=0,
    )
    tables = []
    for _ in range(2):
        rows = rows_of(MlflowClient(), str(search.run(config, connect()).run_id))
        kept = [{k: v for k, v in row.items() if k not in ("seconds", "run_id")} for row in rows]
        tables.append(kept)
    assert tables[0] == tables[1] and len(tables[0]) >= 2
    names = {trial.data.tags["study"] for trial in MlflowClient().search_runs(
        ["0"], "tags.stage = 'search'")}
    assert len(names) == 2, "the second search is one of its own"


def test_where_a_check_fails_no_point_is_tried(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = train.train_step

    def summed(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        logits, loss = step(*given, **named)
        return logits, loss * len(logits)

    monkeypatch.setattr(train, "train_step", summed)
    config = SearchConfig(dataset=str(pictures), batch_size=8, trials=1, epochs=1, device="cpu")
    result = search.run(config, connect())
    assert result.verdict == "fail" and "--force" in result.sentences[-1]
    assert "first training step" in result.sentences[0]
    client = MlflowClient()
    assert client.get_run(str(result.run_id)).info.status == "FAILED"
    assert not client.search_runs(["0"], "tags.stage = 'trial'")
    assert (Path("optuna.db")).exists() and not optuna_studies()


def optuna_studies() -> list[str]:
    with sqlite3.connect("optuna.db") as database:
        found = [name for [name] in database.execute("SELECT study_name FROM studies")]
    database.close()
    return found


QUICK = dict(batch_size=8, trials=3, fine_trials=1, repeats=0, epochs=1, device="cpu",
             lr_low=1e-4, lr_high=1e-3, optimizer="adam", force=True)


def words(program: str, pictures: Path, **changes: object) -> list[str]:
    config = SearchConfig(dataset=str(pictures), **{**QUICK, **changes})  # type: ignore[arg-type]
    return [sys.executable, "-m", program, "search",
            *(f"{option_name(item.name)}={option_text(getattr(config, item.name))}"
              for item in dataclasses.fields(config))]


def test_a_second_process_joins_and_both_leave_one_search(
    store: Path, pictures: Path, checked: None
) -> None:
    """On PostgreSQL where it is installed: two machines could do the same."""
    with (nullcontext(url_of("")) if postgres.MISSING else postgres.server()) as url:
        environment = {**narrow.environment(store), "ALEXNET_STORAGE": url}
        command = words("tests.narrow", pictures, study="together", trials=5)
        running = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=300) for process in running]
        assert [process.returncode for process in running] == [0, 0], said
        [run] = MlflowClient().search_runs(["0"], "tags.stage = 'search'")
        lines = [json.loads(out.splitlines()[-1]) for out, _ in said]
        assert {line["run_id"] for line in lines} == {run.info.run_id}
        assert sum("Joins the search together" in told for _, told in said) == 1
        trials = MlflowClient().search_runs(["0"], "tags.stage = 'trial'")
        assert len(trials) == len(rows_of(MlflowClient(), run.info.run_id)) == 6
        assert {trial.data.tags["mlflow.parentRunId"] for trial in trials} == {run.info.run_id}
        again = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert again.returncode == 2 and "is finished" in again.stderr


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_of_each_engine(
    engine: str, store: Path, pictures: Path, checked: None
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="the extra [ray] is not installed")
        if "ALEXNET_SLOW" not in os.environ:
            pytest.skip("ALEXNET_SLOW is not set: starts a Ray cluster")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    done = subprocess.run(
        words("alexnet_mlflow", pictures, engine=engine, workers=2, ray_address="local"),
        env=environment, capture_output=True, text=True, timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["trials"] == 4
    trials = MlflowClient().search_runs(["0"], "tags.stage = 'trial'")
    assert len(trials) == 4 and {trial.info.status for trial in trials} == {"FINISHED"}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"storage": "postgresql://me:geheim@127.0.0.1:1/x"}, "does not answer"),
        ({"engine": "ray", "ray_address": "127.0.0.1:1"}, "no Ray cluster answers"),
        ({"engine": "ray", "ray_address": "nonsense"}, "needs a database"),
    ],
)
def test_bad_input_is_one_sentence(
    changes: dict[str, str], part: str, store: Path, pictures: Path
) -> None:
    config = SearchConfig(dataset=str(pictures), **{**QUICK, **changes})  # type: ignore[arg-type]
    with pytest.raises(BadInput) as caught:
        search.run(config, connect())
    told = str(caught.value)
    assert not MlflowClient().search_runs(["0"]), "nothing was begun"
    assert part in told and "\n" not in told and "geheim" not in told


def test_another_search_under_the_same_name(store: Path, pictures: Path) -> None:
    data = load(SearchConfig(dataset=str(pictures)))
    config = SearchConfig(dataset=str(pictures), **QUICK, study="mine")  # type: ignore[arg-type]
    wanted = search.identity(search._resolved(config), data)
    Study(url_of(""), "mine", wanted).leave()
    for change in ({"trials": 9}, {"lr_high": 0.5}, {"val_fraction": 0.4}):
        other = dataclasses.replace(config, **change)
        with pytest.raises(BadInput, match="--study=mine is another search"):
            search.run(other, connect())
