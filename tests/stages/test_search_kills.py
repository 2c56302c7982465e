"""A search that is killed by -9 again and again ends as if nothing had happened."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from alexnet_mlflow import checkpoint
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.stages import search
from alexnet_mlflow.track import connect
from tests.killed import Death, ended, lay, started
from tests.stages.test_search import rows_of

pytestmark = pytest.mark.usefixtures("narrow")

KILLS = int(os.environ.get("ALEXNET_KILLS", "4"))
STEPS = 12  # of two epochs
WRITTEN = Death("alexnet_mlflow.checkpoint", "flush")  # a trial's checkpoint has just its name
PLACES = [
    Death("alexnet_mlflow.train", "train_step"), WRITTEN,
    Death("alexnet_mlflow.study", "Claim.finish"),  # the trial is done, and the record not told
    Death("alexnet_mlflow.stages.search", "_closed"),  # all trials are done
]


def _search(config: SearchConfig, death: Death | None) -> None:
    checkpoint.SECONDS_BETWEEN = 0  # after every epoch
    if death:
        lay(death)
    search.run(config, connect())


@pytest.mark.skipif(
    "ALEXNET_SLOW" not in os.environ, reason="ALEXNET_SLOW is not set: kills a search many times"
)
@pytest.mark.parametrize("prune", ["halving"])
def test_the_table_of_a_killed_search_is_the_same(
    prune: str, store: Path, pictures: Path, tmp_path: Path, checked: None
) -> None:
    config = SearchConfig(
        dataset=str(pictures), batch_size=8, trials=3, fine_trials=2, epochs=3, repeats=1,
        optimizer="adam", lr_low=1e-5, lr_high=1e-3, seed=5, prune=prune, device="cpu", force=True,
    )
    search.run(replace(config, storage=f"sqlite:///{tmp_path}/whole.db"), connect())
    chance, within = random.Random(1), 0
    for number in range(KILLS):  # the last place is reached once
        death = PLACES[-1] if number == KILLS - 1 else PLACES[number % (len(PLACES) - 1)]
        if death.name == "train_step":
            death = replace(death, number=chance.randint(1, STEPS))
        assert not ended(started(_search, config, death)), f"it was not killed at {death.name}"
        within += bool(list(Path("checkpoints").glob("*/last.pt")))
    assert ended(started(_search, config, None))
    assert within or KILLS < 3, "no kill came within a trial"

    client = MlflowClient()
    first, *others = client.search_runs(
        ["0"], "tags.stage = 'search'", order_by=["attributes.start_time ASC"]
    )
    assert len(others) == 1, "a killed search has left a second parent, or nothing was searched"
    assert others[0].info.status == "FINISHED"
    same_table(client, first, others[0])
    same_trials(client, others[0])
    assert not list(Path("checkpoints").glob("*/last.pt")), "a checkpoint stays"


def same_table(client: MlflowClient, first: Run, second: Run) -> None:
    tables = [
        [{key: text for key, text in row.items() if key not in ("seconds", "run_id")}
         for row in rows_of(client, run.info.run_id)]
        for run in (first, second)
    ]
    assert tables[0] == tables[1]
    assert first.data.params["best_lr"] == second.data.params["best_lr"]


def same_trials(client: MlflowClient, parent: Run) -> None:
    """Every slot has one run, which is finished and has every epoch once."""
    trials = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    slots = [run.data.tags["slot"] for run in trials]
    assert sorted(slots) == sorted(set(slots)), "a trial has two runs"
    assert len(slots) == len(rows_of(client, parent.info.run_id))
    for run in trials:
        assert run.info.status == "FINISHED", run.data.tags["slot"]
        told = client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in told] == sorted({point.step for point in told})
