"""What tracking costs: an epoch with MLflow on against one with it off.

    python benchmarks/bench_tracking.py --epochs 20

A table and one JSON line. One network trains on noise, epoch after epoch, in one process; between
two epochs the results go in turn to nobody, to a run in a new sqlite store, and to one on a real
`mlflow server` with such a store. Seconds: those of logging, with the share of the epoch before it.
Calls: of MLflow's client, counted.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import mlflow
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mlflow import MlflowClient

from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.model import build
from alexnet_mlflow.runs import NullTracker, Tracker
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import fit
from benchmarks.bench_step import CLASSES, config_of, noise
from benchmarks.record import spread, told
from tests.tracking_server import serving


def counted(client: Any) -> Counter[str]:
    """Count the calls of a client's public methods from now on."""
    calls: Counter[str] = Counter()

    def counting(name: str, method: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return method(*given, **named)

        return call

    for name in dir(MlflowClient):
        if not name.startswith("_") and callable(getattr(MlflowClient, name)):
            setattr(client, name, counting(name, getattr(client, name)))
    return calls


def opened(stack: ExitStack, uri: str) -> tuple[Tracker, Counter[str]]:
    """A run in a new store, and the calls that its client will have made."""
    mlflow.set_tracking_uri(uri)
    root = connect()
    calls = counted(root._client)  # type: ignore[attr-defined]
    run = stack.enter_context(root.child("bench", {"stage": "final"}))
    stack.callback(mlflow.set_tracking_uri, uri)  # a run is closed in the store that is set then
    calls.clear()
    return run, calls


@click.command()
@click.option("--epochs", default=20, show_default=True)
@click.option("--pictures", default=640, show_default=True, help="Of an epoch.")
def main(epochs: int, pictures: int) -> None:
    """Measure and print a table and one JSON line."""
    config = TrainConfig(**{**vars(config_of("sgd", 32)), "epochs": epochs})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "server").mkdir()
        places = {
            "off": (NullTracker(), Counter[str]()),
            "sqlite": opened(stack, f"sqlite:///{folder}/mlflow.db"),
            "server": opened(stack, stack.enter_context(serving(folder / "server"))),
        }
        seconds: dict[str, list[float]] = {name: [] for name in places}
        epoch_seconds = []
        for result in fit(build(CLASSES, 0), noise(pictures), config, torch.device("cpu")):
            epoch_seconds.append(result.epoch_seconds)
            for name, (tracker, _) in places.items():
                started = time.perf_counter()
                tracker.metrics(result.figures, result.epoch)
                seconds[name].append(time.perf_counter() - started)
    rows = {
        name: {
            "seconds": spread(seconds[name], 5),
            "of_an_epoch_of_2_s": round(statistics.median(seconds[name]) / 2, 5),
            "calls_an_epoch": {
                call: round(count / epochs, 2) for call, count in places[name][1].items()
                if count >= epochs
            },
        }
        for name in places
    }
    for name, row in rows.items():
        click.echo(f"{name:8} {row['seconds']['median'] * 1000:8.2f} ms an epoch, "
                   f"{row['of_an_epoch_of_2_s']:.2%} of one of 2 s; calls {row['calls_an_epoch']}")
    told(epochs=epochs, epoch_seconds=spread(epoch_seconds), **rows)


if __name__ == "__main__":
    main()
