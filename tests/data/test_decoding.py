"""Many pictures at once: the same as one by one, whatever happens to those who help."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.data import DataError, decoding, memory
from alexnet_mlflow.data.decoding import Crew, Job, decode_all
from alexnet_mlflow.data.picture import Known, decode
from tests.terminal import written

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(params=["alone", "workers"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of decoding; each must give the same."""
    monkeypatch.setattr(decoding, "ALONE_SECONDS", 3600 if request.param == "alone" else 0)
    return str(request.param)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ALONE_SECONDS", 0)


def raws(number: int) -> list[bytes]:
    """Pictures that can be told apart, of three kinds and many sizes."""
    noise, files = np.random.default_rng(0), []
    for place in range(number):
        pixels = noise.integers(0, 256, (20 + place % 40, 30, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, ("PNG", "JPEG", "BMP")[place % 3])
        files.append(file.getvalue())
    return files


def jobs(files: list[bytes]) -> Iterator[Job]:
    return (Job(row, f"no. {row}", partial(bytes, raw)) for row, raw in enumerate(files))


def settled(found: Iterable[Job]) -> Iterator[Job]:
    """The same jobs, but after the first ones only when workers, if any, wait for pictures."""
    for number, job in enumerate(found):
        if number == 2 and decoding.ALONE_SECONDS == 0:
            time.sleep(0.5)
            while any(state in "RD" for state in states_of_children()):
                time.sleep(0.1)
        yield job


def states_of_children() -> list[str]:
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    stats = [Path(f"/proc/{child}/stat").read_text() for child in task.read_text().split()]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


@pytest.mark.parametrize("number", [0, 1, 4, 5, 36, 37, 500])
def test_many_are_as_one_by_one(number: int, way: str) -> None:
    files = raws(number)
    images, facts, rows = decode_all(settled(jobs(files)), number, False)
    assert images.shape == (number, 3, 32, 32) and np.array_equal(rows, np.arange(number))
    for row, raw in enumerate(files):
        alone = decode(raw)
        assert np.array_equal(images[row], alone.pixels)
        assert tuple(facts[name][row] for name in Known._fields) == alone.known


def test_rows_may_come_in_any_order(way: str) -> None:
    files = raws(90)
    images, *_ = decode_all(settled(jobs(files)), 90, False)
    turned, _, rows = decode_all(settled(reversed(list(jobs(files)))), 90, False)
    assert np.array_equal(images, turned) and np.array_equal(rows, np.arange(90))


@pytest.mark.parametrize("bad", [{0}, {7, 20, 21, 89}, set(range(90))])
def test_corrupt_ones_are_skipped_or_the_first_is_told(bad: set[int], way: str) -> None:
    good = raws(90)
    files = [b"broken" if row in bad else raw for row, raw in enumerate(good)]
    with pytest.raises(DataError, match=rf"'no. {min(bad)}' cannot be read \(not one of jpg"):
        decode_all(settled(jobs(files)), 90, False)
    images, facts, rows = decode_all(settled(jobs(files)), 90, True)
    assert rows.tolist() == [row for row in range(90) if row not in bad]
    assert all(len(column) == len(rows) for column in facts.values())
    assert all(np.array_equal(images[at], decode(good[row]).pixels) for at, row in enumerate(rows))


def test_skipping_moves_the_rest_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK", 7)
    test_corrupt_ones_are_skipped_or_the_first_is_told({1, *range(20, 28), 88}, "")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), DataError("too large")])
def test_what_cannot_be_read_is_corrupt(error: Exception, way: str) -> None:
    def read() -> bytes:
        raise error

    def found() -> Iterator[Job]:
        for job in settled(jobs(raws(50))):
            yield job._replace(read=read) if job.row == 40 else job

    with pytest.raises(DataError, match=r"'no. 40' cannot be read \(.*(No such|too large)"):
        decode_all(found(), 50, False)
    assert len(decode_all(found(), 50, True)[0]) == 49


def test_what_vanishes_meanwhile_is_told() -> None:
    with pytest.raises(DataError, match="50 pictures were found, but 49 were there"):
        decode_all(jobs(raws(49)), 50, True)


