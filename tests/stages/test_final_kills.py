"""A final training that is killed by -9 at its start, in its midst and at its end ends as if it had
not been. tests/reliability/test_kills.py kills one at 50 random steps.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow.config import FinalConfig
from alexnet_mlflow.stages import final
from alexnet_mlflow.track import connect
from tests.killed import Death, attempt, on_disk, same

EPOCHS = 4
STEPS = 3  # of an epoch
START = Death("alexnet_mlflow.stages.final", "build")  # the run is there, and its first state
WRITTEN = Death("alexnet_mlflow.checkpoint", "flush")  # the first epoch's has just its name
MODEL = Death("alexnet_mlflow.stages.final", "_log_model", after=True)  # and nobody knows of it
END = Death("alexnet_mlflow.checkpoint", "remove")  # the run has its end


@pytest.mark.parametrize(
    ("optimizer", "recipe", "deaths"),
    [("adam", "report", [START, WRITTEN, MODEL]), ("sgd", "strong", [START, WRITTEN, END])],
    ids=["adam", "sgd"],
)
def test_killed_anywhere_it_ends_with_the_same_weights(
    store: Path, pictures: Path, optimizer: str, recipe: str, deaths: list[Death]
) -> None:
    config = FinalConfig(
        dataset=str(pictures), optimizer=optimizer, recipe=recipe, lr=1e-4, weight_decay=1e-4,
        epochs=EPOCHS, batch_size=8, device="cpu", limit=24,
    )
    straight = final.run(config, connect())
    chance, kept = random.Random(0), 0
    for death in deaths:
        assert attempt(config, death) is not None, f"it was not killed at {death.name}"
        if death is WRITTEN:  # and then two within an epoch
            for _ in range(2):
                kept = on_disk()[1]
                step = Death("alexnet_mlflow.train", "train_step", chance.randint(1, STEPS))
                seen = attempt(config, step)
                assert seen and seen[0].epoch == kept == seen[-1].epoch, "it began elsewhere"
    assert kept, "no kill came after a checkpoint"
    assert attempt(config, None) is None
    run_id = same(straight, EPOCHS)
    runs = {run.info.run_id for run in MlflowClient().search_runs(["0"])}
    assert runs == {run_id, straight.run_id}, "it was begun anew"
