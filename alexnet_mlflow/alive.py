"""Is a process still there, however it ended? Others read who it is from wherever it has left it.

A trial of a search or a ticket in a queue names a file lock that its process holds for as long as
it lives (`living`). A run in MLflow, which outlives that folder, names the process (`myself`): a
number alone would not do, since it is given again and two containers may have the same one, so the
moment of its start, the boot and the namespace of its number stand beside it.
Left out: processes of other machines, of which only their silence tells.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock

from alexnet_mlflow.checkpoint import FOLDER
from alexnet_mlflow.process import started, text

LOCKS = FOLDER / "workers"
LOCK = re.compile(r"[0-9a-f]{32}\.lock")  # a lock's name, as `living` gives it


@contextmanager
def living() -> Iterator[dict[str, str]]:
    """Who this process is: a lock that it holds for as long as it lives."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = (LOCKS / f"{uuid.uuid4().hex}.lock").absolute()
    with filelock.FileLock(path):
        yield {"host": socket.gethostname(), "lock": str(path), "folder": _place(path.parent)}
    path.unlink(missing_ok=True)


def _place(path: Path) -> str:
    """Which folder this is, whatever it is called: two containers may have one of each name."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def gone(worker: object) -> bool:
    """Has this worker of the same machine ended? Nothing is known of another machine's, nor of a
    record that `living` has not made: whoever may write to the store can leave one.
    """
    if not isinstance(worker, Mapping) or not _is_lock(worker.get("lock")):
        return False
    path = Path(worker["lock"])
    try:
        here = worker.get("host") == socket.gethostname()
        if not here or _place(path.parent) != worker.get("folder"):
            return False
        if not path.exists():
            return True
        with filelock.FileLock(path).acquire(timeout=0):
            path.unlink(missing_ok=True)
    except (OSError, ValueError):  # it is held (a Timeout), no file, another user's, or no path
        return False
    return True


def _is_lock(path: object) -> bool:
    """Is this the path of a lock, as `living` makes them? No other file is opened or deleted."""
    if not isinstance(path, str) or not Path(path).is_absolute():
        return False
    return Path(path).parts[-3:-1] == LOCKS.parts and bool(LOCK.fullmatch(Path(path).name))


def myself() -> str:
    """Who this process is, as a line of JSON for a run's tag."""
    return json.dumps({**_here(), "pid": os.getpid(), "started": started(os.getpid())})


def ended(process: str) -> bool | None:
    """Has the process with this line ended? None where nobody can tell: of another machine or
    container, of a system without /proc, or no such line at all.
    """
    try:
        known = {str(name): str(value) for name, value in json.loads(process).items()}
        pid = int(known["pid"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    here = _here()
    machine = [name for name in ("host", "machine") if here[name] != known.get(name)]
    if machine or not here["boot"] or not known.get("boot"):
        return None
    if here["boot"] != known["boot"]:  # the machine was started anew
        return True if here["machine"] else None
    if here["numbers"] != known.get("numbers"):
        return None
    return started(pid) != known.get("started")


@functools.cache
def _here() -> dict[str, str]:
    """Where processes of the same number are the same process."""
    return {
        "host": socket.gethostname(),
        "machine": text(Path("/etc/machine-id")),
        "boot": text(Path("/proc/sys/kernel/random/boot_id")),
        "numbers": _namespace(),
    }


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
