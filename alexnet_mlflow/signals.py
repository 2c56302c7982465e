"""What SIGINT and SIGTERM do, and writes that they must not cut off.

The first one raises SystemExit (130, 143) wherever the program is, so that runs are closed as
KILLED on the way out; a second one ends the process at once. While short epochs are trained it
waits for the end of one (`rest`), whose state can be kept. Raised inside torch's writer the first
would come out as another error; inside MLflow's transaction it would leave the database locked, so
that the run could not even be closed. `held` lets such a write end first. What the second one cuts
off is whole on disk all the same: checkpoints are renamed, the next process sends the journal.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import subprocess

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# Ctrl-C reaches `mlflow run` and what it has started, to which it sends SIGTERM a quarter of a
# second later: another signal within the seconds that a stop may take is the same stop.
SAME_STOP_SECONDS = 5.0
STARTER = "ALEXNET_LEADER_PID"  # set for a process that another one has started beside itself
CLOSING_SECONDS = 3.5  # a stopped process has to leave in five

_stopping = False  # it has been raised
_waiting = 0  # the one that waits for the next rest
_holding = 0  # the one that waits for the end of a block
_patience = 0.0  # seconds that it may wait for that
_came_at = 0.0
_first = 0
_followers: set[subprocess.Popen[bytes]] = set()


def listen() -> None:
    """From now on the signals stop this process."""
    global _stopping, _waiting, _holding, _patience, _came_at, _first
    _stopping, _waiting, _holding, _patience, _came_at, _first = False, 0, 0, 0.0, 0.0, 0
    for number in NUMBERS:
        signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _waited)


def rest(patience: float = 0.0) -> None:
    """Between two epochs: raise the signal that waits; one that comes from now on waits for the
    next rest, but for so many seconds at most.
    """
    global _waiting, _patience
    number, _waiting, _patience = _waiting, 0, patience
    if number:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _patience = 0.0
        _stop(number, None)


def leave(code: int) -> NoReturn:
    """When all is closed: end now. Python itself would first take down all that was imported: 1.4
    to 2.8 seconds more of every command, and of the five that a stopped process has (measured on 2
    cores); a process of torchrun was seen to abort in that.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def seconds_left() -> float:
    """Of those that closing may take after the first signal; one at least."""
    return max(CLOSING_SECONDS - since(), 1.0)


def since() -> float:
    """Seconds since the first signal came; 0 where none did."""
    return time.monotonic() - _came_at if _came_at else 0.0


def follow(process: subprocess.Popen[bytes]) -> None:
    """From now on it is told to stop as soon as this one is, not when this one has closed its run.
    """
    _followers.add(process)


def let_go(process: subprocess.Popen[bytes]) -> bool:
    """It is not told any more; False where it has been: a second word would cut it off."""
    untold = process in _followers
    _followers.discard(process)
    return untold


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopping, _waiting
    if _stopping or _waiting:
        _again(number)
        return
    _note(number)
    if _patience:
        _waiting = number
        signal.setitimer(signal.ITIMER_REAL, _patience)
        return
    _stopping = True
    raise SystemExit(128 + number)


def _waited(number: int, frame: FrameType | None) -> None:
    """There was no rest in time. Raised as a signal, it still waits for the end of a write."""
    global _waiting, _patience
    waiting, _waiting, _patience = _waiting, 0, 0.0
    if waiting:
        signal.raise_signal(waiting)


def _note(number: int) -> None:
    global _came_at, _first
    if not _first:
        _came_at, _first = time.monotonic(), number
        while _followers:
            with suppress(OSError):
                _followers.pop().terminate()


def _again(number: int) -> None:
    """A second signal: the end, unless it is the first one passed on: by MLflow another one, by
    who has started this process perhaps the same."""
    twice = number == _first and STARTER not in os.environ
    if twice or since() > SAME_STOP_SECONDS:
        os._exit(128 + number)


@contextmanager
def held(to_the_end: bool = False, seconds: float = 0.0) -> Iterator[None]:
    """The first signal waits until the block is left, by an error too; then it is raised. Blocks
    may nest.

    `to_the_end`: the second one waits too, where something else would outlive this process.
    `seconds`: so long at most does the first one wait; 0: without an end.
    Python handles signals in the main thread alone: in another one this does nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or (_stopping and not to_the_end):
        yield
        return
    came: list[int] = []

    def wait(got: int, frame: FrameType | None) -> None:
        global _holding
        if (came or _waiting or _holding) and not to_the_end:
            _again(got)
            return
        _note(got)
        _holding = got
        came.append(got)
        if seconds:  # in a block within this one it may have waited already
            signal.setitimer(signal.ITIMER_REAL, max(seconds - since(), 0.01))

    def late(number: int, frame: FrameType | None) -> None:
        if came:
            put_back()
            _raised(came.pop())
        elif callable(around := before[signal.SIGALRM]):  # of a block around this one, or of rest
            around(number, frame)

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    handlers = {**dict.fromkeys(NUMBERS, wait), **({signal.SIGALRM: late} if seconds else {})}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        if came and seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
        put_back()
        for got in came[:1]:
            _raised(got)


def _raised(number: int) -> None:
    """Raise what was held: a block around this one may hold it further."""
    global _holding
    _holding = 0
    signal.raise_signal(number)
