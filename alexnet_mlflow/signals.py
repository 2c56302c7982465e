"""What SIGINT and SIGTERM do, and writes that they must not cut off.

The first one raises SystemExit (130, 143) wherever the program is, so that runs are closed as
KILLED on the way out; a second one ends the process at once. Raised inside torch's writer the first
would come out as another error; inside MLflow's transaction it would leave the database locked, so
that the run could not even be closed. `held` lets such a write end first. What the second one cuts
off is whole on disk all the same: checkpoints are renamed, the next process sends the journal.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NUMBERS = (signal.SIGINT, signal.SIGTERM)

_stopping = False


def listen() -> None:
    """From now on the signals stop this process."""
    global _stopping
    _stopping = False
    for number in NUMBERS:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    global _stopping
    if _stopping:
        os._exit(128 + number)
    _stopping = True
    raise SystemExit(128 + number)


@contextmanager
def held(to_the_end: bool = False) -> Iterator[None]:
    """The first signal waits until the block is left, by an error too; then it is raised. Blocks
    may nest.

    `to_the_end`: the second one waits too, where something else would outlive this process.
    Python handles signals in the main thread alone: in another one this does nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or (_stopping and not to_the_end):
        yield
        return
    came: list[int] = []

    def wait(got: int, frame: FrameType | None) -> None:
        if came and not to_the_end:
            os._exit(128 + got)
        came.append(got)

    before = {number: signal.signal(number, wait) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for got in came[:1]:
            signal.raise_signal(got)
