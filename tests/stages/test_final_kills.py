"""A final training that is killed by -9 again and again ends as if nothing had happened.

ALEXNET_KILLS is how often (4 where it is not set). The processes are forked from one that has
imported everything and started nothing, so that kills fall into the training.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint
from alexnet_mlflow.config import FinalConfig
from alexnet_mlflow.models import load_model
from alexnet_mlflow.stages import final
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult, fit

KILLS = int(os.environ.get("ALEXNET_KILLS", "4"))
EPOCHS = 8
PATIENCE_SECONDS = 300
PRELOADED = [
    "alexnet_mlflow.stages.final", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
]


def train(uri: str, folder: str, values: dict[str, Any]) -> None:
    """One process; it writes a checkpoint as often as it can."""
    os.chdir(folder)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow.set_tracking_uri(uri)
    checkpoint.SECONDS_BETWEEN = 0
    resume, kept = "no", 0
    if left := checkpoint.newest():
        resume, kept = "last", checkpoint.load(checkpoint.path_of(left[0]))["training"]["epoch"]

    def watched(*given: Any) -> Iterator[EpochResult]:
        """It goes on from the checkpoint: with the same seed it would end the same without."""
        for number, result in enumerate(fit(*given), kept + 1):
            assert result.epoch == number, f"epoch {result.epoch} is trained again"
            yield result

    final.fit = watched  # type: ignore[attr-defined]
    result = final.run(FinalConfig(**values, resume=resume), connect())
    Path("done").write_text(f"{result.run_id} {result.model_uri}")


def values(pictures: Path, optimizer: str, recipe: str) -> dict[str, Any]:
    return {
        "dataset": str(pictures), "optimizer": optimizer, "recipe": recipe, "lr": 1e-4,
        "weight_decay": 1e-4, "epochs": EPOCHS, "batch_size": 8, "device": "cpu",
    }


def weights_of(uri: str) -> dict[str, torch.Tensor]:
    return load_model(uri).state_dict()


@pytest.mark.parametrize(("optimizer", "recipe"), [("adam", "report"), ("sgd", "strong")])
def test_killed_at_random_moments_it_ends_with_the_same_weights(
    store: Path, pictures: Path, optimizer: str, recipe: str
) -> None:
    asked = values(pictures, optimizer, recipe)
    started = time.monotonic()
    straight = final.run(FinalConfig(**asked), connect())
    took = time.monotonic() - started
    assert straight.model_uri
    expected, client = weights_of(straight.model_uri), MlflowClient()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    chance, kills, within, ends = random.Random(0), 0, 0, 0
    while kills < KILLS or not ends:
        process = context.Process(
            target=train, args=(mlflow.get_tracking_uri(), str(store), asked)
        )
        process.start()
        if kills < KILLS:
            if kills % 2:  # every other one after a checkpoint
                while process.is_alive() and not checkpoint.newest():
                    time.sleep(0.01)
            process.join(chance.uniform(0.0, 0.6) * took)
            if process.is_alive():
                process.kill()
                kills += 1
                within += bool(checkpoint.newest())
        process.join(PATIENCE_SECONDS)
        assert process.exitcode in (0, -signal.SIGKILL), "see what it said"
        if process.exitcode == 0:
            run_id, uri = Path("done").read_text().split()
            assert checkpoint.newest() == [], "a checkpoint stays"
            same(client, straight.run_id, run_id)
            found = weights_of(uri)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
            ends += 1
    assert within, "no kill came after a checkpoint"


def same(client: MlflowClient, first: str | None, second: str) -> None:
    """Every epoch's metrics once, with the same values, and the figures of its end once."""
    run = client.get_run(second)
    assert run.info.status == "FINISHED"
    for name in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(second, name)]
        assert len(steps) == len(set(steps)), f"{name} stands twice"
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
        one, other = (
            [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
            for run_id in (str(first), second)
        )
        assert [step for step, _ in one] == list(range(1, EPOCHS + 1)) and other == one, name
