"""A training's state on disk: written to a temporary name, flushed, renamed; read without pickle.

What is read is either a whole new state or a whole old one, never a mixture. A folder a run,
`<folder>/<run id>/`, with the last state and the one before it, which is read where the last one is
damaged; removed when the run is done; one process at a time has it. torch's file, a zip archive,
ends in its SHA-256, which is compared before anything is read. That finds accidents; against malice
stands that nothing in it can run code.

`Writer` writes beside the training, from a copy that is made between two epochs.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import torch

from alexnet_mlflow import signals
from alexnet_mlflow.disk import flush, written
from alexnet_mlflow.options import BadInput

FOLDER = Path("checkpoints")
FILE, BEFORE, LOCK = "last.pt", "previous.pt", "lock"
SEAL = b"sha256 "  # the file's last bytes: this, and the hash of all before it in hexadecimal
SECONDS_BETWEEN = 10.0  # a state is 0.3 GB: what kill -9 loses at most, besides the epoch begun
# A signal waits for the end of an epoch as short as this. Of a longer one a copy is kept: 42 ms,
# the first time 250 (measured on 2 cores).
SHORT_SECONDS = 1.5
PATIENCE_SECONDS = 2.0  # where that epoch takes longer than the one before it

logger = logging.getLogger(__name__)


def path_of(run_id: str, folder: Path = FOLDER) -> Path:
    """Where a run's checkpoint stands. BadInput where the id could leave the folder."""
    if not run_id.isalnum():
        raise BadInput(f"a run id has letters and digits only, got {run_id!r}")
    return folder / run_id / FILE


@contextmanager
def claimed(run_id: str | None) -> Iterator[None]:
    """Have a run's folder alone until the block or the process ends; with None nothing is done.

    BadInput where another process has it, of this machine or, where the file system has locks, of
    any other that sees the folder.
    """
    if run_id is None:
        yield
        return
    place = path_of(run_id).with_name(LOCK)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(place)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BadInput(
            f"another process trains run {run_id} (it holds {place}): wait until it has ended, or "
            "end it"
        ) from None
    try:
        yield
    finally:
        if [file.name for file in place.parent.glob("*")] == [LOCK]:
            shutil.rmtree(place.parent, ignore_errors=True)
        lock.release()


class _Hashed:
    """A file that knows the hash of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, part: bytes) -> int:
        self._hash.update(part)
        return self._file.write(part)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> bytes:
        return SEAL + self._hash.hexdigest().encode()


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` by `state` (tensors, numbers, texts, dicts and lists)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, before = path.with_suffix(".tmp"), path.with_name(BEFORE)
    with signals.held():
        try:
            with open(temporary, "wb") as file:
                hashed = _Hashed(file)
                torch.save(state, hashed)  # type: ignore[arg-type]  # it writes and flushes alone
                file.write(hashed.seal())
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                before.unlink(missing_ok=True)
                with suppress(OSError):  # some file systems have no links: the last one is alone
                    os.link(path, before)  # so that there is a last one at every moment
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # half a state is of use to nobody, and its room to all
                temporary.unlink()
            raise
    flush(path.parent)  # the names survive a power cut too
    flush(path.parent.parent)


class Writer:
    """Writes checkpoints in a thread: one at a time, SECONDS_BETWEEN apart at least.

    A context, for as long as what is trained may be stopped: a signal leaves the state of the last
    finished epoch on disk. `at_once`: the first state that is offered is written; else the time
    begins now.
    """

    def __init__(self, path: Path | None, at_once: bool = True) -> None:
        self.path = path
        self._thread: threading.Thread | None = None
        self._began = -math.inf if at_once else time.monotonic()
        self._error: Exception | None = None
        self._newest: dict[str, Any] | None = None  # not on disk yet
        self._live = False  # is that the state which the next epoch changes?

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What was begun is on disk then, and where a signal came, the newest state."""
        stopped = kind is not None and issubclass(kind, SystemExit | KeyboardInterrupt)
        try:
            if not stopped:
                signals.rest()
                self.wait()
        except SystemExit:  # here, or while the thread was waited for
            stopped = True
            raise
        finally:
            if stopped:
                self._stop()

    def offer(self, state: Callable[[], dict[str, Any]], seconds: float = math.inf) -> bool:
        """Write what `state` gives, where it is time for that; True where it is being written.

        seconds: what the next epoch may take; inf where none comes, or none can be waited for.
        Raises what the write before met, an OSError or what torch made of it.
        """
        self._raise()
        busy = self._thread is not None and self._thread.is_alive()
        if self.path is None or busy or time.monotonic() - self._began < SECONDS_BETWEEN:
            self.keep(state, seconds)
            return False
        with signals.held():
            self._newest = None  # its memory is used again
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._write, args=(self.path, copied(state())))
            self._thread.start()
        return True

    def keep(self, state: Callable[[], dict[str, Any]], seconds: float = 0.0) -> None:
        """Write this one where a signal comes. seconds: as above; 0: nothing is trained after it.
        """
        if self.path is None:
            return
        with signals.held():
            self._newest, self._live = None, seconds <= SHORT_SECONDS
            self._newest = state() if self._live else copied(state())

    def rest(self) -> None:
        """After an epoch that was offered, and logged: a signal that has waited is raised."""
        signals.rest(PATIENCE_SECONDS if self._newest and self._live else 0)
        if self._live:
            self._newest = None

    def wait(self) -> None:
        """Until what was begun is on disk. Raises what it met."""
        if self._thread:
            self._thread.join()
        self._raise()

    def _stop(self) -> None:
        """Write the newest state. The process leaves with the signal's code, whatever a disk says.
        """
        if self._thread:
            self._thread.join()
        if self.path and self._newest:
            self._write(self.path, self._newest)
        if self._error:
            logger.warning("the last checkpoint could not be written (%s)", self._error)
            self._error = None

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        try:
            save(path, state)
        except Exception as error:  # torch's writer makes another of a full disk's OSError
            self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error


