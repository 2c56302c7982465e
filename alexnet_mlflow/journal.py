"""What is logged stands on disk before it is sent: training never waits for the tracking store.

One file a process, `checkpoints/journal/<id>.jsonl`, with a line an entry, fsynced; files that are
logged are copied beside it. One thread sends the entries in their order and writes down which have
arrived. Whoever sends may send an entry twice (killed between the two), so each is made such that
the second time changes nothing. When all has arrived, nothing is left of the journal; else the next
process, or `sync`, sends what a process that is gone has left: it held a lock while it lived.
Chosen: strict order, so that a run's status comes last, at the price that one entry to which the
store says 500 holds up those after it. Left out: what an entry means to MLflow (delivery.py).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import filelock

from alexnet_mlflow import alive, checkpoint, reach, signals
from alexnet_mlflow.disk import flush, written
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say

FOLDER = checkpoint.FOLDER / "journal"
RACES = 100  # how often others may tidy the folder up just when a journal is made
TURN = "turn.lock"  # who sends what others have left holds it
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0  # between two tries, doubled each time
END_SECONDS = 10.0  # a person waits for the prompt; what is left is sent by `sync`
LAST_SECONDS = 1.0  # for what may still be on its way
PATIENCE_SECONDS = 24 * 3600.0  # for an answer without which it cannot go on
WAY_OUT = "`alexnet-mlflow sync` sends it"

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One thing to be sent. `file`: of the copy, for kinds that have one. `process`: which must
    still have the run when this is sent late (alive.py); empty for what is noted on another's run.
    """

    number: int
    run_id: str
    kind: str
    values: dict[str, Any]
    file: str = ""
    process: str = ""


Send = Callable[[Entry, Path], None]  # the path is the copy's; raises what the store raises


class Outage:
    """Whether the store is away, told once when it goes and once when it is back."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.failures, self._lock = 0, threading.Lock()

    def failed(self, error: Exception) -> float:
        """It did not answer; seconds until it may be asked again. One failure is not yet told: a
        server drops a connection, another holds a lock.
        """
        with self._lock:
            self.failures += 1
            if self.failures == 2:
                say(
                    f"The tracking store {self.store} does not answer ({_reason(error)}): what is "
                    f"logged waits in {FOLDER}."
                )
            pause = FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures - 1, 10)
            return min(pause, LONGEST_PAUSE_SECONDS)

    def answered(self) -> None:
        with self._lock:
            if self.failures > 1:
                say(f"The tracking store {self.store} answers again.")
            self.failures = 0

    def asked(self, ask: Callable[[], T]) -> T:
        """What the store answers, waiting for it. BadInput where it stays away for a day."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with signals.held(seconds=reach.answer_seconds(self.store)):
                    found = ask()
            except Exception as error:
                if not reach.away(error):
                    raise
                pause = self.failed(error)
                if time.monotonic() + pause > until:
                    raise self.given_up() from error
                time.sleep(pause)
            else:
                self.answered()
                return found

    def given_up(self) -> BadInput:
        return BadInput(
            f"the tracking store {self.store} has not answered for a day: when it does, {WAY_OUT}"
            ", and a final or a search goes on with --resume or the same command"
        )


