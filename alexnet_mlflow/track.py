"""What is written to MLflow, and read back from it: the only file that logs runs.

A `Tracker` is one run, or the place where top-level runs begin (`connect`). Each epoch is one
batched call; only finite numbers are logged. A `NullTracker` does nothing, so that no caller asks
whether tracking is on. A tracker that was asked for and fails is told, never ignored.

Under `mlflow run` the first top-level run is the runner's own. What the runner has logged stays:
a parameter that came out otherwise (`lr=auto`) is logged beside it as `resolved_<name>`.

What is logged goes to the journal (journal.py), which sends it; what needs an answer is asked for
when that has arrived, and waits while the store is away. Left out: the registry (registry.py).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_mlflow import alive, models, reach, runs, signals
from alexnet_mlflow.data import Described
from alexnet_mlflow.delivery import Link
from alexnet_mlflow.journal import END_SECONDS, Left
from alexnet_mlflow.runs import PROCESS, SYNCED_FROM, FoundRun, LoggedModel, NullTracker, Tracker
from alexnet_mlflow.train import EpochResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient
    from torch import Tensor, nn

FETCHES = 5  # how often a file that is listed is asked for again
DIGEST_LENGTH = 36  # MLflow's limit for a data set's digest


def connect() -> Tracker:
    """The store that MLFLOW_TRACKING_URI names, else sqlite:///mlflow.db in the working folder.

    Raises BadInput where the store does not answer.
    """
    return connected()[0]


def connected() -> tuple[Tracker, Left]:
    """The same, and what came of journals that earlier processes have left for this store."""
    reach.prepare()
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = mlflow.get_tracking_uri()
    try:
        with reach.environment(reach.IMPATIENT):
            reach.probe(uri)
            client = mlflow.MlflowClient()
            experiment, link = _experiment(client), Link(client, reach.without_password(uri))
            return MlflowTracker(link, experiment, None), link.deliver()
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise reach.unanswered(uri, error) from error


def _experiment(client: MlflowClient) -> str:
    """The experiment's id by MLflow's own rules: the name's, the id's, else Default."""
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        known = client.get_experiment_by_name(name)
        return str(known.experiment_id if known else client.create_experiment(name))
    experiment = os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
    client.get_experiment(experiment)
    return experiment


_last_ms = 0


class MlflowTracker(NullTracker):
    """A run in MLflow; with `run_id` None, the place where top-level runs begin."""

    stores = True

    def __init__(
        self, link: Link, experiment_id: str, run_id: str | None,
        known: Mapping[str, str] | None = None,
    ) -> None:
        self._link, self._client, self._journal = link, link.client, link.journal
        self._experiment_id = experiment_id
        self._status = "FINISHED"
        self._params = dict(known or {})
        # metric -> step -> value and time: what a process before this one has logged last
        self._had: dict[str, dict[int, tuple[float, int]]] = {}
        self.run_id = run_id

    @property
    def _run(self) -> str:
        assert self.run_id is not None, "figures belong to a run: open one with child()"
        return self.run_id

    @contextmanager
    def child(
        self, name: str, tags: Mapping[str, object], run_id: str | None = None
    ) -> Iterator[Tracker]:
        tags = {**tags, PROCESS: alive.myself()}  # whether it still runs: `doctor`
        run_id = run_id and self._here(run_id)
        runner = os.environ.pop("MLFLOW_RUN_ID", None) if self.run_id is None else None
        if runner and run_id:
            self.mark(runner, {**tags, "continues": run_id})
        texts = {key: str(value) for key, value in tags.items()}  # there from the start
        with self._journal.open_run():
            tracker = MlflowTracker(self._link, self._experiment_id, None if run_id else runner)
            try:
                if run_id:
                    tracker._take_up(tracker._reopen(run_id, None, texts))
                elif runner:
                    tracker._reopen(runner, name, texts)
                else:
                    if self.run_id is not None:
                        texts["mlflow.parentRunId"] = self.run_id
                    self._link.create(self._experiment_id, name, texts, tracker._is)
                yield tracker
            except BaseException as error:
                if tracker.run_id is not None:
                    tracker._broken_off(error)
                raise
            if tracker._status != "RUNNING":
                tracker._end(tracker._status)
            if self.run_id is not None:  # another process may go on with it
                self._link.drain()

    def _broken_off(self, error: BaseException) -> None:
        """Close the run; a signal now must not leave it open."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        with signals.held():
            with suppress(Exception):  # the first error is the one to be told
                self.tags({"outcome": "failed"})
            with suppress(Exception):  # a full disk takes no tags
                self._end("KILLED" if stopped else "FAILED")

    def _is(self, run: Run) -> None:
        """It is this run from now on."""
        self.run_id, self._experiment_id = run.info.run_id, run.info.experiment_id
        self._params = dict(run.data.params)

    def _reopen(self, run_id: str, name: str | None, tags: Mapping[str, str]) -> Run:
        """A run that is there: what a process that is gone has left of it comes first. It stays as
        it is where the disk takes nothing."""
        self._link.deliver(patiently=True)
        named = name if name and self._unnamed(run_id) else None
        self._journal.add(run_id, "batch", {"tags": dict(tags)})
        self.run_id = run_id
        self._link.asked(lambda: self._client.update_run(run_id, "RUNNING", named))
        run = self._link.asked(lambda: self._client.get_run(run_id))
        self._is(run)
        return run

    def below(self, run_id: str) -> Tracker:
        if runner := os.environ.pop("MLFLOW_RUN_ID", None):  # it is no trial
            self.mark(runner, {"stage": "search", "joins": run_id})
        here = self._here(run_id)
        run = self._link.asked(lambda: self._client.get_run(here))
        return MlflowTracker(self._link, run.info.experiment_id, here, run.data.params)

    def _here(self, run_id: str) -> str:
        """The run's id in this store, into which it may have been copied under another."""
        found = self.found(run_id)
        return found.run_id if found else run_id

    def _unnamed(self, run_id: str) -> bool:
        """Has the runner made up the run's name, because the user gave none?"""
        name = self._link.asked(lambda: self._client.get_run(run_id)).info.run_name
        return re.fullmatch(r"[a-z]+-[a-z]+-\d+", name) is not None

    def _end(self, status: str) -> None:
        values = {"status": status, "time_ms": _now_ms()}
        try:
            if mark := self._link.doubtful.get(self._run):
                self._journal.add(self._run, "only", {"mark": mark})
            self._journal.add(self._run, "end", values)
        except OSError:
            if not self._link.sent(self._run, "end", values):
                raise

    def params(self, values: Mapping[str, object]) -> None:
        known, new = self._params, {}
        for name, value in values.items():
            text = runs.text_of(value)
            if name not in known:
                new[name] = text
            elif not runs.same_value(known[name], text) and f"resolved_{name}" not in known:
                new[f"resolved_{name}"] = text
        known.update(new)
        self._journal.add(self._run, "batch", {"params": new})

    def tags(self, values: Mapping[str, object]) -> None:
        self.mark(self._run, values)

    def mark(self, run_id: str, values: Mapping[str, object]) -> None:
        texts = {name: str(value) for name, value in values.items()}
        self._journal.add(run_id, "batch", {"tags": texts}, own=run_id == self.run_id)
        self._journal.settle(END_SECONDS)

    def metrics(
        self, values: Mapping[str, float], step: int = 0,
        model: LoggedModel | None = None, data: tuple[str, str] | None = None,
    ) -> None:
        now = _now_ms()
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        entries: dict[str, Any] = {
            "metrics": [
                (key, value, self._since(key, step, value, now), step)
                for key, value in finite.items()
            ]
        }
        if model or data:
            name, digest = (data[0], data[1][:DIGEST_LENGTH]) if data else (None, None)
            entries["link"] = (model.model_id if model else None, name, digest, self._run)
        self._journal.add(self._run, "batch", entries)

    def _since(self, metric: str, step: int, value: float, now: int) -> int:
        """When this was logged: by the process before, if what stands at this step is the same, so
        that MLflow, which drops a row that it has, keeps one."""
        known = self._had.get(metric, {}).get(step)
        return known[1] if known and known[0] == value else now

    def _take_up(self, run: Run) -> None:
        """Learn what a process before this one has logged: times go on from there."""
        global _last_ms
        _last_ms = max(_last_ms, run.info.start_time)
        for metric in run.data.metrics:
            points = self._link.asked(partial(self._client.get_metric_history, self._run, metric))
            points.sort(key=lambda point: point.timestamp)
            self._had[metric] = {one.step: (one.value, one.timestamp) for one in points}
            _last_ms = max([_last_ms, *(one.timestamp for one in points)])

    def figure(self, figure: Figure, path: str) -> None:
        self._keep(path, figure.savefig)

    def json(self, value: object, path: str) -> None:
        self.text(json.dumps(value, indent=2, allow_nan=False) + "\n", path)

    def text(self, value: str, path: str) -> None:
        self._keep(path, lambda copy: copy.write_text(value, encoding="utf-8"))

    def file(self, file: Path, folder: str = "") -> None:
        self._keep(f"{folder}/{file.name}", lambda copy: shutil.copyfile(file, copy))

    def _keep(self, path: str, write: Callable[[Path], object]) -> None:
        folder, _, name = path.rpartition("/")
        self._journal.add(self._run, "file", {"folder": folder}, name, write)

    def dataset(self, data: Described, context: str) -> None:
        served = data.source.startswith(("http://", "https://"))
        profile = {"sha256": data.digest, "counts": data.counts, "skipped": data.skipped}
        source, kind = ({"url": data.source}, "http") if served else ({"uri": data.source}, "local")
        entity = {
            "name": data.title, "digest": data.digest[:DIGEST_LENGTH], "source_type": kind,
            "source": json.dumps(source), "profile": json.dumps(profile),
        }
        self._journal.add(self._run, "data", {"entity": entity, "context": context})

    def model(
        self, model: nn.Module, example: Tensor, classes: Sequence[str]
    ) -> LoggedModel | None:
        def log() -> LoggedModel:
            for left in self._models():  # of a try whose answer was lost, or of a process killed
                self._client.delete_logged_model(left)
            with reach.environment(reach.ONCE, always=True), reach.environment(reach.LARGE):
                return models.log(self._run, model, example, classes)

        return self._link.asked(log)

    def _models(self) -> set[str]:
        """The ids of the models that this run has logged."""
        of_run = f"source_run_id = '{self._run}'"
        found = self._client.search_logged_models([self._experiment_id], of_run)
        return {model.model_id for model in found}

    def leave(self) -> None:
        self._status = "RUNNING"

    def fail(self) -> None:
        self._status = "FAILED"

    def steps(self, metric: str) -> set[int]:
        ask = partial(self._client.get_metric_history, self._run, metric)
        return {point.step for point in self._link.asked(ask)}

    def latest(self, **tags: str) -> FoundRun | None:
        return self._first(["attributes.status = 'FINISHED'"], tags, "DESC")

    def newest(self, **tags: str) -> FoundRun | None:
        return self._first([], tags, "DESC")

    def child_with(self, **tags: str) -> FoundRun | None:
        return self._first([f"tags.`mlflow.parentRunId` = '{self._run}'"], tags, "ASC")

    def count(self, **tags: str) -> int:
        from mlflow.entities import ViewType

        def page(token: str | None) -> Any:
            where = [self._experiment_id], _wanted([], tags), ViewType.ALL
            return self._link.asked(lambda: self._client.search_runs(*where, page_token=token))

        runs = page(None)
        found = len(runs)
        while runs.token:
            runs = page(runs.token)
            found += len(runs)
        return found

    def _first(
        self, conditions: list[str], tags: Mapping[str, str], order: str
    ) -> FoundRun | None:
        by, wanted = [f"attributes.start_time {order}"], _wanted(conditions, tags)
        runs = self._link.asked(lambda: self._client.search_runs(
            [self._experiment_id], wanted, order_by=by, max_results=1
        ))
        return _found(runs[0]) if runs else None

    def fetched(self, run_id: str, path: str, folder: Path) -> Path | None:
        from mlflow.exceptions import MlflowException

        listed = partial(self._client.list_artifacts, run_id, path.rpartition("/")[0] or None)
        tries = count(1)
        def fetch() -> Path:
            try:
                return Path(self._client.download_artifacts(run_id, path, str(folder)))
            except MlflowException as error:  # whatever went wrong, it says that the path is wrong
                listed()  # raises where the store is away
                if next(tries) > FETCHES:
                    raise
                raise ConnectionError(f"{path} of run {run_id} does not come") from error

        try:
            with reach.environment(reach.SILENT):
                there = {one.path for one in self._link.asked(listed)}
                return self._link.asked(fetch) if path in there else None
        except (MlflowException, OSError):
            return None

    def found(self, run_id: str) -> FoundRun | None:
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            run = self._link.asked(lambda: self._client.get_run(run_id))
            return _found(run) if run.info.lifecycle_stage == "active" else None
        return self._first([], {SYNCED_FROM: run_id}, "ASC") if run_id.isalnum() else None


def logged(
    tracker: Tracker, results: Iterable[EpochResult], known: Container[int] = ()
) -> Iterator[EpochResult]:
    """The same results, each logged as it passes: one call an epoch, finite numbers only.

    known: epochs that the run has already.
    """
    for result in results:
        if result.epoch not in known:
            tracker.metrics(result.figures, result.epoch)
        yield result


def _now_ms() -> int:
    """The time; where the clock was put back, a millisecond after what this process or the run's
    last one told last: MLflow orders a metric's history by it."""
    global _last_ms
    _last_ms = max(_last_ms + 1, int(time.time() * 1000))
    return _last_ms


def _wanted(conditions: list[str], tags: Mapping[str, str]) -> str:
    """A filter of runs: these conditions and all of these tags."""
    of_tags = (f"tags.{name} = '{value}'" for name, value in tags.items())
    return " and ".join([*conditions, *of_tags])


def _found(run: Any) -> FoundRun:
    return FoundRun(run.info.run_id, run.data.params, run.data.metrics, run.data.tags)
