"""Nothing that was logged is lost or doubled, whatever the process or the disk does meanwhile."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_mlflow import journal
from alexnet_mlflow.journal import FOLDER, Entry, Journal, Outage, deliver

STORE = "http://store"


class Store:
    """Takes entries, or raises what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[int, str, str]] = []
        self.error: Exception | None = None
        self.tries = 0

    def __call__(self, entry: Entry, copy: Path) -> None:
        self.tries += 1
        if (error := self.error) is not None:
            raise error
        text = copy.read_text() if entry.file else ""
        self.got.append((entry.number, str(entry.values.get("v")), text))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store; an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "END_SECONDS", 20)
    yield Store()


def made(store: Store) -> Journal:
    return Journal(store, Outage(STORE))


def add(to: Journal, value: int) -> None:
    """An entry with a file."""
    to.add("run", "x", {"v": value}, "a.txt", lambda copy: copy.write_text(f"file {value}"))


def left_by(numbers: range, *more: str) -> Path:
    """A journal that a process which is gone has left."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{len(list(FOLDER.iterdir()))}.jsonl"
    entries = [
        {"number": one, "run_id": "run", "kind": "x", "values": {"v": one}, "file": ""}
        for one in numbers
    ]
    lines = [json.dumps(line) for line in ({"store": STORE}, *entries)]
    path.write_text("\n".join((*lines, *more)) + ("" if more else "\n"))
    return path


def test_a_signal_does_not_stop_what_is_on_its_way(
    here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the last entries, a run's end among them, are waited for."""
    journal_, first = made(here), [True]
    drained = journal_.drained

    def stopped(seconds: float) -> bool:
        if first:
            first.clear()
            raise SystemExit(143)
        return drained(seconds)

    monkeypatch.setattr(journal_, "drained", stopped)
    with pytest.raises(SystemExit), journal_.open_run():
        add(journal_, 1)
    assert len(here.got) == 1 and not Path("checkpoints").exists()


def test_entries_arrive_in_order_and_nothing_is_left(here: Store) -> None:
    others = set(threading.enumerate())
    journal_, values = made(here), range(20)
    with journal_.open_run():
        for value in values:
            add(journal_, value)
    assert here.got == [(value + 1, str(value), f"file {value}") for value in values]
    assert not Path("checkpoints").exists()
    assert "journal" not in {thread.name for thread in set(threading.enumerate()) - others}


def test_every_entry_is_on_disk_before_the_call_returns(
    here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.error, synced = ConnectionError("away"), list[str]()
    fsync = os.fsync

    def counted(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    monkeypatch.setattr(os, "fsync", counted)
    journal_ = made(here)
    add(journal_, 1)
    [path] = FOLDER.glob("*.jsonl")
    assert '"v": 1' in path.read_text().splitlines()[-1]
    folder = str(path.with_suffix("").resolve())
    first = [str(path.resolve()), str(FOLDER.resolve()), str(FOLDER.parent.resolve())]
    names = [f"{folder}/1/a.txt", f"{folder}/1", folder, first[1]]
    assert synced == [*first, *names, str(path.resolve())], "the line before what it speaks of"
    here.error = None
    journal_.settle(20)


def test_nobody_waits_for_a_store_that_is_away(
    here: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nor for a disk that others keep busy
    journal_ = made(here)
    here.error = ConnectionError("nobody there")
    started = time.monotonic()
    with journal_.open_run():
        for value in range(50):
            add(journal_, value)
        logged = time.monotonic() - started
        while here.tries < 3:
            time.sleep(0.01)
        here.error = None
        assert journal_.drained(20)
    assert logged < 5, "50 entries with their files"
    assert [value for _, value, _ in here.got] == [str(value) for value in range(50)]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2, told
    away, back = told
    assert "http://store does not answer (nobody there)" in away and "answers again" in back


def test_one_failure_is_not_told(
    here: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FIRST_PAUSE_SECONDS", 60)  # the end makes it try at once
    journal_ = made(here)
    here.error = ConnectionError("dropped")
    with journal_.open_run():
        add(journal_, 1)
        while not here.tries:
            time.sleep(0.001)
        here.error = None
    assert len(here.got) == 1 and capsys.readouterr().err == ""


def test_what_is_left_at_the_end_is_told_and_sent_by_the_next(
    here: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    path = left_by(range(1, 4))
    (path.with_suffix(".done")).write_text('{"number": 1}\n')
    assert deliver("http://another", here).elsewhere == (f"{path} is for {STORE}",)
    here.error = ConnectionError("still away")
    with pytest.raises(ConnectionError):
        deliver(STORE, here)
    here.error = None
    assert deliver(STORE, here).sent == 2 and [value for _, value, _ in here.got] == ["2", "3"]
    assert "2 entries that waited" in capsys.readouterr().err
    assert deliver(STORE, here).sent == 0 and not list(FOLDER.glob("*.jsonl"))


def test_a_process_that_ends_says_what_is_left(
    here: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "END_SECONDS", 0.3)
    here.error = ConnectionError("away")
    journal_ = made(here)
    with journal_.open_run():
        add(journal_, 1)
        add(journal_, 2)
    [path] = FOLDER.glob("*.jsonl")
    told = capsys.readouterr().err
    assert f"2 entries for {STORE} left in {path}: `alexnet-mlflow sync` sends it." in told
    assert deliver(STORE, here).living == 1, "its own process sends it as long as it lives"
    here.error = None
    journal_.settle(20)
    assert not Path("checkpoints").exists()


def test_a_line_that_was_cut_off_is_no_entry(here: Store) -> None:
    left_by(range(1, 3), '{"number": 3, "run_id": "r')
    assert deliver(STORE, here).sent == 2 and not list(FOLDER.glob("*.jsonl"))
    left_by(range(0), '{"store": "ht')
    (FOLDER / "empty.jsonl").write_text("")
    assert deliver(STORE, here).sent == 0


def test_a_full_disk_is_told_and_leaves_no_half_line(
    here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_ = made(here)
    here.error = ConnectionError("away")
    add(journal_, 1)
    assert journal_._on is not None
    path, real = journal_._on.path, journal_._on._open[journal_._on.path]

    class Full:
        def fileno(self) -> int:
            return real.fileno()

        def write(self, text: bytes) -> int:
            return real.write(text[:9])

    journal_._on._open[path] = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left on device"):
        add(journal_, 2)
    journal_._on._open[path] = real
    add(journal_, 3)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["values"]["v"] for line in lines[1:]] == [1, 3]
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    )
    with pytest.raises(OSError, match="Input/output error"):
        add(journal_, 4)
    here.error = None
    journal_.settle(20)


def test_what_is_refused_stays_and_is_told_once(
    here: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    here.error = ValueError("the run is deleted")
    journal_ = made(here)
    with journal_.open_run():
        add(journal_, 1)
        add(journal_, 2)
        assert journal_.drained(20)
        here.error = None
        add(journal_, 3)
    told = capsys.readouterr().err
    assert told.count("the run is deleted") == 1 and "2 entries" in told
    assert [value for _, value, _ in here.got] == ["3"]
    here.error = ValueError("still")
    assert deliver(STORE, here).refused == 2
    here.error = None
    assert deliver(STORE, here).sent == 2 and not list(FOLDER.glob("*.jsonl"))
