"""Runs that are left RUNNING by processes that are gone, and how they are closed.

A run says which process has it open (alive.py). Of this machine's it is known whether they have
ended; of another machine's, or of a run from before there was that tag, only how long ago they gave
a sign: a metric, or a child. What `sync` copied while it ran is its original's to close.
Chosen: a closed run ends at its last sign, as FAILED, with the reason as a tag; it can be resumed
as before. A run that `mlflow run` has made and no stage has taken up says nothing of its process;
it is known by its entry point. Left out: runs that this package did not make.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from alexnet_mlflow import alive, reach, signals
from alexnet_mlflow.config import STAGES
from alexnet_mlflow.runs import PROCESS, SYNCED_FROM

CLOSED = "closed_by_doctor"  # tag: why
HOUR = 3_600_000  # in ms
ENTRY_POINT = "mlflow.project.entryPoint"  # MLflow's tag


@dataclass(frozen=True)
class Orphan:
    """A run that stands as RUNNING, and nobody is known to have it open."""

    run_id: str
    name: str
    stage: str
    process: str  # the tag
    why: str
    close: bool  # is it to be closed?
    last_sign_ms: int

    @property
    def as_dict(self) -> dict[str, object]:
        return {"run_id": self.run_id, "name": self.name, "stage": self.stage, "why": self.why,
                "gone": self.close}


def left_open(older_than: float = 0.0) -> list[Orphan]:
    """The store's RUNNING runs but those of living processes.

    older_than: hours without a sign after which a run of an unknown process counts as gone; 0:
    never.
    """
    client = _client()
    found = [_orphan(client, run, older_than) for run in _running(client)]
    return [one for one in found if one is not None]


def close(orphan: Orphan) -> bool:
    """End it as FAILED, at its last sign. False where somebody has taken it up meanwhile."""
    client = _client()
    run = client.get_run(orphan.run_id)
    if run.info.status != "RUNNING" or run.data.tags.get(PROCESS, "") != orphan.process:
        return False
    with signals.held(seconds=reach.ANSWER_SECONDS):
        client.set_tag(orphan.run_id, "outcome", "failed")
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        client.set_tag(orphan.run_id, CLOSED, f"{now}: {orphan.why}")
        client.set_terminated(orphan.run_id, "FAILED", end_time=orphan.last_sign_ms)
    return True


def _orphan(client: Any, run: Any, older_than: float) -> Orphan | None:
    tags, process = run.data.tags, run.data.tags.get(PROCESS, "")
    ended = alive.ended(process)
    if ended is False:
        return None
    sign = _sign(client, run)
    hours = (time.time() * 1000 - sign) / HOUR
    if SYNCED_FROM in tags:
        why, ended = "a copy of a run that had not ended: give the same sync again", None
    elif ended:
        why = f"{_called(process)} has ended"
    else:
        whom = _called(process) if "stage" in tags else "`mlflow run`, which has begun it"
        why = f"nothing is known of {whom}; its last sign is {hours:.1f} hours old"
        ended = 0 < older_than <= hours
    stage = tags.get("stage") or tags[ENTRY_POINT]
    return Orphan(run.info.run_id, run.info.run_name, stage, process, why, bool(ended), sign)


def _running(client: Any) -> Iterator[Any]:
    """Runs of this package that stand as RUNNING, in every experiment."""
    ids = [one.experiment_id for one in client.search_experiments(max_results=1000)]
    page = None
    while True:
        found = client.search_runs(
            ids, "attributes.status = 'RUNNING'", max_results=500, page_token=page
        )
        yield from filter(_ours, found)
        if not (page := found.token):
            return


def _ours(run: Any) -> bool:
    """By its stage; of a run that has none yet, by its entry point and all that takes."""
    if "stage" in run.data.tags:
        return True
    entry = run.data.tags.get(ENTRY_POINT, "")
    stage = STAGES.get("babysit" if entry == "main" else entry)
    return stage is not None and {item.name for item in fields(stage)} <= run.data.params.keys()


def _sign(client: Any, run: Any) -> int:
    """When the run, or the newest of its children, last gave one; in ms."""
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'",
        order_by=["attributes.start_time DESC"], max_results=1,
    )
    return max(_own_sign(one) for one in (run, *children))


def _own_sign(run: Any) -> int:
    times = [metric.timestamp for metric in run.data._metric_objs]
    return int(max([run.info.start_time, run.info.end_time or 0, *times]))


def _called(process: str) -> str:
    try:
        known = json.loads(process)
        return f"its process ({known['pid']} on {known['host']})"
    except (ValueError, KeyError, TypeError):
        return "its process"


def _client() -> Any:
    import mlflow

    return mlflow.MlflowClient()
