"""What is written to MLflow, and read back from it: the only file that logs runs.

A `Tracker` is one run, or the place where top-level runs begin (`connect`). Each epoch is one
batched call; only finite numbers are logged. A `NullTracker` does nothing, so that no caller asks
whether tracking is on. A tracker that was asked for and fails is told, never ignored.

Under `mlflow run` the first top-level run is the runner's own. What the runner has logged stays:
a parameter that came out otherwise (`lr=auto`) is logged beside it as `resolved_<name>`.

Left out: the registry (registry.py), and a journal for a server that goes away.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_mlflow import alive, exported, reach, signals
from alexnet_mlflow.data import Described
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say
from alexnet_mlflow.runs import PROCESS, SYNCED_FROM, FoundRun, LoggedModel, NullTracker, Tracker
from alexnet_mlflow.train import EpochResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient
    from torch import Tensor, nn

DIGEST_LENGTH = 36  # MLflow's limit for a data set's digest


def connect() -> Tracker:
    """The store that MLFLOW_TRACKING_URI names, else sqlite:///mlflow.db in the working folder.

    Raises BadInput where the store does not answer.
    """
    reach.prepare()
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = mlflow.get_tracking_uri()
    try:
        with reach.environment(reach.IMPATIENT):
            reach.probe(uri)
            client = mlflow.MlflowClient()
            return MlflowTracker(client, _experiment(client), None)
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


class MlflowTracker(NullTracker):
    """A run in MLflow; with `run_id` None, the place where top-level runs begin."""

    stores = True

    def __init__(self, client: MlflowClient, experiment_id: str, run_id: str | None) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._status = "FINISHED"
        self.run_id = run_id

    @property
    def _run(self) -> str:
        assert self.run_id is not None, "figures belong to a run: open one with child()"
        return self.run_id

    @contextmanager
    def child(
        self, name: str, tags: Mapping[str, object], run_id: str | None = None
    ) -> Iterator[Tracker]:
        import mlflow

        tags = {**tags, PROCESS: alive.myself()}  # whether it still runs: `doctor`
        run_id = self._here(run_id) if run_id else None
        runner = os.environ.pop("MLFLOW_RUN_ID", None) if self.run_id is None else None
        if runner and run_id:
            self.mark(runner, {**tags, "continues": run_id})
        with signals.held():
            run = mlflow.start_run(
                run_id=run_id or runner,
                run_name=name if runner is None or self._unnamed(runner) else None,
                nested=self.run_id is not None,
                parent_run_id=self.run_id,
                experiment_id=None if run_id or runner else self._experiment_id,
                tags={key: str(value) for key, value in tags.items()},  # there from the start
            )
        tracker = MlflowTracker(self._client, run.info.experiment_id, run.info.run_id)
        try:
            yield tracker
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
            with suppress(Exception):  # the first error is the one to be told
                tracker.tags({"outcome": "failed"})
            mlflow.end_run("KILLED" if stopped else "FAILED")
            raise
        with signals.held():
            mlflow.end_run(tracker._status)

    def below(self, run_id: str) -> Tracker:
        if runner := os.environ.pop("MLFLOW_RUN_ID", None):  # it is no trial
            self.mark(runner, {"stage": "search", "joins": run_id})
        run = self._client.get_run(self._here(run_id))
        return MlflowTracker(self._client, run.info.experiment_id, run.info.run_id)

    def _here(self, run_id: str) -> str:
        """The run's id in this store, into which it may have been copied under another."""
        found = self.found(run_id)
        return found.run_id if found else run_id

    def _unnamed(self, run_id: str) -> bool:
        """Has the runner made up the run's name, because the user gave none?"""
        name = self._client.get_run(run_id).info.run_name
        return re.fullmatch(r"[a-z]+-[a-z]+-\d+", name) is not None

    def params(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._run).data.params
        entries = []
        for name, value in values.items():
            text = _text(value)
            if name not in known:
                entries.append(Param(name, text))
            elif not _same(known[name], text) and f"resolved_{name}" not in known:
                entries.append(Param(f"resolved_{name}", text))
        self._send(self._run, params=entries)

    def tags(self, values: Mapping[str, object]) -> None:
        self.mark(self._run, values)

    def mark(self, run_id: str, values: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(name, str(value)) for name, value in values.items()]
        self._send(run_id, tags=entries)

    def metrics(
        self, values: Mapping[str, float], step: int = 0,
        model: LoggedModel | None = None, data: tuple[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        name, digest = (data[0], data[1][:DIGEST_LENGTH]) if data else (None, None)
        link = (model.model_id if model else None, name, digest, self._run)
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        entries = [Metric(key, value, now, step, *link) for key, value in finite.items()]
        self._send(self._run, metrics=entries)

    def _send(self, run_id: str, **entries: Any) -> None:
        with signals.held():
            self._client.log_batch(run_id, **entries)

    def figure(self, figure: Figure, path: str) -> None:
        self._client.log_figure(self._run, figure, path)

    def json(self, value: object, path: str) -> None:
        self.text(json.dumps(value, indent=2, allow_nan=False) + "\n", path)

    def text(self, value: str, path: str) -> None:
        self._client.log_text(self._run, value, path)

    def file(self, file: Path, folder: str = "") -> None:
        self._client.log_artifact(self._run, str(file), folder or None)

    def dataset(self, data: Described, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        served = data.source.startswith(("http://", "https://"))
        profile = {"sha256": data.digest, "counts": data.counts, "skipped": data.skipped}
        entity = Dataset(
            name=data.title,
            digest=data.digest[:DIGEST_LENGTH],
            source_type="http" if served else "local",
            source=json.dumps({"url" if served else "uri": data.source}),
            profile=json.dumps(profile),
        )
        entry = DatasetInput(entity, [InputTag("mlflow.data.context", context)])
        try:
            with signals.held():
                self._client.log_inputs(self._run, [entry])
        except MlflowException as error:
            # MLflow looks whether it has the data set, then writes it: of two runs that log it at
            # the same moment one fails, whole, and finds it there the second time.
            if "unique" not in str(error).lower():
                raise
            with signals.held():
                self._client.log_inputs(self._run, [entry])

    def model(
        self, model: nn.Module, example: Tensor, classes: Sequence[str]
    ) -> LoggedModel | None:
        import mlflow
        import numpy as np
        import torch
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        from alexnet_mlflow import served

        with torch.inference_mode():
            answers = model(example).shape[1]
        assert len(classes) == answers, "a name for each class"
        pixels = TensorSpec(np.dtype("float32"), (-1, *example.shape[1:]))
        signature = ModelSignature(
            Schema([pixels]), Schema([ColSpec("float", name) for name in classes])
        )
        packages = [f"torch=={torch.__version__.split('+')[0]}", f"mlflow=={mlflow.__version__}"]
        with signals.held():
            info = Model.log(
                artifact_path=None,
                name="model",
                flavor=served,
                metadata={served.CLASSES: list(classes)},
                pytorch_model=model,
                signature=signature,
                input_example=example.numpy(),
                serialization_format="pt2",
                pip_requirements=[*packages, f"numpy=={np.__version__}"],
            )
        return LoggedModel(info.model_uri, info.model_id)

    def leave(self) -> None:
        self._status = "RUNNING"

    def fail(self) -> None:
        self._status = "FAILED"

    def steps(self, metric: str) -> set[int]:
        return {point.step for point in self._client.get_metric_history(self._run, metric)}

    def latest(self, **tags: str) -> FoundRun | None:
        return self._first(["attributes.status = 'FINISHED'"], tags, "DESC")

    def newest(self, **tags: str) -> FoundRun | None:
        return self._first([], tags, "DESC")

    def child_with(self, **tags: str) -> FoundRun | None:
        return self._first([f"tags.`mlflow.parentRunId` = '{self._run}'"], tags, "ASC")

    def count(self, **tags: str) -> int:
        from mlflow.entities import ViewType

        found, token = 0, None
        while True:
            runs = self._client.search_runs(
                [self._experiment_id], _wanted([], tags), ViewType.ALL, page_token=token
            )
            found, token = found + len(runs), runs.token
            if not token:
                return found

    def _first(
        self, conditions: list[str], tags: Mapping[str, str], order: str
    ) -> FoundRun | None:
        runs = self._client.search_runs(
            [self._experiment_id],
            _wanted(conditions, tags),
            order_by=[f"attributes.start_time {order}"],
            max_results=1,
        )
        return _found(runs[0]) if runs else None

    def fetched(self, run_id: str, path: str, folder: Path) -> Path | None:
        from mlflow.exceptions import MlflowException

        try:
            with reach.environment(reach.SILENT):
                return Path(self._client.download_artifacts(run_id, path, str(folder)))
        except (MlflowException, OSError):
            return None

    def found(self, run_id: str) -> FoundRun | None:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException:
            return self._first([], {SYNCED_FROM: run_id}, "ASC") if run_id.isalnum() else None
        return _found(run) if run.info.lifecycle_stage == "active" else None


def load_model(uri: str) -> nn.Module:
    """A logged model, on the CPU; nothing in its files is run. BadInput where it cannot be."""
    os.environ.update(reach.SAFE)
    import mlflow.pytorch
    from mlflow.models import Model

    try:
        folder = mlflow.artifacts.download_artifacts(uri)
        exported.check(Path(folder), Model.load(folder).flavors["pytorch"])
        model: nn.Module = mlflow.pytorch.load_model(folder, device="cpu")
    except Exception as error:  # a dozen types, from URIs that are none to files that are cut off
        raise _no_model(uri, error) from error
    return model


def model_classes(uri: str) -> tuple[str, ...]:
    """The names of what a logged model answers, in order; `class 0` ... where it has none.

    Raises BadInput where the model is not there, or does not say what it answers.
    """
    from mlflow.models import Model

    from alexnet_mlflow.served import CLASSES

    try:
        info = Model.load(uri)
        if names := (info.metadata or {}).get(CLASSES):
            return tuple(map(str, names))
        count = info.signature.outputs.inputs[0].shape[-1]
    except Exception as error:  # as above; and a model without a signature
        raise _no_model(uri, error) from error
    say(f"The model {uri} does not name its classes: they are called class 0, class 1 and so on.")
    return tuple(f"class {number}" for number in range(count))


def _no_model(uri: str, error: Exception) -> BadInput:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return BadInput(
        f"the model {uri!r} cannot be loaded ({reach.without_password(reason).rstrip('.')}): give "
        "the URI of one that was logged, such as models:/alexnet-faces@champion, and in "
        "MLFLOW_TRACKING_URI the store that has it"
    )


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


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _same(logged: str, text: str) -> bool:
    """The same text, or the same number written otherwise (1e-3 and 0.001)."""
    try:
        return float(logged) == float(text)
    except ValueError:
        return logged.lower() == text.lower()


def _wanted(conditions: list[str], tags: Mapping[str, str]) -> str:
    """A filter of runs: these conditions and all of these tags."""
    of_tags = (f"tags.{name} = '{value}'" for name, value in tags.items())
    return " and ".join([*conditions, *of_tags])


def _found(run: Any) -> FoundRun:
    return FoundRun(run.info.run_id, run.data.params, run.data.metrics, run.data.tags)
