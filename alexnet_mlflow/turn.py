"""One after the other, where a store can only be read and written: Lamport's bakery (1974).

Chosen because a registry has no compare-and-set: who comes takes a ticket, one more than the
highest there is, and waits until no lower one is left. A ticket is a key of its own, so that
leaving it, finding it again after a lost answer, and clearing away a dead process's never touches
another's: a lock that is one thing for all could be broken by two who saw the same one stale, the
second of whom would break the first's. Needed of the store: what one has written, all read.

A ticket is cleared away at once where its process has ended on this machine; any other one, once it
has been the lowest for a minute while somebody waited for it. Left out: a server that would refuse
the late writes of a process that was stopped for so long and goes on. Such a process asks `held`
before its writes and gives up; only if it is stopped between asking and writing does it write late.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from alexnet_mlflow.alive import gone, living
from alexnet_mlflow.options import BadInput

PREFIX = "promoting."
POLL_SECONDS = 0.1
SILENT_SECONDS = 60.0  # a turn takes a second; who has it for so long is given up
PATIENCE_SECONDS = 600.0


class Board(Protocol):
    """Where the tickets hang; what one process has written, every other reads."""

    def read(self) -> Mapping[str, str]:
        """All that is written on it."""

    def write(self, key: str, text: str) -> None:
        """Write, or write over."""

    def erase(self, key: str) -> None:
        """Take away; nothing happens where it is gone already."""


@dataclass(frozen=True)
class Ticket:
    """A place in the queue; number 0: its owner is choosing one."""

    number: int
    key: str
    worker: Mapping[str, str]

    @property
    def place(self) -> tuple[int, str]:
        """Equal numbers can be drawn at the same moment: the key decides."""
        return self.number, self.key


Held = Callable[[Mapping[str, str]], bool]


@contextmanager
def alone(board: Board, name: str) -> Iterator[Held]:
    """Wait for one's turn; while the block runs, no other is in it.

    Yields a function: is the ticket still there, on the board as it was just read? Where it is not,
    others have given this process up, and it must write no more.
    name: what the queue is for, to be told. BadInput where the turn does not come in ten minutes.
    """
    with living() as worker:
        key = ""
        try:
            while not key or not _waited(board, key, name):
                key = f"{PREFIX}{uuid.uuid4().hex}"
                _draw(board, key, worker)
            yield lambda seen: key in seen
        finally:
            board.erase(key)


def _draw(board: Board, key: str, worker: Mapping[str, str]) -> None:
    """Hang up a ticket with one more than the highest number."""
    started = time.monotonic()
    board.write(key, _text(0, worker))  # while it says 0 nobody goes past it
    highest = max((ticket.number for ticket in _tickets(board.read())), default=0)
    if time.monotonic() - started < SILENT_SECONDS / 2:  # else it may be given up by now
        board.write(key, _text(highest + 1, worker))


def _waited(board: Board, key: str, name: str) -> bool:
    """Wait until no lower ticket is left; False where one's own was lost meanwhile."""
    started = since = time.monotonic()
    lowest: tuple[int, str] | None = None
    while True:
        tickets = {ticket.key: ticket for ticket in _tickets(board.read())}
        mine = tickets.pop(key, None)
        if mine is None or mine.number == 0:
            board.erase(key)
            return False
        before = sorted(
            (one for one in tickets.values() if one.place < mine.place), key=lambda one: one.place
        )
        if not before:
            return True
        now = time.monotonic()
        if before[0].place != lowest:
            lowest, since = before[0].place, now
        for ticket in before:
            if _ended(ticket) or (ticket is before[0] and now - since > SILENT_SECONDS):
                board.erase(ticket.key)
        if now - started > PATIENCE_SECONDS:
            raise _never(name, before[0])
        time.sleep(POLL_SECONDS * len(before))  # who is next looks most often


def _never(name: str, ticket: Ticket) -> BadInput:
    host = ticket.worker.get("host", "unknown")
    return BadInput(
        f"others have been changing {name} for {PATIENCE_SECONDS / 60:.0f} minutes, the first on "
        f"the machine {host}: wait for them, or delete its tag {ticket.key} of the registered model"
    )


def _ended(ticket: Ticket) -> bool:
    return {"host", "lock", "folder"} <= ticket.worker.keys() and gone(ticket.worker)


def _text(number: int, worker: Mapping[str, str]) -> str:
    return json.dumps({"number": number, **worker})


def _tickets(seen: Mapping[str, str]) -> list[Ticket]:
    return [_ticket(key, text) for key, text in seen.items() if key.startswith(PREFIX)]


def _ticket(key: str, text: str) -> Ticket:
    """What cannot be read counts as one that is being chosen: it is given up after a minute."""
    try:
        value: Any = json.loads(text)
        number = int(value.pop("number"))
        return Ticket(number, key, {name: str(each) for name, each in value.items()})
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return Ticket(0, key, {})
