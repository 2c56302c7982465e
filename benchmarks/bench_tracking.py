"""What tracking costs: an epoch and a trial with MLflow on against the same with it off.

    python benchmarks/bench_tracking.py --epochs 20 --trials 5

A table and one JSON line. One network trains on noise, epoch after epoch, in one process; between
two epochs the results go in turn to nobody, to a run in a new sqlite store, to one on a real
`mlflow server` with such a store (its figures one by one, as one would write it, for comparison),
to that server while it is down, hangs, answers 500 or loses its answers, and to the search's own
record in Optuna. Then trials without training: run, tags, parameters, end. Seconds: those for which
training waits; what the thread that sends takes of a core meanwhile stands apart. Calls: of
MLflow's client, HTTP requests, and SQL statements of this process, until all has arrived, counted;
the server's own statements are not.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

import click
import mlflow
import requests
import sqlalchemy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mlflow import MlflowClient

from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.model import build
from alexnet_mlflow.runs import NullTracker, Tracker
from alexnet_mlflow.space import Point, Range, Space
from alexnet_mlflow.study import Claim, Slot, Study
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult, fit
from benchmarks.bench_step import CLASSES, config_of, noise
from benchmarks.record import shown, spread, told
from tests.flaky import MODES, flaky
from tests.tracking_server import serving

EPOCH_SECONDS = 2.0  # of the epoch that the share is told of
SPACE = Space(Range(1e-5, 1e5), Range(1e-6, 1e-3))


class Meter:
    """Seconds and calls of each kind of work, by its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.calls: dict[str, Counter[str]] = defaultdict(Counter)
        self._now: Counter[str] = Counter()
        send = requests.Session.send

        def sent(session: requests.Session, *given: Any, **named: Any) -> requests.Response:
            self._now["http requests"] += 1
            return send(session, *given, **named)

        def executed(*_: Any) -> None:
            self._now["sql statements"] += 1

        requests.Session.send = sent  # type: ignore[method-assign]
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", executed)

    def watch(self, client: MlflowClient) -> None:
        """Count the calls of a client's public methods from now on."""
        for name in dir(MlflowClient):
            if not name.startswith("_") and callable(getattr(MlflowClient, name)):
                setattr(client, name, self._counting(name, getattr(client, name)))

    def _counting(self, name: str, method: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            self._now[f"client.{name}"] += 1
            return method(*given, **named)

        return call

    @contextmanager
    def of(self, name: str, sent: Callable[[], object] = lambda: None) -> Iterator[None]:
        """The time and the calls of this block count for `name`; of `sent`, the calls alone."""
        self._now = self.calls[name]
        started = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - started)
        sent()
        self._now = Counter()

    def rows(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"seconds": spread(runs, 5), "calls": {
                call: round(count / len(runs), 2) for call, count in self.calls[name].items()
            }}
            for name, runs in self.seconds.items()
        }


def root_of(uri: str, meter: Meter) -> Tracker:
    mlflow.set_tracking_uri(uri)
    root = connect()
    meter.watch(root._client)  # type: ignore[attr-defined]
    return root


def run_below(root: Tracker) -> Tracker:
    """A run that no `with` keeps open: of several stores each can have one at the same time."""
    client = root._client  # type: ignore[attr-defined]
    return root.below(client.create_run(root._experiment_id).info.run_id)  # type: ignore[attr-defined]


def sending_seconds(run: Tracker) -> float:
    """CPU seconds so far of the thread that sends what this run logs."""
    thread = run._journal._thread  # type: ignore[attr-defined]
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def one_by_one(run: Tracker, result: EpochResult) -> None:
    """What one would write first."""
    for name, value in result.figures.items():
        run._client.log_metric(run.run_id, name, value, step=result.epoch)  # type: ignore[attr-defined]


def claimed(stack: ExitStack, folder: Path) -> Claim:
    study = stack.enter_context(Study(f"sqlite:///{folder}/optuna.db", "bench", {}))
    claim = study.claim([Slot("coarse", 1, SPACE, Point(1e-3, 1e-5), 0)])
    assert claim is not None
    stack.callback(claim.abandon)
    return claim


def trial(root: Tracker, config: TrainConfig) -> None:
    """A trial's calls but those of its epochs, as `search` makes them."""
    with root.child("trial", {"stage": "trial", "phase": "coarse", "slot": "coarse 1"}) as here:
        here.params(vars(config))
        here.metrics({"best_val_accuracy": 0.5, "best_epoch": 1}, 1)
        here.tags({"outcome": "completed"})