def test_an_error_while_finding_comes_through(way: str) -> None:
    def failing() -> Iterator[Job]:
        yield from settled(jobs(raws(40)))
        raise DataError("the archive ends here")

    with pytest.raises(DataError, match="the archive ends here"):
        decode_all(failing(), 99, True)


def test_few_are_held_at_a_time(workers: None) -> None:
    raw, read, ahead = raws(1)[0], list[int](), 0

    def content() -> bytes:
        read.append(1)
        return raw

    def found() -> Iterator[Job]:
        nonlocal ahead
        for row in range(3000):
            ahead = max(ahead, row - len(read))
            yield Job(row, "", content)

    decode_all(found(), 3000, False)
    assert 0 < ahead <= 5 * decoding.CHUNK * len(os.sched_getaffinity(0))


def test_no_more_files_stay_open_and_no_process_runs_on(workers: None) -> None:
    """Sockets and databases are those of threads that earlier tests have left."""
    def opened() -> set[str]:
        found = set[str]()
        for place in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the listing's own
                found.add(os.readlink(place))
        return {name for name in found if not re.search(r"^socket:|\.db(-|$)|^/proc/", name)}

    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before, others, started = opened(), set(threading.enumerate()), children()
    for files in (raws(90), [*raws(80), b"broken"]):
        try:
            decode_all(settled(jobs(files)), len(files), False)
        except DataError:
            assert files[-1] == b"broken"
        assert opened() <= before and set(threading.enumerate()) <= others
        assert children() <= started


def test_every_core_is_used(workers: None) -> None:
    """Pictures are given until both threads of each worker have read some."""
    raw, readers = raws(1)[0], set[str]()

    def read() -> bytes:
        readers.add(threading.current_thread().name)
        return raw

    def found() -> Iterator[Job]:
        until = time.monotonic() + 60
        while sum(name.startswith("decode") for name in readers) < 2 * CORES:
            assert time.monotonic() < until, readers
            yield Job(0, "", read)
        raise DataError("enough")

    with pytest.raises(DataError, match="enough"):
        decode_all(found(), 1, False)


@pytest.mark.parametrize(("cores", "rate", "started"), [(2, 0, 0), (2, 10**9, 1), (3, 0, 1)])
def test_small_pictures_on_two_cores_are_decoded_without_workers(
    monkeypatch: pytest.MonkeyPatch, cores: int, rate: float, started: int
) -> None:
    """Where so many a second were decoded in the time for which this process is alone."""
    made = []

    class Counted(Crew):
        def __init__(self, size: int) -> None:
            made.append(size)
            super().__init__(1)

    monkeypatch.setattr(decoding, "Crew", Counted)
    monkeypatch.setattr(decoding, "ALONE_SECONDS", 1e-6)  # a few pictures
    monkeypatch.setattr(decoding, "QUICK", rate)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    times = iter([0.0, 0.0] + [1.0] * 100)  # the clock is asked once more before the time is up
    monkeypatch.setattr(time, "monotonic", lambda: next(times, 2.0))
    files = raws(20)
    found, *_ = decode_all(jobs(files), len(files), False)
    assert len(made) == started and made == [cores] * started
    for row, raw in enumerate(files):
        assert np.array_equal(found[row], decode(raw)[0])


# Workers that die: these decode as others do, but for a file that says how to end.

DYING = """
import os, signal, sys
sys.path[:] = sys.argv[1:]
from alexnet_mlflow.data import decoding
was = decoding.decode
def decode(raw):
    if raw == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if raw == b"exit":
        os._exit(3)
    return was(raw)
decoding.decode = decode
decoding.serve(sys.stdin.buffer, sys.stdout.buffer)
"""


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """Two such workers that have started."""
    monkeypatch.setattr(decoding, "SERVE", DYING)
    with closing(Crew(2)) as crew:
        while not crew.ready():
            time.sleep(0.01)
        yield crew


