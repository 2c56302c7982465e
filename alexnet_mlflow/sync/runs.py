"""Experiments and runs: each run's copy is made, empty but for its mark, then all are filled.

Made first, so that every id is known when tags, parameters and inputs that name another run are
written. Filled in an order that may break off anywhere: what is there is looked at and only the
rest is written, the status after everything else, so that no stage takes a half copy for a finished
run, and the digest last. A run that still runs is copied as far as it is, and the next sync goes on
with it. A copy that was deleted in the target stays deleted; a run that is there as itself, because
the source is a copy of the target, is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from alexnet_mlflow import reach, signals
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import Copying
from alexnet_mlflow.sync import files
from alexnet_mlflow.sync.marks import MARK, STATE, Ids, origin, place, plain, run_state
from alexnet_mlflow.sync.stores import Store

POINTS = 1000  # metrics a request: MLflow's limit
TEXTS = 50  # tags or parameters a request: 100 is the limit, and a megabyte
COUNTS = ("test_looks",)  # tags that count: neither store's may be lost
RUN_NAME, USER = "mlflow.runName", "mlflow.user"
UNFINISHED = ("RUNNING", "SCHEDULED")
One = TypeVar("One")


@dataclass
class Copy:
    """What stands in the target for a run of the source."""

    run_id: str
    state: str | None = None  # None: it was never complete
    alone: bool = False  # deleted there, or no copy but the run itself: nothing is written to it


@dataclass(frozen=True)
class Task:
    """One sync: the stores, what stands for what, and what has been done."""

    source: Store
    target: Store
    dry_run: bool
    ids: Ids = field(default_factory=Ids)
    copies: dict[str, Copy] = field(default_factory=dict)  # by the source's run id
    copied: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # sentences for people
    own: list[str] = field(default_factory=list)  # ids that both stores have


@dataclass(frozen=True)
class Pair:
    """An experiment and the one of its name in the target; None where a dry run makes none."""

    source: Any
    target: str | None


def experiments(task: Task) -> list[Pair]:
    """Every experiment of the source, by name; missing ones are made, missing tags set.

    BadInput, before anything is written, where one is deleted in the target, or where artifacts
    cannot be reached.
    """
    found = []
    for one in task.source.experiments():
        other = task.target.client.get_experiment_by_name(one.name)
        if other is not None and other.lifecycle_stage != "active":
            raise BadInput(
                f"experiment {one.name!r} is deleted in {task.target.shown}: bring it back with "
                f"`mlflow experiments restore --experiment-id {other.experiment_id}`, or rename it"
            )
        if next(task.source.runs(one.experiment_id), None) is not None:
            task.source.reachable(one)
            if other is not None:
                task.target.reachable(other)
        found.append((one, other))
    return [_experiment(task, one, other) for one, other in found]


def _experiment(task: Task, one: Any, other: Any | None) -> Pair:
    (task.copied if other is None else task.there)["experiments"] += 1
    if task.dry_run:
        return Pair(one, other.experiment_id if other else None)
    if other is None:
        with signals.held(seconds=reach.ANSWER_SECONDS):
            made = task.target.client.create_experiment(one.name, tags=dict(one.tags))
        task.target.reachable(task.target.client.get_experiment(made))
        return Pair(one, made)
    for key, text in one.tags.items():
        if key not in other.tags:
            task.target.client.set_experiment_tag(other.experiment_id, key, text)
    return Pair(one, other.experiment_id)


def begin(task: Task, pair: Pair) -> None:
    """Make the copies that are missing, with their marks and nothing else; learn all ids."""
    known = _known(task, pair.target) if pair.target else {}
    for run in task.source.runs(pair.source.experiment_id):
        run_id, mark = run.info.run_id, origin(run.data.tags, run.info.run_id)
        copy = known.get(mark) or _itself(task, mark)
        if copy is None:
            copy = Copy("")
            if not task.dry_run:
                copy.run_id = _made(task, pair, run, mark)
        if copy.run_id == run_id:
            copy.alone = True
            task.own.append(run_id)
        task.copies[run_id] = copy
        if copy.run_id:
            task.ids.add(run_id, copy.run_id)


def _known(task: Task, experiment_id: str) -> dict[str, Copy]:
    """Mark -> the copy that has it. Of two, made by a request that was sent again, one is kept."""
    found: dict[str, Copy] = {}
    for run in task.target.runs(experiment_id, f"tags.{MARK} LIKE '%'", deleted=True):
        tags, deleted = run.data.tags, run.info.lifecycle_stage != "active"
        copy, other = Copy(run.info.run_id, tags.get(STATE), deleted), found.get(tags[MARK])
        if other is not None:
            copy, spare = sorted((copy, other), key=lambda one: (one.alone, one.state is None))
            if not (spare.alone or spare.state or task.dry_run):
                task.target.client.delete_run(spare.run_id)
        found[tags[MARK]] = copy
    return found


def _itself(task: Task, mark: str) -> Copy | None:
    """The run itself: the target is what it was copied from, or one store with the source."""
    return Copy(mark, alone=True) if task.target.run(mark) else None


def _made(task: Task, pair: Pair, run: Any, mark: str) -> str:
    tags = {key: run.data.tags[key] for key in (USER,) if key in run.data.tags}
    with signals.held(seconds=reach.ANSWER_SECONDS):
        made = task.target.client.create_run(
            pair.target, run.info.start_time, {**tags, MARK: mark}, run.info.run_name
        )
    return str(made.info.run_id)


def fill(task: Task, pair: Pair, bar: Copying) -> None:
    """Bring every copy to what its run is now."""
    for run in task.source.runs(pair.source.experiment_id):
        copy = task.copies.get(run.info.run_id)
        if copy is None:  # it began a moment ago
            continue
        bar.one(run.info.run_name)
        if copy.alone:
            task.there["runs"] += 1
            continue
        artifacts = task.source.place(run.info.artifact_uri)
        tree = artifacts.tree()
        state = run_state(run, tree)
        if copy.state == state:
            task.there["runs"] += 1
            continue
        (task.updated if copy.state else task.copied)["runs"] += 1
        if run.info.status in UNFINISHED:
            task.copied["running"] += 1
        if not task.dry_run:
            other = task.target.client.get_run(copy.run_id)
            _texts(task, run, other)
            send(task, copy.run_id, _points(task, run, other))
            _links(task, run, other)
            to = task.target.place(other.info.artifact_uri)
            count_files(task, files.copy(artifacts, to, tree, copy.state is not None, task.ids))
            _close(task, run, other)
            task.target.client.set_tag(copy.run_id, STATE, state)


def count_files(task: Task, done: tuple[int, int]) -> None:
    """So many files of so many bytes were copied."""
    task.copied["files"] += done[0]
    task.copied["bytes"] += done[1]


def send(task: Task, run_id: str, points: Iterable[Any]) -> None:
    """Metrics, a thousand a request."""
    for some in _batches(points, POINTS):
        task.target.client.log_batch(run_id, metrics=some)


def _batches(items: Iterable[One], size: int) -> Iterator[list[One]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _texts(task: Task, run: Any, other: Any) -> None:
    """Parameters that the copy lacks; tags that it lacks or has otherwise."""
    from mlflow.entities import Param, RunTag

    has, tags = other.data.params, []
    params = [
        Param(key, task.ids(text)) for key, text in run.data.params.items() if key not in has
    ]
    for key, text in plain(run.data.tags).items():
        text, before = task.ids(text), other.data.tags.get(key)
        if key in COUNTS and before is not None:
            text = max(text, before, key=int)
        if key != RUN_NAME and text != before:
            tags.append(RunTag(key, text))
    for some in _batches(params, TEXTS):
        task.target.client.log_batch(other.info.run_id, params=some)
    for some in _batches(tags, TEXTS):
        task.target.client.log_batch(other.info.run_id, tags=some)


def _points(task: Task, run: Any, other: Any) -> Iterator[Any]:
    """The whole history of every metric, without the points that the copy has."""
    source, target = task.source.client, task.target.client
    for key in run.data.metrics:
        known = set()
        if key in other.data.metrics:
            known = {place(one) for one in target.get_metric_history(other.info.run_id, key)}
        for one in source.get_metric_history(run.info.run_id, key):
            if place(one) not in known:
                yield one


def _links(task: Task, run: Any, other: Any) -> None:
    """Data sets, and models that went in or came out."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    client, run_id = task.target.client, other.info.run_id
    has = {(one.dataset.name, one.dataset.digest) for one in other.inputs.dataset_inputs}
    data = [
        one for one in run.inputs.dataset_inputs
        if (one.dataset.name, one.dataset.digest) not in has
    ]
    came = [LoggedModelInput(new) for new in _new(task, run.inputs.model_inputs)]
    came = _missing(came, other.inputs.model_inputs)
    if data or came:
        client.log_inputs(run_id, data or None, came or None)
    went = [
        LoggedModelOutput(new, one.step) for one in run.outputs.model_outputs
        if (new := task.ids.get(one.model_id))
    ]
    if went := _missing(went, other.outputs.model_outputs if other.outputs else []):
        client.log_outputs(run_id, went)


def _new(task: Task, models: Sequence[Any] | None) -> list[str]:
    return [new for one in models or [] if (new := task.ids.get(one.model_id))]


def _missing(wanted: list[Any], known: Sequence[Any] | None) -> list[Any]:
    has = {one.model_id for one in known or []}
    return [one for one in wanted if one.model_id not in has]


def _close(task: Task, run: Any, other: Any) -> None:
    """Name, status and end; a run that goes on again runs in the copy too."""
    client, run_id = task.target.client, other.info.run_id
    if run.info.run_name and run.info.run_name != other.info.run_name:
        client.update_run(run_id, name=run.info.run_name)
    status, end = run.info.status, run.info.end_time
    if status in UNFINISHED or end is None:
        client.update_run(run_id, status=status)
    elif (status, end) != (other.info.status, other.info.end_time):
        client.set_terminated(run_id, status, end)
