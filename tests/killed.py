"""Processes that kill themselves by -9 at the place that they are told; final trainings above all.

They are forked from a process that has imported everything and started nothing: a fresh interpreter
imports for ten seconds. What happened before a kill stands in a file, a line an event.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint, model, train
from alexnet_mlflow.config import FinalConfig
from alexnet_mlflow.models import load_model
from alexnet_mlflow.stages import StageResult, final
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult

PRELOADED = [
    "alexnet_mlflow.stages.final", "alexnet_mlflow.stages.search", "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
    "torchvision.utils", "torch._dynamo", "torch.export", "scipy.stats", "optuna",
]
EVENTS, DONE = Path("events"), Path("done")
PATIENCE_SECONDS = 300
EACH_EPOCH = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")


@dataclass(frozen=True)
class Death:
    """Before this call (from 1) of a function, or after it; of training steps, counted in this
    process, at the latest at the last one that is left."""

    module: str
    name: str  # with a dot it is a method
    number: int = 1
    after: bool = False


@dataclass(frozen=True)
class Event:
    kind: str
    epoch: int
    at: float  # seconds, by the clock that all processes share


def started(target: Callable[..., object], *given: object) -> BaseProcess:
    """A process that calls this in the current folder, with the current store and network."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    where = mlflow.get_tracking_uri(), str(Path.cwd()), model.HIDDEN
    process = context.Process(target=_there, args=(*where, target, *given))
    process.start()
    return process


def _there(
    uri: str, folder: str, hidden: int, target: Callable[..., object], *given: object
) -> None:
    os.chdir(folder)
    model.HIDDEN = hidden
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow.set_tracking_uri(uri)
    target(*given)


def ended(process: BaseProcess) -> bool:
    """Wait. Has it come to its end, or was it killed?"""
    process.join(PATIENCE_SECONDS)
    assert process.exitcode in (0, -signal.SIGKILL), "see what it said"
    return process.exitcode == 0


def attempt(config: FinalConfig, death: Death | None) -> list[Event] | None:
    """Train in a process of its own, from the last checkpoint if there is one. What happened until
    it was killed; None where it has come to its end."""
    EVENTS.unlink(missing_ok=True)
    if ended(started(_train, config, death)):
        return None
    lines = EVENTS.read_text().splitlines() if EVENTS.exists() else []
    return [Event(kind, int(epoch), float(at)) for kind, epoch, at in map(str.split, lines)]


def on_disk() -> tuple[str | None, int]:
    """The run whose checkpoint is the newest, and the epoch that it was made after: 0 before the
    first; None, 0 where there is none."""
    for run_id in checkpoint.newest():
        file = checkpoint.path_of(run_id)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return run_id, epoch_of(state)
    return None, 0


def epoch_of(state: dict[str, Any]) -> int:
    return int(state["training"]["epoch"]) if state["training"] else 0


def _train(config: FinalConfig, death: Death | None) -> None:
    """A checkpoint is written as often as it can be."""
    checkpoint.SECONDS_BETWEEN = 0
    kept, epoch = on_disk()

    def note(kind: str, number: int) -> None:
        with open(EVENTS, "a") as file:
            file.write(f"{kind} {number} {time.monotonic()}\n")

    def watched(*given: Any) -> Iterator[EpochResult]:
        """It goes on from the checkpoint: with the same seed it would end the same without."""
        nonlocal epoch
        data, settings = given[1], given[2]
        if death and death.name == "train_step":
            left = -(-len(data.train) // settings.batch_size) * (settings.epochs - epoch)
            lay(replace(death, number=min(death.number, left)), lambda: note("killed", epoch))
        note("from", epoch)
        for result in train.fit(*given):
            epoch += 1
            assert result.epoch == epoch, f"epoch {result.epoch} follows {epoch - 1}"
            note("epoch", epoch)
            yield result

    offer, save = checkpoint.Writer.offer, checkpoint.save

    def offered(*given: Any) -> bool:
        begun = offer(*given)
        note("begun" if begun else "busy", epoch)
        return begun

    def saved(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        note("written", epoch_of(state))

    checkpoint.Writer.offer, checkpoint.save = offered, saved  # type: ignore[method-assign]
    final.fit = watched  # type: ignore[attr-defined]
    if death and death.name != "train_step":
        lay(death, lambda: note("killed", epoch))
    result = final.run(replace(config, resume="last" if kept else "no"), connect())
    DONE.write_text(f"{result.run_id} {result.model_uri}")


def lay(death: Death, last_word: Callable[[], None] = lambda: None) -> None:
    """This process will die there."""
    owner, name = sys.modules[death.module], death.name
    if "." in name:
        kind, name = name.split(".")
        owner = getattr(owner, kind)
    real, calls = getattr(owner, name), 0

    def called(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        found = real(*given, **named) if death.after or calls < death.number else None
        if calls == death.number:
            last_word()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, called)


def weights_of(uri: str) -> dict[str, torch.Tensor]:
    return load_model(uri).state_dict()


def same(straight: StageResult, epochs: int) -> str:
    """What has come to its end now has the same weights and figures as the straight training, each
    once, and leaves nothing else on disk. Returns its run."""
    run_id, uri = DONE.read_text().split()
    client = MlflowClient()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        assert len(steps) == len(set(steps)), f"{name} stands twice"
    for name in EACH_EPOCH:
        one, other = (
            [(point.step, point.value) for point in client.get_metric_history(each, name)]
            for each in (str(straight.run_id), run_id)
        )
        assert [step for step, _ in one] == list(range(1, epochs + 1)) and other == one, name
    assert straight.model_uri
    [model] = client.search_logged_models(["0"], f"source_run_id = '{run_id}'")
    assert str(model.status) == "READY" and model.model_id in uri
    expected, found = weights_of(straight.model_uri), weights_of(uri)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert checkpoint.newest() == [], "a checkpoint stays"
    assert not list(checkpoint.FOLDER.glob("journal/*")), "a journal stays"
    return run_id
