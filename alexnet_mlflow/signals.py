"""Writes that a signal must not cut off.

The command line turns SIGINT and SIGTERM into SystemExit wherever the program is. Raised inside
torch's writer it would come out as another error; inside MLflow's transaction it would leave the
database locked, so that the run could not even be closed. `held` lets such a write end first.
Left out: what a signal means. That is the command line's business.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block is left; then they are raised. Blocks may nest.

    Python handles signals in the main thread alone: in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda got, _: came.append(got)) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
    for got in came:
        signal.raise_signal(got)