@pytest.mark.parametrize(("harm", "end"), [(b"crash", "signal 11"), (b"exit", "exit code 3")])
def test_a_picture_that_kills_its_decoder_is_corrupt(harm: bytes, end: str, crew: Crew) -> None:
    files = raws(30)
    files[11], files[17] = harm, b"broken"
    batch = crew.batch(list(jobs(files)))
    assert batch.reasons.keys() == {11, 17} and end in batch.reasons[11]
    for row in set(range(30)) - {11, 17}:
        assert np.array_equal(batch.pixels[row], decode(files[row]).pixels)
        assert tuple(batch.known[row]) == decode(files[row]).known
    assert not crew.batch(list(jobs(raws(9)))).reasons  # and there are workers again


def test_a_worker_that_is_killed_from_outside_costs_nothing(crew: Crew) -> None:
    crew.workers[0].process.kill()
    crew.workers[1].process.kill()
    for _ in range(3):
        assert not crew.batch(list(jobs(raws(9)))).reasons


def test_workers_that_die_again_and_again_are_told_of(crew: Crew) -> None:
    with pytest.raises(DataError, match="21 of the helpers .* died, the last of signal 11: give"):
        for _ in range(12):
            crew.batch(list(jobs([b"crash"])))


@pytest.mark.parametrize("serve", ["raise SystemExit(7)", "print('hello')", "import nowhere"])
def test_without_workers_it_goes_on_alone(
    serve: str, workers: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "SERVE", serve)
    files = raws(90)

    def slowly() -> Iterator[Job]:
        for job in jobs(files):
            yield job
            time.sleep(0.2 if "one core" not in caplog.text else 0)

    images, *_ = decode_all(slowly(), 90, False)
    assert np.array_equal(images[89], decode(files[89]).pixels)
    assert caplog.text.count("decoding with one core, for no helper can be started") == 1


def test_no_interpreter(
    workers: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert len(decode_all(jobs(raws(40)), 40, False)[0]) == 40
    assert "No such file" in caplog.text


STOPPED = """
import io, os, signal, sys, threading
from PIL import Image
from alexnet_mlflow.data.decoding import Job, decode_all
def stop(number, frame):
    raise SystemExit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
file = io.BytesIO()
Image.effect_noise((1000, 1000), 90).save(file, "PNG")  # half a second for 32 of them
def read():
    if threading.current_thread().name.startswith("decode"):
        os.write(1, b"running\\n")  # one write: several threads come here
    return file.getvalue()
decode_all((Job(row, "", read) for row in range(10_000)), 10_000, False)
"""


def children_of(running: subprocess.Popen[str]) -> list[str]:
    """The decoding processes of one that decodes, when all of them are there."""
    assert running.stdout is not None and running.stdout.readline() == "running\n"
    task = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    until = time.monotonic() + 20
    while len(children := task.read_text().split()) < CORES:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(children) == CORES
    return children


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(number: int) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = children_of(running)
    started = time.monotonic()
    running.send_signal(number)
    _, told = running.communicate(timeout=20)
    assert time.monotonic() - started < 5  # all the pictures take two minutes
    assert running.returncode == 128 + number and not told
    assert not any(Path("/proc", child).exists() for child in children)


def test_workers_end_with_a_process_that_is_killed() -> None:
    running = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    children = children_of(running)
    running.kill()
    running.communicate()
    until = time.monotonic() + 20  # the pictures that they have are decoded first
    while any(Path("/proc", child, "exe").exists() for child in children):
        assert time.monotonic() < until
        time.sleep(0.05)


SHOWN = """
from alexnet_mlflow.data.decoding import Job, decode_all
decode_all((Job(row, "", lambda: b"P5 1 1 255 x") for row in range(200)), 200, False)
"""


def test_progress_is_for_terminals() -> None:
    command = [sys.executable, "-c", SHOWN]
    quiet = subprocess.run(command, capture_output=True, text=True, check=True)
    assert quiet.stdout == quiet.stderr == ""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(command, stderr=theirs):
        os.close(theirs)
        seen = written(ours)
    assert "decoding" in seen and "200" in seen and seen.rstrip(" ").endswith("\r")
