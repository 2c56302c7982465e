"""What an entry of the journal is to MLflow: one call, which a second time changes nothing.

Metrics keep the moment at which they were logged, and MLflow's stores drop a row that they have;
parameters and tags are set to the same text, files are written over, a data set is looked for
first; a run's end has its own time. What comes late, of a run with which another process has gone
on, is left out: that one tells the same and more. A `Link` is a store with its journal: what was
logged arrives before anything is asked. Left out: what is asked (track.py).
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alexnet_mlflow import reach, signals
from alexnet_mlflow.journal import (
    LAST_SECONDS,
    PATIENCE_SECONDS,
    Entry,
    Journal,
    Left,
    Outage,
    deliver,
)
from alexnet_mlflow.runs import PROCESS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CREATED_BY = "created_by"  # tag of a run: unique, so that it is found where the answer was lost

T = TypeVar("T")


def send(client: MlflowClient, entry: Entry, copy: Path) -> None:
    """Give one entry to the store. Raises what it raises."""
    {"batch": _batch, "file": _file, "data": _data, "only": _only, "end": _end}[entry.kind](
        client, entry, copy
    )


def _batch(client: MlflowClient, entry: Entry, copy: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag

    values = entry.values
    client.log_batch(
        entry.run_id,
        metrics=[Metric(*one, *values.get("link", ())) for one in values.get("metrics", ())],
        params=[Param(*one) for one in values.get("params", {}).items()],
        tags=[RunTag(*one) for one in values.get("tags", {}).items()],
    )


def _file(client: MlflowClient, entry: Entry, copy: Path) -> None:
    if copy.exists():  # else it has arrived, and the power failed before that was written down
        client.log_artifact(entry.run_id, str(copy), entry.values["folder"] or None)


def _data(client: MlflowClient, entry: Entry, copy: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", entry.values["context"])
    client.log_inputs(entry.run_id, [DatasetInput(Dataset(**entry.values["entity"]), [context])])


def _only(client: MlflowClient, entry: Entry, copy: Path) -> None:
    """Of runs made with one mark, because a server that hung made the first one later, keep one."""
    run = client.get_run(entry.run_id)
    mark = f"tags.{CREATED_BY} = '{entry.values['mark']}'"
    for other in client.search_runs([run.info.experiment_id], mark):
        if other.info.run_id != entry.run_id:
            client.delete_run(other.info.run_id)


def _end(client: MlflowClient, entry: Entry, copy: Path) -> None:
    client.set_terminated(entry.run_id, entry.values["status"], entry.values["time_ms"])


def _still(entry: Entry, owner: Callable[[str], str]) -> bool:
    """Has nobody else gone on with the run since this was logged?"""
    return not entry.process or owner(entry.run_id) in ("", entry.process)


class Link:
    """A store and the journal of what goes there: shared by the runs of one `connect`."""

    def __init__(self, client: MlflowClient, store: str) -> None:
        self.client, self.outage = client, Outage(store)
        self._send = functools.partial(send, client)
        self.journal = Journal(self._soon, self.outage)
        self.doubtful: dict[str, str] = {}  # runs that may have been made twice, by id: their mark
        self._lost: set[str] = set()  # runs with which another process has gone on

    def create(
        self, experiment_id: str, name: str, tags: Mapping[str, str], got: Callable[[Run], None]
    ) -> None:
        """A new run: one, though the answer to the first call be lost. `got` has it before a signal
        that came meanwhile is raised."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.context.registry import resolve_tags

        mark, tries = uuid.uuid4().hex, count()
        every = resolve_tags({**tags, CREATED_BY: mark, "mlflow.runName": name})

        def make() -> str:
            found: Sequence[Run] = ()
            if next(tries):
                found = self.client.search_runs([experiment_id], f"tags.{CREATED_BY} = '{mark}'")
            if not found:
                with reach.environment(reach.ONCE, always=True):
                    found = [self.client.create_run(experiment_id, tags=every, run_name=name)]
            got(found[0])
            return str(found[0].info.run_id)

        try:
            run_id = self.outage.asked(make)
        except MlflowException as error:
            if error.error_code in reach.REFUSED:
                raise reach.unanswered(self.outage.store, error) from error
            raise
        if next(tries) > 1:  # a server that hung may make the first one as late as it likes
            self.doubtful[run_id] = mark
            self.journal.add(run_id, "only", {"mark": mark})

    def _soon(self, entry: Entry, copy: Path) -> None:
        """Send what this process logs; after an outage only if the run is still its own."""
        if PROCESS in entry.values.get("tags", {}):
            self._lost.discard(entry.run_id)  # it is opened
        elif self.outage.failures > 1 and not _still(entry, self._owner):
            self._lost.add(entry.run_id)
        if not entry.process or entry.run_id not in self._lost:
            self._send(entry, copy)

    def deliver(self, patiently: bool = False) -> Left:
        """Send what processes that are gone have left."""
        owner = functools.cache(self._owner)

        def late(entry: Entry, copy: Path) -> None:
            if _still(entry, owner):
                self._send(entry, copy)

        def patient(entry: Entry, copy: Path) -> None:
            self.outage.asked(lambda: late(entry, copy))

        return deliver(self.outage.store, patient if patiently else late)

    def _owner(self, run_id: str) -> str:
        """The process that has opened the run last."""
        return str(self.client.get_run(run_id).data.tags.get(PROCESS, ""))

    def sent(self, run_id: str, kind: str, values: dict[str, Any]) -> bool:
        """Send this past the journal, whose disk takes no more. False where the store is away."""
        if not self.journal.drained(LAST_SECONDS):
            return False
        with signals.held(seconds=reach.answer_seconds(self.outage.store)):
            self._send(Entry(0, run_id, kind, values), Path())
        return True

    def drain(self) -> None:
        """Wait until all that was logged has been sent. BadInput after a day."""
        if not self.journal.drained(PATIENCE_SECONDS):
            raise self.outage.given_up()

    def asked(self, ask: Callable[[], T]) -> T:
        """What the store answers when it has all that was logged, waiting while it is away."""
        self.drain()
        return self.outage.asked(ask)