class Journal:
    """The journal of this process for one store, and the thread that sends it."""

    def __init__(self, send: Send, outage: Outage, folder: Path = FOLDER) -> None:
        self._send, self._outage, self._folder = send, outage, folder
        self._pending: deque[Entry] = deque()
        self._refused = 0
        self._told: set[str] = set()
        self._changed = threading.Condition()
        self._hurried = self._stopped = False
        self._number = self._runs = 0
        self._on: _File | None = None
        self._thread: threading.Thread | None = None

    def add(
        self, run_id: str, kind: str, values: dict[str, Any], file: str = "",
        write: Callable[[Path], object] | None = None, own: bool = True,
    ) -> None:
        """Put an entry on disk; it is sent soon. `write` makes the copy called `file`. `own`: of a
        run that this process has open.

        Raises the OSError of a disk that takes no more.
        """
        with signals.held(), self._changed:
            if self._on is None:
                self._on = _File.new(self._folder, self._outage.store)
            self._number += 1
            process = alive.myself() if own else ""
            entry = Entry(self._number, run_id, kind, values, file, process)
            if write:
                self._on.keep(entry, write)
            self._on.append(asdict(entry))
            self._pending.append(entry)
            if self._thread is None:
                self._stopped = False
                self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drained(self, seconds: float) -> bool:
        """Has everything been sent, or refused, in so many seconds?"""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._pending, seconds)

    @contextmanager
    def open_run(self) -> Iterator[None]:
        """A run is open as long as the block lasts; with the last one the journal is settled."""
        self._runs += 1
        seconds = END_SECONDS
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            seconds = signals.seconds_left()
            raise
        finally:
            self._runs -= 1
            self.settle(seconds)

    def settle(self, seconds: float) -> None:
        """Unless a run is open: wait a little, then leave nothing, or say what is left."""
        if self._runs or self._on is None:
            return
        try:
            ended = self.drained(seconds)
        except (KeyboardInterrupt, SystemExit):  # a run's end may be on its way
            self.settle(signals.seconds_left())
            raise
        if left := len(self._pending) + self._refused:
            say(f"{counted(left)} for {self._outage.store} left in {self._on.path}: {WAY_OUT}.")
        if ended:
            self._close()

    def _close(self) -> None:
        """End the thread. What was refused stays, for whoever tries again."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()
        assert self._on is not None
        self._on.leave() if self._refused else self._on.remove()
        self._thread, self._on, self._refused = None, None, 0

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            assert self._on is not None
            try:
                self._send(entry, self._on.copy(entry))
            except Exception as error:
                if reach.away(error):
                    self._rest(self._outage.failed(error))
                    continue
                if entry.run_id not in self._told:
                    self._told.add(entry.run_id)
                    say(_refusal(self._outage.store, entry, error, self._on.path))
                self._pass(entry, refused=True)
            else:
                self._outage.answered()
                self._pass(entry)

    def _next(self) -> Entry | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._stopped)
            return self._pending[0] if self._pending else None

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._hurried, seconds)
            self._hurried = False

    def _pass(self, entry: Entry, refused: bool = False) -> None:
        with self._changed:
            assert self._on is not None
            if refused:
                self._refused += 1
            else:
                self._on.acknowledge(entry)
            self._pending.popleft()
            self._changed.notify_all()


@dataclass
class Left:
    """What came of journals that processes have left: entries sent and refused, journals not sent.
    """

    sent: int = 0
    refused: int = 0
    elsewhere: tuple[str, ...] = ()  # journals for another store: file and store
    living: int = 0  # journals of processes that still run


def deliver(store: str, send: Send, folder: Path = FOLDER) -> Left:
    """Send what processes that are gone have left for this store, one sender at a time."""
    left = Left()
    if not any(folder.glob("*.jsonl")):
        return left
    with filelock.FileLock(folder / TURN):
        for path in sorted(folder.glob("*.jsonl"), key=written):
            lock = filelock.FileLock(path.with_suffix(".lock"))
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                left.living += 1
                continue
            try:
                if path.exists():  # else its process has sent the rest and removed it
                    _deliver(_File(path, lock), store, send, left)
            finally:
                lock.release()
    _tidy(folder)
    if left.sent:
        say(f"{counted(left.sent)} that waited in {folder} sent to {store}.")
    return left


def _deliver(file: _File, store: str, send: Send, left: Left) -> None:
    lines = list(file.lines(file.path))
    if lines and lines[0].get("store") != store:
        left.elsewhere += (f"{file.path} is for {lines[0].get('store')}",)
        return
    arrived, refused = {line["number"] for line in file.lines(file.acknowledged)}, 0
    for entry in (Entry(**line) for line in lines[1:] if line["number"] not in arrived):
        try:
            with signals.held(seconds=reach.answer_seconds(store)):
                send(entry, file.copy(entry))
        except Exception as error:
            if reach.away(error):
                raise
            if not refused:
                say(_refusal(store, entry, error, file.path))
            refused += 1
        else:
            file.acknowledge(entry)
            left.sent += 1
    left.refused += refused
    if not refused:
        file.remove()


class _File:
    """A journal's files: `<id>.jsonl` and `.done`, the lock, and the copies in the folder `<id>`.
    """

    def __init__(self, path: Path, lock: filelock.BaseFileLock) -> None:
        self.path, self._lock = path, lock
        self.acknowledged = path.with_suffix(".done")
        self._open: dict[Path, BinaryIO] = {}

    @classmethod
    def new(cls, folder: Path, store: str) -> _File:
        for left in reversed(range(RACES)):
            path = folder / f"{uuid.uuid4().hex}.jsonl"
            lock = filelock.FileLock(path.with_suffix(".lock"), thread_local=False)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                made = cls(path, lock)
                made.append({"store": store})
                flush(folder)
                flush(folder.parent)
                return made
            except (FileNotFoundError, FileExistsError):  # another process has just tidied up
                lock.release()
                if not left:
                    raise
        raise AssertionError("not reached")

    def append(self, line: dict[str, Any]) -> None:
        self._write(self.path, line)
        os.fsync(self._open[self.path].fileno())

    def acknowledge(self, entry: Entry) -> None:
        """It has arrived. Not fsynced: were this lost, it would be sent again, which is nothing."""
        with suppress(OSError):
            self._write(self.acknowledged, {"number": entry.number})
        if entry.file:
            shutil.rmtree(self.copy(entry).parent, ignore_errors=True)

    def keep(self, entry: Entry, write: Callable[[Path], object]) -> None:
        copy = self.copy(entry)
        copy.parent.mkdir(parents=True)
        write(copy)
        for path in (copy, *copy.parents[:3]):  # what it holds, and its names
            flush(path)

    def copy(self, entry: Entry) -> Path:
        return self.path.with_suffix("") / str(entry.number) / entry.file

    def leave(self) -> None:
        for file in self._open.values():
            file.close()
        self._lock.release()

    def remove(self) -> None:
        shutil.rmtree(self.path.with_suffix(""), ignore_errors=True)
        for path in (self.path, self.acknowledged, Path(self._lock.lock_file)):
            path.unlink(missing_ok=True)
        self.leave()
        _tidy(self.path.parent)

    @staticmethod
    def lines(path: Path) -> Iterator[dict[str, Any]]:
        """What was written whole. Nobody appends to a file that was cut off, so that is its end."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            for line in whole.splitlines():
                yield json.loads(line)

    def _write(self, path: Path, line: dict[str, Any]) -> None:
        if path not in self._open:
            self._open[path] = open(path, "ab", buffering=0)
        file, text = self._open[path], json.dumps(line, allow_nan=False).encode() + b"\n"
        before = os.fstat(file.fileno()).st_size
        if file.write(text) != len(text):  # the next line must not follow half of this one
            os.ftruncate(file.fileno(), before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _tidy(folder: Path) -> None:
    """Where no journal is left, nothing is."""
    with suppress(OSError):  # something is in it, or another process was quicker
        if not any(folder.glob("*.jsonl")):
            (folder / TURN).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()


def counted(entries: int) -> str:
    """`1 entry`, `2 entries`."""
    return f"{entries} entr{'y' if entries == 1 else 'ies'}"


def _reason(error: Exception) -> str:
    return reach.without_password(" ".join(str(error).split())[:150])


def _refusal(store: str, entry: Entry, error: Exception, path: Path) -> str:
    return (
        f"The tracking store {store} refuses what run {entry.run_id} logs ({_reason(error)}): it "
        f"stays in {path}; {WAY_OUT} when that is mended, deleting the file forgets it."
    )
