"""A signal in a held block is raised after it, once; a second one ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from alexnet_mlflow import signals


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What a handler of SIGTERM got; no signal has come before."""
    monkeypatch.setattr(signals, "_came_at", 0.0)
    monkeypatch.setattr(signals, "_first", 0)
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_it_waits_for_the_end_of_the_outermost_block(seen: list[int]) -> None:
    with signals.held():
        with signals.held():
            signal.raise_signal(signal.SIGTERM)
        assert seen == []
    assert seen == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM] * 2, "the handler was not put back"


def test_who_follows_is_told_at_once_and_once() -> None:
    """Not when what holds the signal up is over; one that was let go is not told."""
    words = """
import subprocess, sys
from alexnet_mlflow import signals
signals.listen()
first, second = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) for _ in range(2))
for process in (first, second):
    signals.follow(process)
assert signals.let_go(second)
with signals.held():
    print("ready", flush=True)
    assert first.wait(30) == -15
    assert second.poll() is None and not signals.let_go(first)
    second.kill()
"""
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 143


def test_it_waits_so_long_at_most_for_a_block_that_hangs() -> None:
    """And a block that ends in time leaves no alarm behind."""
    words = """
import time
from alexnet_mlflow import signals
signals.listen()
with signals.held(seconds=0.5):
    pass
try:
    with signals.held(seconds=0.5):
        print("ready", flush=True)
        time.sleep(60)
finally:
    with signals.held(seconds=0.5):  # the run is being closed
        time.sleep(1)
        print("closed", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        came = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"closed\n"
        assert 1.4 < time.monotonic() - came < 4
        assert process.wait(timeout=5) == 143


@pytest.mark.parametrize("within", [True, False])
def test_of_two_blocks_that_hang_neither_adds_to_the_other(within: bool) -> None:
    """The signal comes in the inner one, or before it."""
    words = f"""
import time
from alexnet_mlflow import signals
signals.listen()
with signals.held(seconds=2):
    if {not within}:
        print("ready", flush=True)
        time.sleep(0.5)
    with signals.held(seconds=2):
        if {within}:
            print("ready", flush=True)
        time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        came = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
        assert 1.9 < time.monotonic() - came < 3.6


@pytest.mark.parametrize(("second", "at_once"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_second_one_in_a_block_within_is_a_second_one(
    second: signal.Signals, at_once: bool
) -> None:
    """Passed on by `mlflow run` it changes nothing, not the time either; the same one ends all."""
    words = """
import time
from alexnet_mlflow import signals
signals.listen()
with signals.held(seconds=2):
    print("out", flush=True)
    time.sleep(0.5)
    with signals.held(seconds=2):
        print("in", flush=True)
        time.sleep(0.7)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"out\n"
        came = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"in\n"
        process.send_signal(second)
        assert process.wait(timeout=20) == 130
        assert (time.monotonic() - came < 1.9) == at_once and time.monotonic() - came < 3.6


def test_a_block_that_ends_before_its_seconds_raises_the_signal_once(seen: list[int]) -> None:
    with signals.held(seconds=0.2):
        signal.raise_signal(signal.SIGTERM)
        assert seen == []
    assert seen == [signal.SIGTERM]
    time.sleep(0.4)
    assert seen == [signal.SIGTERM], "the alarm came all the same"


def test_an_error_in_the_block_does_not_swallow_it(seen: list[int]) -> None:
    """A request that fails is asked again, and who asked to stop would wait for ever."""
    with pytest.raises(ValueError, match="mine"), signals.held():
        signal.raise_signal(signal.SIGTERM)
        assert seen == []
        raise ValueError("mine")
    assert seen == [signal.SIGTERM]
    signals.listen()
    try:
        with pytest.raises(SystemExit) as left, signals.held():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("mine")
    finally:
        signals.listen()
    assert left.value.code == 143


def test_in_another_thread_it_does_nothing() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with signals.held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


HELD = """
with signals.held():
    print("ready", flush=True)
    time.sleep(60)
"""
CLOSING = """
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    with signals.held():  # the run is being closed, and the store hangs
        print("closing", flush=True)
        time.sleep(60)
"""


def test_a_second_one_waits_too_where_something_would_outlive_the_process() -> None:
    words = """
import time
from alexnet_mlflow import signals
signals.listen()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    with signals.held(to_the_end=True):  # its children are being stopped
        print("closing", flush=True)
        time.sleep(1)
        print("closed", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"closing\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"closed\n"
        assert process.wait(timeout=5) == 130


@pytest.mark.parametrize(
    ("first", "passed_on", "starter"),
    [(signal.SIGINT, signal.SIGTERM, False), (signal.SIGTERM, signal.SIGTERM, True)],
    ids=["by mlflow run, after Ctrl-C", "by who has started it, after one to all processes"],
)
def test_what_is_passed_on_soon_after_is_the_same_stop(
    first: signal.Signals, passed_on: signal.Signals, starter: bool
) -> None:
    words = "import time\nfrom alexnet_mlflow import signals\nsignals.listen()\n" + CLOSING
    environment = {**os.environ, **({signals.STARTER: str(os.getpid())} if starter else {})}
    with subprocess.Popen(
        [sys.executable, "-c", words], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == b"closing\n"
        process.send_signal(passed_on)
        time.sleep(0.2)
        assert process.poll() is None, "what was being closed is cut off"
        if starter:
            process.kill()
        else:
            process.send_signal(first)
            assert process.wait(timeout=5) == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", [HELD, CLOSING])
def test_a_second_signal_ends_the_process_at_once(
    number: signal.Signals, code: int, place: str
) -> None:
    words = "import time\nfrom alexnet_mlflow import signals\nsignals.listen()\n" + place
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        if place is CLOSING:
            assert process.stdout.readline() == b"closing\n"
        else:
            time.sleep(0.2)
            assert process.poll() is None, "the write was cut off"
        process.send_signal(number)
        assert process.wait(timeout=5) == code


RESTING = """
import signal, sys, time
from alexnet_mlflow import signals
signals.listen()
for _ in range(3):
    signals.rest(float(sys.argv[1]))
    print("epoch", flush=True)
    sys.stdin.readline()
    print("done", flush=True)
signals.rest()
"""


@pytest.mark.parametrize(
    ("patience", "sent", "code", "told"),
    [
        ("9", 1, 143, ["done"]),  # after the epoch in which it came
        ("9", 2, 143, []),  # a second one leaves at once
        ("0.3", 1, 143, []),  # the epoch takes longer than it may
        ("0", 1, 143, []),
    ],
)
def test_a_signal_waits_for_the_end_of_an_epoch(
    patience: str, sent: int, code: int, told: list[str]
) -> None:
    command = [sys.executable, "-c", RESTING, patience]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "epoch\n"
        for _ in range(sent):
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
        if told:
            process.stdin.write("\n")  # the epoch ends
            process.stdin.flush()
        assert process.stdout.read().split() == told
        assert process.wait(timeout=5) == code


def test_a_rest_that_is_overdue_does_not_cut_off_a_write() -> None:
    words = """
import signal, time
from alexnet_mlflow import signals
signals.listen()
signals.rest(0.2)
signal.raise_signal(signal.SIGTERM)
with signals.held():
    time.sleep(0.6)
    print("written", flush=True)
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (143, "written\n"), done.stderr
