"""Logged models: with their parameters, tags, files and figures, as their runs' own.

After the runs' copies are made, so that a model knows its run, and before these are filled, so that
their tags can name it. READY after its files are there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from alexnet_mlflow import reach, signals
from alexnet_mlflow.progress import Copying
from alexnet_mlflow.sync import files
from alexnet_mlflow.sync.marks import MARK, STATE, model_state, origin, place, plain
from alexnet_mlflow.sync.runs import Pair, Task, count_files, send


def copy(task: Task, pair: Pair, bar: Copying) -> None:
    """Every logged model of the experiment that has not been copied, or has changed since."""
    known = {}
    if pair.target:
        known = {one.tags[MARK]: one for one in task.target.models(pair.target) if MARK in one.tags}
    for model in task.source.models(pair.source.experiment_id):
        bar.one(model.name)
        mark = origin(model.tags, model.model_id)
        other = known.get(mark) or task.target.model(mark)
        if other is not None and other.model_id in (mark, model.model_id):  # the model itself
            task.ids.add(model.model_id, other.model_id)
            task.there["logged models"] += 1
            continue
        _model(task, pair, model, mark, other)


def _model(task: Task, pair: Pair, model: Any, mark: str, other: Any | None) -> None:
    artifacts = task.source.place(model.artifact_location)
    tree = artifacts.tree()
    state = model_state(model, tree)
    before = other.tags.get(STATE) if other else None
    kind = task.there if before == state else task.updated if before else task.copied
    kind["logged models"] += 1
    if other is None and not task.dry_run:
        with signals.held(seconds=reach.ANSWER_SECONDS):
            other = task.target.client.create_logged_model(
                pair.target, model.name, task.ids.get(model.source_run_id), {MARK: mark},
                {key: task.ids(text) for key, text in model.params.items()}, model.model_type,
            )
    if other is not None:
        task.ids.add(model.model_id, other.model_id)
    if other is None or before == state or task.dry_run:
        return
    to = task.target.place(other.artifact_location)
    count_files(task, files.copy(artifacts, to, tree, before is not None, task.ids))
    _figures(task, model, other)
    client = task.target.client
    tags = {key: task.ids(text) for key, text in plain(model.tags).items()}
    if tags := {key: text for key, text in tags.items() if other.tags.get(key) != text}:
        client.set_logged_model_tags(other.model_id, tags)
    if model.status != other.status and model.status.is_finalized(model.status):
        client.finalize_logged_model(other.model_id, model.status)
    client.set_logged_model_tags(other.model_id, {STATE: state})


def _figures(task: Task, model: Any, other: Any) -> None:
    """The metrics that describe the model, linked to it and to the run that measured them."""
    from mlflow.entities import Metric

    known = {(one.key, one.run_id, *place(one)) for one in other.metrics or []}
    points = defaultdict(list)
    for one in model.metrics or []:
        copy = task.copies.get(one.run_id)
        if copy and not copy.alone and (one.key, copy.run_id, *place(one)) not in known:
            points[copy.run_id].append(Metric(
                one.key, one.value, one.timestamp, one.step, other.model_id, one.dataset_name,
                one.dataset_digest, copy.run_id,
            ))
    for run_id, some in points.items():
        send(task, run_id, some)