def copied(state: Any) -> Any:
    """The same with every tensor copied into this computer's memory, as it is now."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state


def load(path: Path, mend: bool = False) -> dict[str, Any]:
    """The state at `path`, on the CPU; the one before it where the last one is damaged.

    mend: the one before it takes its place, so that the next save keeps what is whole; for whoever
    has the run alone. BadInput where there is none that is whole.
    """
    try:
        return _read(path)
    except BadInput as damaged:
        before = path.with_name(BEFORE)
        if not os.path.exists(before):  # nor is there one whose name is too long
            raise
        state = _read(before)
        logger.warning("%s; the one before it is taken", str(damaged).partition(":")[0])
        if mend:
            os.replace(before, path)
        return state


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()  # once: what is loaded is what was checked
        end = max(len(content) - len(SEAL) - 64, 0)
        if content[end:] != SEAL + hashlib.sha256(memoryview(content)[:end]).hexdigest().encode():
            raise ValueError("its checksum is another, or missing")
        state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("it holds no state of a training")
    except FileNotFoundError:
        raise BadInput(f"there is no checkpoint {path}: start the run anew") from None
    except Exception as error:  # a damaged file raises nearly anything
        reason = str(error).partition("\n")[0].partition(". ")[0]  # torch adds a page of advice
        raise BadInput(f"the checkpoint {path} cannot be read ({reason}): start anew") from error
    return state


def oddity(state: dict[str, Any], figures: Collection[str]) -> str:
    """What a training's checkpoint has that this version does not write; empty where nothing.

    figures: the names of an epoch's.
    """
    training, history = state.get("training"), state.get("history")
    if training is not None and not isinstance(training, dict):
        return "what it calls training is no state of one"
    if not isinstance(history, list):
        return "its history is no list"
    for epoch, row in enumerate(history, 1):
        if not isinstance(row, dict) or row.keys() != {"epoch", *figures}:
            return f"epoch {epoch} of its history has other figures"
        if not {type(value) for value in row.values()} <= {int, float}:
            return f"epoch {epoch} of its history has figures that are no numbers"
        if type(row["epoch"]) is not int or row["epoch"] != epoch:
            return f"epoch {epoch} of its history is another"
    return ""


def newest(folder: Path = FOLDER) -> list[str]:
    """The ids of the runs that left a checkpoint in `folder`, the newest first.

    A folder of another name is no run's: a copy that somebody has set aside.
    """
    files = sorted(folder.glob(f"*/{FILE}"), key=written, reverse=True)
    return [path.parent.name for path in files if path.parent.name.isalnum()]


def remove(path: Path) -> None:
    """Forget a finished run's checkpoint; nothing happens where there is none."""
    shutil.rmtree(path.parent, ignore_errors=True)