def ratios_of(meter: Meter) -> dict[str, list[float]]:
    """More is better: the share of an epoch that is left, what batching saves, calls saved."""
    seconds = meter.seconds
    ratios = {}
    for place in ("sqlite", "server", *MODES):
        ratios[f"of_an_epoch_of_2_s, {place}"] = [
            EPOCH_SECONDS / (EPOCH_SECONDS + cost) for cost in seconds[f"epoch: {place}"]
        ]
    for place in ("sqlite", "server"):
        ratios[f"one_by_one_over_batched, {place}"] = [
            single / batched for single, batched in zip(
                seconds[f"epoch: {place}, one by one"], seconds[f"epoch: {place}"], strict=True
            )
        ]
    kinds = {"sqlite": "sql statements", "server": "http requests", "search's record":
             "sql statements"}
    for name, row in meter.rows().items():
        if (kind := kinds.get(name.partition(": ")[2])) and row["calls"].get(kind):
            ratios[f"one_over_{kind.replace(' ', '_')}, {name}"] = [1 / row["calls"][kind]]
    return ratios


@click.command()
@click.option("--epochs", default=20, show_default=True)
@click.option("--trials", default=5, show_default=True)
@click.option("--pictures", default=640, show_default=True, help="Of an epoch.")
def main(epochs: int, trials: int, pictures: int) -> None:
    """Measure and print a table and one JSON line."""
    config = TrainConfig(**{**vars(config_of("sgd", 32)), "epochs": epochs})
    meter, epoch_seconds = Meter(), list[float]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(chdir(folder))  # where the journal is
        (folder / "server").mkdir()
        uris = {
            "sqlite": f"sqlite:///{folder}/mlflow.db",
            "server": stack.enter_context(serving(folder / "server")),
        }
        roots = {name: root_of(uri, meter) for name, uri in uris.items()}
        runs = {"off": NullTracker(), **{name: run_below(root) for name, root in roots.items()}}
        proxies = {mode: stack.enter_context(flaky(uris["server"])) for mode in MODES}
        for mode, proxy in proxies.items():
            runs[mode] = run_below(root_of(proxy.uri, meter))
            proxy.goes(mode)
        claim, curve = claimed(stack, folder), list[tuple[float, float]]()
        works: dict[str, Callable[[EpochResult], object]] = {
            name: lambda result, run=run: run.metrics(result.figures, result.epoch)
            for name, run in runs.items()
        }
        for name in roots:
            works[f"{name}, one by one"] = lambda result, run=runs[name]: one_by_one(run, result)
        works["search's record"] = lambda result: claim.report(curve)
        for result in fit(build(CLASSES, 0), noise(pictures), config, torch.device("cpu")):
            epoch_seconds.append(result.epoch_seconds)
            curve.append((result.val_accuracy, result.val_loss))
            for name, work in works.items():
                sent = roots[name]._link.drain if name in roots else lambda: None  # type: ignore[attr-defined]
                with meter.of(f"epoch: {name}", sent):
                    work(result)
        trained = sum(epoch_seconds)
        sending = {
            name: round(sending_seconds(runs[name]) / trained, 5) for name in (*roots, *MODES)
        }
        for mode, proxy in proxies.items():
            proxy.goes("well")
            runs[mode]._link.drain()  # type: ignore[union-attr]
        for name in (*roots, *MODES):
            runs[name]._journal.settle(0)  # type: ignore[union-attr]
        for _ in range(trials):
            for name, root in {"off": NullTracker(), **roots}.items():
                mlflow.set_tracking_uri(uris.get(name))
                with meter.of(f"trial: {name}"):
                    trial(root, config)
    rows = meter.rows()
    for name, row in rows.items():
        in_ms = spread([1000 * value for value in meter.seconds[name]])
        calls = ", ".join(f"{count:g} {call}" for call, count in row["calls"].items())
        click.echo(f"{shown(name, in_ms, 'ms')}  {calls}")
    shares = {
        name: round(statistics.median(meter.seconds[f"epoch: {name}"]) / EPOCH_SECONDS, 5)
        for name in ("off", "sqlite", "server", *MODES)
    }
    click.echo("Of an epoch of 2 s: " + ", ".join(f"{k} {v:.2%}" for k, v in shares.items()))
    takes = ", ".join(f"{name} {share:.2%}" for name, share in sending.items())
    click.echo(f"Sending takes of a core, while epochs are trained: {takes}")
    told(ratios=ratios_of(meter), sending_of_a_core=sending, of_an_epoch_of_2_s=shares,
         epoch_seconds=spread(epoch_seconds), rows=rows,
         runs=[{"of": name, "seconds": row["seconds"]["runs"]} for name, row in rows.items()])


if __name__ == "__main__":
    main()
