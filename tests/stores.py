"""MLflow stores to copy: one with a little of everything, what a store holds, and a real server."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric

from alexnet_mlflow.config import PromoteConfig
from alexnet_mlflow.stages import promote
from alexnet_mlflow.sync.marks import MARK, Ids, place, plain
from alexnet_mlflow.sync.stores import Store
from alexnet_mlflow.track import connect
from tests.evaluations import evaluated, predictions
from tests.tracking_server import serving

POINTS = 1203  # more than a request takes


def made(empty: Path, folder: Path, artifacts: str = "") -> str:
    """The address of an empty store in this folder."""
    folder.mkdir(exist_ok=True)
    shutil.copy(empty, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        location = artifacts or f"{folder}/mlruns/0"
        database.execute("UPDATE experiments SET artifact_location = ?", [location])
    database.close()
    return f"sqlite:///{folder}/mlflow.db"


def furnish() -> None:
    """Into the store that is set: a search, finals, evaluations, promotions, and odd ones."""
    client, root = MlflowClient(), connect()
    client.set_experiment_tag("0", "owner", "me")
    client.create_experiment("other", tags={"team": "x"})
    for right in (60, 75, 90):
        run = evaluated(root, predictions(np.arange(100) < right), right / 100)[1]
        promote.run(PromoteConfig(dataset="x", run=run), root)
    promote.run(PromoteConfig(dataset="x", rollback=True), root)
    client.set_registered_model_tag("alexnet-x", "promoting.left", "a ticket")
    other = client.get_experiment_by_name("other").experiment_id
    gone = client.create_run(other)
    client.delete_run(gone.info.run_id)
    with root.child("search", {"stage": "search", "dataset": "x"}) as search:
        search.params({f"parameter_{number:03d}": number for number in range(120)})
        search.json({"deep": 1}, "plots/inner/a.json")
        search.text("é\n", "läyers of it.txt")
        with search.child("trial 1", {"stage": "trial"}) as trial:
            trial.tags({"beside": f"{search.run_id},{trial.run_id}"})
            points = [Metric("loss", 1 / (1 + n), 10 + n, n) for n in range(POINTS)]
            for at in range(0, POINTS, 1000):
                client.log_batch(str(trial.run_id), metrics=points[at:at + 1000])
            client.log_batch(str(trial.run_id), metrics=[Metric("odd", float("nan"), 5, 1)])
        search.tags({"best_trial": trial.run_id})
    data = Dataset("pictures", "abc", "local", "{}", None, '{"n": 3}')
    model = client.search_logged_models(["0"])[0]
    client.log_inputs(
        str(search.run_id), [DatasetInput(data, [InputTag("mlflow.data.context", "training")])],
        [LoggedModelInput(model.model_id)],
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        (Path(folder) / "data" / "net.pt2").write_bytes(bytes(range(256)) * 40)
        (Path(folder) / "MLmodel").write_text(
            f"artifact_path: {model.artifact_location}\nmodel_id: {model.model_id}\n"
            f"run_id: {model.source_run_id}\n"
        )
        client.log_model_artifacts(model.model_id, folder)
    client.log_model_params(model.model_id, {"depth": "8"})
    client.set_logged_model_tags(model.model_id, {"kind": "net"})
    link = (model.model_id, "pictures", "abc", str(search.run_id))
    client.log_batch(str(search.run_id), metrics=[Metric("linked", 0.5, 7, 1, *link)])


def contents(uri: str) -> dict[str, Any]:
    """All that a store holds, with the originals' ids, so that a store and its copy are equal."""
    store = Store("", uri, uri, MlflowClient(uri, uri))
    back, numbers = Ids(), {}
    experiments = list(store.experiments())
    for one in experiments:
        for run in store.runs(one.experiment_id):
            back.add(run.info.run_id, run.data.tags.get(MARK, run.info.run_id))
        for model in store.models(one.experiment_id):
            back.add(model.model_id, model.tags.get(MARK, model.model_id))
    found: dict[str, Any] = {"experiments": sorted((one.name, one.tags) for one in experiments)}
    for one in experiments:
        runs = [_run(store, run, back) for run in store.runs(one.experiment_id)]
        models = [_model(store, model, back) for model in store.models(one.experiment_id)]
        found[f"runs of {one.name}"] = sorted(runs, key=str)
        found[f"models of {one.name}"] = sorted(models, key=str)
    for registered in store.registered():
        versions = store.versions(registered.name)
        numbers = {str(one.version): str(at) for at, one in enumerate(versions, 1)}
        found[registered.name] = {
            "tags": {key: text for key, text in plain(registered.tags).items()
                     if not key.startswith("promoting.")},
            "description": registered.description or "",
            "aliases": {key: numbers[str(to)] for key, to in registered.aliases.items()},
            "versions": [
                (back(one.source), back.get(one.run_id), back(one.description or ""),
                 _texts(plain(one.tags), back)) for one in versions
            ],
        }
    return found


def _texts(values: dict[str, str], back: Ids) -> dict[str, str]:
    return {key: back(text) for key, text in sorted(values.items())}


def _files(store: Store, location: str, back: Ids) -> dict[str, str]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for path, _ in store.place(location).tree():
            raw = store.place(location).fetch(path, folder).read_bytes()
            if path.endswith("MLmodel"):
                raw = back(raw.decode().replace(location, "HERE")).encode()
            found[path] = hashlib.sha256(raw).hexdigest()
    return found


def _run(store: Store, run: Any, back: Ids) -> tuple[Any, ...]:
    info, data = run.info, run.data
    history = {
        key: [place(one) for one in store.client.get_metric_history(info.run_id, key)]
        for key in sorted(data.metrics)
    }
    inputs = [
        (one.dataset.to_dictionary(), [(tag.key, tag.value) for tag in one.tags])
        for one in run.inputs.dataset_inputs
    ]
    models = [back.get(one.model_id) for one in run.inputs.model_inputs]
    outputs = [back.get(one.model_id) for one in run.outputs.model_outputs]
    return (
        back.get(info.run_id), info.run_name, info.status, info.start_time, info.end_time,
        _texts(data.params, back), _texts(plain(data.tags), back), history, inputs, models,
        outputs, _files(store, info.artifact_uri, back),
    )


def _model(store: Store, model: Any, back: Ids) -> tuple[Any, ...]:
    metrics = sorted(
        (one.key, *place(one), back.get(one.run_id), one.dataset_name, one.dataset_digest)
        for one in model.metrics or []
    )
    return (
        back.get(model.model_id), model.name, str(model.status), back.get(model.source_run_id),
        dict(model.params), plain(model.tags), metrics,
        _files(store, model.artifact_location, back),
    )


def dump(folder: Path) -> list[str]:
    """Every row of the database in this folder."""
    database = sqlite3.connect(folder / "mlflow.db")
    rows = list(database.iterdump())
    database.close()
    return rows


@contextmanager
def server(empty: Path, folder: Path) -> Iterator[str]:
    """A real `mlflow server` that keeps artifacts itself; its database lies in the folder."""
    made(empty, folder, "mlflow-artifacts:/0")
    with serving(folder) as uri:
        yield uri
