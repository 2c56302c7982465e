"""`sync`: a tracking store copied into another, once each, however often. No run is made.

The work is in the package `sync`; here is its order, and what is said of it. Without options it
sends what journals of this working folder hold for a store that was away (journal.py).
"""

from __future__ import annotations

from collections import Counter

from alexnet_mlflow.commands import SyncConfig
from alexnet_mlflow.journal import FOLDER, counted
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import Copying
from alexnet_mlflow.stages import StageResult
from alexnet_mlflow.sync import models, runs, versions
from alexnet_mlflow.sync.runs import Task
from alexnet_mlflow.sync.stores import opened
from alexnet_mlflow.track import connected

KINDS = ("experiments", "runs", "logged models", "registered models", "versions", "aliases")


def run(config: SyncConfig) -> StageResult:
    """Copy; or, for a dry run, say what would be. BadInput where one of the stores says no."""
    if config.journals:
        return _journals()
    with opened(config.from_, config.to, config.dry_run) as (source, target):
        task = Task(source, target, config.dry_run)
        pairs = runs.experiments(task)
        for pair in pairs:
            runs.begin(task, pair)
        _not_one(task)
        with Copying(0, "logged model") as bar:
            for pair in pairs:
                models.copy(task, pair, bar)
        with Copying(len(task.copies), "run") as bar:
            for pair in pairs:
                runs.fill(task, pair, bar)
        versions.copy(task)
        ends = {"from": source.shown, "to": target.shown}
    figures = {name: _figures(getattr(task, name)) for name in ("copied", "updated", "there")}
    return StageResult(
        "sync", None, "pass", _sentences(task),
        {**ends, "dry_run": config.dry_run, **figures},
    )


def _journals() -> StageResult:
    """Send what is left. `fail` where something still is, and no running process will send it."""
    _, left = connected()
    told = [f"Sent: {counted(left.sent)}." if left.sent else "Nothing was left to be sent."]
    if left.refused:
        told.append(f"Refused, and kept in {FOLDER}: {counted(left.refused)}.")
    if left.living:
        told.append(f"{left.living} running processes send their own.")
    for one in left.elsewhere:
        told.append(f"{one}: set MLFLOW_TRACKING_URI to it, then give the same command again.")
    figures = {"sent": left.sent, "refused": left.refused, "elsewhere": len(left.elsewhere)}
    kept = left.refused or left.elsewhere
    return StageResult("sync", None, "fail" if kept else "pass", tuple(told), figures)


def _not_one(task: Task) -> None:
    """BadInput where every run of the source is the target's own: nothing has been written yet."""
    if task.own and len(task.own) == len(task.copies):
        raise BadInput(
            f"--from={task.source.shown} and --to={task.target.shown} hold the same runs under the "
            "same ids, so they are one store, or a copy of it that has nothing new: give two"
        )


def _figures(counts: Counter[str]) -> dict[str, int]:
    return {name.replace(" ", "_"): count for name, count in counts.items() if count}


def _sentences(task: Task) -> tuple[str, ...]:
    told = []
    head = "Dry run, nothing is changed. " if task.dry_run else ""
    copied = _listed(task.copied) or "nothing"
    size = ""
    if task.copied["files"]:
        size = f"; {task.copied['files']} files, {task.copied['bytes'] / 2**20:.1f} MiB"
    verb = "To be copied" if task.dry_run else "Copied"
    told.append(f"{head}{verb} from {task.source.shown}: {copied}{size}.")
    if updated := _listed(task.updated):
        told.append(f"{'To be brought' if task.dry_run else 'Brought'} up to date: {updated}.")
    if there := _listed(task.there):
        told.append(f"There already: {there}.")
    if count := task.copied["running"]:
        told.append(
            f"{count} of the runs had not ended: they are copied as far as they were. Give the "
            "same command again when they have."
        )
    return (*told, *task.notes)


def _listed(counts: Counter[str]) -> str:
    """`3 runs, 1 logged model`."""
    named = [(counts[kind], kind) for kind in KINDS if counts[kind]]
    return ", ".join(
        f"{count} {kind[:-2] if kind == 'aliases' else kind[:-1]}" if count == 1
        else f"{count} {kind}" for count, kind in named
    )
