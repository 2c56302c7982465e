"""Where `mlflow run`, or a training beside this one, has started this process: its end is a SIGTERM
to this process too.

MLflow's runner passes no signal on, and its training would go on without it. The kernel's own
PR_SET_PDEATHSIG tells of the parent's thread, and a shell may stand between: so a thread looks.
Left out: a runner that was called from Python (mlflow.projects.run), which nothing tells apart from
other parents; one outside of this container, whose end nothing in here can see.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from alexnet_mlflow import process, signals
from alexnet_mlflow.signals import STARTER

LOOK_SECONDS = 0.5
COURSE = "ALEXNET_COURSE"  # for one that trains another optimizer there: the run of both
LAST_WORD = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
LOOKS = 2  # without it in a row: a file of /proc that cannot be read now is no end


def watch() -> bool:
    """From now on this process stops with its runner, or with the process that it trains beside.
    False where there is none."""
    gone: Callable[[], bool] | None = starter_gone if beside() else None
    if "MLFLOW_RUN_ID" in os.environ and (pid := found()) is not None:
        gone = partial(_another, pid, process.started(pid))
    if gone is None:
        return False
    threading.Thread(target=_look, args=(gone,), name="runner", daemon=True).start()
    return True


def beside() -> str | None:
    """The run below which this process trains for the one that has started it; None: for itself."""
    return os.environ.get(COURSE) if STARTER in os.environ else None


def starter_gone() -> bool:
    """Has the process ended that has started this one beside itself?"""
    return STARTER in os.environ and os.environ[STARTER] != str(os.getppid())


def close_unused() -> None:
    """End as KILLED the run in which `mlflow run` has started this process and which nothing has
    taken up: a runner that was stopped too does not. Where that takes long, it stays open.
    """
    if not (run_id := os.environ.pop("MLFLOW_RUN_ID", None)):
        return

    def close() -> None:
        with suppress(Exception):  # torch or mlflow may be half imported
            import mlflow

            client = mlflow.MlflowClient()
            run = client.get_run(run_id)
            if run.info.status == "RUNNING" and "stage" not in run.data.tags:
                client.set_terminated(run_id, "KILLED")

    os.environ.update(LAST_WORD)
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(signals.seconds_left())


def found() -> int | None:
    """The nearest process above this one that is `mlflow run`."""
    return next((pid for pid in _above(os.getpid()) if _runs(process.words(pid))), None)


def _above(pid: int) -> Iterator[int]:
    while (pid := process.parent(pid)) > 0:
        yield pid


def _runs(words: list[str]) -> bool:
    """`mlflow run ...`, `python /path/mlflow run ...` or `python -m mlflow run ...`."""
    names = [Path(word).name for word in words[:4]]
    return ("mlflow", "run") in zip(names, names[1:], strict=False)


def _another(pid: int, began: str) -> bool:
    """Is this no longer the process that began then?"""
    return not began or process.started(pid) != began


def _look(gone: Callable[[], bool]) -> None:
    missed = 0
    while missed < LOOKS:
        time.sleep(LOOK_SECONDS)
        missed = missed + 1 if gone() else 0
    if not signals.since():  # a signal to all processes has come here too, and a second one kills
        os.kill(os.getpid(), signal.SIGTERM)
