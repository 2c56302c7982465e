"""Is a process still there? A file lock that it holds for as long as it lives, however it ends.

Others read who it is from wherever it has left it: a trial of a search, a ticket in a queue. A
process number would not do: it is given again, and two containers may have the same one. Left out:
processes of other machines, of which only their silence tells.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock

from alexnet_mlflow.checkpoint import FOLDER

LOCKS = FOLDER / "workers"


@contextmanager
def living() -> Iterator[dict[str, str]]:
    """Who this process is: a lock that it holds for as long as it lives."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = (LOCKS / f"{uuid.uuid4().hex}.lock").resolve()
    with filelock.FileLock(path):
        yield {"host": socket.gethostname(), "lock": str(path), "folder": _place(path.parent)}
    path.unlink(missing_ok=True)


def _place(path: Path) -> str:
    """Which folder this is, whatever it is called: two containers may have one of each name."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def gone(worker: Mapping[str, str]) -> bool:
    """Has this worker of the same machine ended? Nothing is known of another machine's."""
    path = Path(worker["lock"])
    known = worker["host"] == socket.gethostname() and path.parent.is_dir()
    if not known or _place(path.parent) != worker["folder"]:
        return False
    if not path.exists():
        return True
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True
