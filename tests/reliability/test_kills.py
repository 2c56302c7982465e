"""One final training that is killed by -9 at 50 random steps ends as if nothing had happened.

What a kill may cost: the epoch that was begun, and those that ended while the checkpoint before was
being written, within ten seconds. The state is written as often as it can be, so that a short run
meets many checkpoints. The network is a narrower one:
states of 0.3 GB are met in tests/stages/test_final_kills.py.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow.config import FinalConfig
from alexnet_mlflow.stages import final
from alexnet_mlflow.track import connect
from tests.killed import Death, Event, attempt, on_disk, same

pytestmark = pytest.mark.usefixtures("narrow")

KILLS = int(os.environ.get("ALEXNET_KILLS", "50"))
EPOCHS = 70
EARLY, FEW, MANY = 5, 3, 20  # so many kills come within FEW steps, an epoch; the others within MANY
LOST_SECONDS = 10.0
NOTED_SECONDS = 0.5  # what lies between an event and its note, on a busy machine


def test_a_run_killed_at_random_steps_is_the_same(store: Path, pictures: Path) -> None:
    config = FinalConfig(
        dataset=str(pictures), optimizer="adam", lr=1e-4, weight_decay=1e-4, epochs=EPOCHS,
        batch_size=8, device="cpu", limit=24,
    )
    straight = final.run(config, connect())
    chance, before, again, costs = random.Random(0), 0, 0, list[float]()
    for number in range(KILLS):
        steps = chance.randint(1, FEW if number < EARLY else MANY)
        death = Death("alexnet_mlflow.train", "train_step", steps, after=chance.random() < 0.5)
        seen = attempt(config, death)
        assert seen is not None, "it ended before its last step"
        _, kept = on_disk()
        complete, seconds = lost(seen, kept)
        before += kept == 0
        again += len(complete)
        costs.append(seconds)
        print(f"kill {number + 1}: step {steps}, epoch {seen[-1].epoch + 1}, goes on after {kept}, "
              f"{len(complete)} whole epochs again, {seconds:.1f} s")
    assert attempt(config, None) is None
    run_id = same(straight, EPOCHS)
    assert max(costs) <= LOST_SECONDS
    assert before >= EARLY and KILLS - before >= KILLS // 2, "too few in the first epoch, or after"
    runs = {run.info.run_id for run in MlflowClient().search_runs(["0"])}
    assert runs == {run_id, straight.run_id}, "it was begun anew"


def lost(seen: list[Event], kept: int) -> tuple[list[int], float]:
    """The whole epochs that will be trained again, and how long ago the first one was begun. Each
    had a reason: the checkpoint was being written, its own or one before."""
    ended = {one.epoch: one.at for one in seen if one.kind in ("from", "epoch")}
    begun = {one.epoch: one.at for one in seen if one.kind == "begun"}
    written = {one.epoch: one.at for one in seen if one.kind == "written"}
    [death] = [one for one in seen if one.kind == "killed"]  # a thread may have noted another
    assert kept in ended, "what was on disk before is lost"
    assert kept >= max(written, default=0), "what was written is lost"
    again = [epoch for epoch in ended if epoch > kept]
    for epoch in again:
        assert epoch in begun or any(
            begun[one] <= ended[epoch] <= written.get(one, death.at) + NOTED_SECONDS
            for one in begun
        ), f"epoch {epoch} was not written, and nothing else was being written"
    assert len(begun.keys() - written.keys()) <= 1, "one at a time"
    return again, death.at - ended[kept]
