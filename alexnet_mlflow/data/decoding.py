"""Very many picture files -> pixels, with every core, in order, and with progress to look at.

Chosen: for ALONE_SECONDS pictures are decoded right here; if there are more, and they are not small
ones on two cores, worker processes are started, a core each, that are fed through pipes. Threads
would be simpler, but Python's lock lets only photos be decoded side by side: pictures of 32x32 take
twice as long with two threads as with one (measured). A worker is a fresh interpreter, neither a
fork (other threads may run here) nor one of multiprocessing (which would run the caller's script
again). It ends when its pipe does, so that nothing is left behind however this process ends. A
picture that brings a worker down is found by decoding its neighbours one by one, and is then as
corrupt as any other. What comes out does not depend on the number of workers.

Left out: a limit on the time a picture may take.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain, islice
from typing import IO, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from alexnet_mlflow.data import memory
from alexnet_mlflow.data.archive import short
from alexnet_mlflow.data.picture import Known, decode, fault
from alexnet_mlflow.data.split import SIDE, DataError, Facts, Images, Integers

ALONE_SECONDS = 0.3  # as long as it takes to start workers (measured)
# Feeding workers takes a core: with two, pictures this quick (a second) are decoded faster without.
BUSY_CORES, QUICK = 2, 5000
WORKERS = 16  # more than these are fed by one process no faster
CHUNK = 32  # pictures a task
FEW = 4  # pictures at a time, as long as this process is alone
DEATHS = 20  # of workers, four a picture, until it is clear that it is not a picture's fault
SERVE = """
import sys
sys.path[:] = sys.argv[1:]
from alexnet_mlflow.data.decoding import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""
READY = b"ready"
LENGTHS = np.dtype("<u8")
PIXELS, FIELDS = 3 * SIDE * SIDE, len(Known._fields)

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """A picture that is to be decoded."""

    row: int  # where its pixels go
    name: str  # as errors call it
    read: Callable[[], bytes]  # called in any thread


class Batch(NamedTuple):
    """Some decoded pictures."""

    pixels: Images  # (N, 3, 32, 32) uint8, anything where a picture is corrupt
    known: npt.NDArray[np.uint32]  # (N, fields of Known)
    reasons: dict[int, str]  # which are corrupt, 0 .. N - 1, and why


Results = Generator[tuple[Sequence[Job], Batch]]


def decode_all(
    jobs: Iterable[Job], count: int, skip_corrupt: bool
) -> tuple[Images, Facts, Integers]:
    """Pixels (N, 3, 32, 32), what is known of each (N,), and the rows 0 .. count - 1 they are of.

    N is `count` unless corrupt pictures are skipped, else the first of the jobs that is corrupt
    raises DataError. Jobs are taken as they are needed, a few hundred ahead.
    """
    images = memory.blank((count, 3, SIDE, SIDE))
    known = np.zeros((count, FIELDS), np.float32)
    there, number = np.zeros(count, np.bool_), 0
    with _bar(count) as bar, closing(_decoded(iter(jobs))) as results:
        for chunk, batch in results:
            if batch.reasons and not skip_corrupt:
                raise _corrupt(chunk[min(batch.reasons)], batch.reasons[min(batch.reasons)])
            rows = [job.row for job in chunk]
            images[rows], known[rows], there[rows] = batch.pixels, batch.known, True
            there[[rows[at] for at in batch.reasons]] = False
            bar.update(len(chunk))
            number += len(chunk)
            if number % memory.BLOCK < len(chunk):
                memory.let_go(images)
    if number != count:
        raise DataError(
            f"{count} pictures were found, but {number} were there when they were read: "
            "leave their files alone and start again"
        )
    rows_there = np.flatnonzero(there)
    columns = {name: known[rows_there, at] for at, name in enumerate(Known._fields)}
    return _moved_up(images, rows_there), columns, rows_there


def _corrupt(job: Job, reason: str) -> DataError:
    return DataError(
        f"picture {short(job.name)} cannot be read ({reason[:200]}): repair or remove it, or give "
        "--skip-corrupt to leave out every such picture"
    )


def _moved_up(images: Images, rows: Integers) -> Images:
    """These rows, ascending, at the front where they are not all: there is no second array."""
    for start in range(0, len(rows) if len(rows) < len(images) else 0, memory.BLOCK):
        block = rows[start : start + memory.BLOCK]
        images[start : start + len(block)] = images[block]
    return images[: len(rows)]


def _bar(count: int) -> tqdm[NoReturn]:
    quiet = not sys.stderr.isatty()
    return tqdm(total=count, desc="decoding", unit=" pictures", leave=False, disable=quiet)


def _decoded(jobs: Iterator[Job]) -> Results:
    """The jobs in their order, with what becomes of them: here, and soon by workers."""
    until, done = time.monotonic() + ALONE_SECONDS, 0
    for chunk, batch in _alone(jobs, lambda: time.monotonic() < until):
        done += len(chunk)
        yield chunk, batch
    cores = len(os.sched_getaffinity(0))
    if cores <= BUSY_CORES and done > QUICK * ALONE_SECONDS:
        yield from _alone(jobs, lambda: True)
        return
    if (job := next(jobs, None)) is None:
        return
    with closing(Crew(min(WORKERS, cores))) as crew:
        rest = chain([job], jobs)
        yield from _alone(rest, lambda: not crew.ready())
        yield from _together(rest, crew)


def _alone(jobs: Iterator[Job], going_on: Callable[[], bool]) -> Results:
    while going_on() and (chunk := list(islice(jobs, FEW))):
        yield chunk, _batch([_read(job) for job in chunk])


def _together(jobs: Iterator[Job], crew: Crew) -> Results:
    pending = deque[tuple[list[Job], Future[Batch]]]()
    while chunk := list(islice(jobs, CHUNK)):
        pending.append((chunk, crew.threads.submit(crew.batch, chunk)))
        if len(pending) > 3 * crew.size:
            chunk, future = pending.popleft()
            yield chunk, future.result()
    for chunk, future in pending:
        yield chunk, future.result()


File = bytes | str  # a picture file's content, or why it cannot be read


def _read(job: Job) -> File:
    try:
        return job.read()
    except Exception as error:  # it is gone, too large, no file: as bad as a broken picture
        return fault(error)


def _batch(files: Sequence[File]) -> Batch:
    """Decode, in this very process."""
    batch = _blank(len(files))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF and the like: the picture is still there
        for at, file in enumerate(files):
            try:
                if isinstance(file, str):
                    batch.reasons[at] = file
                else:
                    batch.pixels[at], batch.known[at] = decode(file)
            except Exception as error:  # Pillow's decoders raise a dozen types for broken files
                batch.reasons[at] = fault(error)
    return batch


def _blank(count: int) -> Batch:
    pixels = np.zeros((count, 3, SIDE, SIDE), np.uint8)
    return Batch(pixels, np.zeros((count, FIELDS), np.uint32), {})


class Crew:
    """Some workers, and twice as many threads: one reads files while another's are decoded."""

    def __init__(self, size: int) -> None:
        """Start them; see `ready`."""
        self.size, self.threads = size, ThreadPoolExecutor(2 * size, "decode")
        self.workers, self.free = list[Worker](), queue.SimpleQueue[Worker]()
        self.lock, self.closed, self.deaths = threading.Lock(), False, 0
        try:
            for _ in range(size):
                self.workers.append(Worker())
        except OSError as error:
            self._go_without(error)
        self.starting = [self.threads.submit(worker.wait) for worker in self.workers]

    def ready(self) -> bool:
        """Whether all workers have started; never, and told once, where one cannot."""
        if not self.starting or not all(start.done() for start in self.starting):
            return False
        errors = [error for start in self.starting if (error := start.exception()) is not None]
        self.starting = []
        if errors:
            self._go_without(errors[0])
            return False
        for worker in self.workers:
            self.free.put(worker)
        return True

    def _go_without(self, error: BaseException) -> None:
        logger.warning("decoding with one core, for no helper can be started: %s", error)
        self._end_all()
        self.workers.clear()

    def _end_all(self) -> None:
        for worker in self.workers:
            worker.end()

    def close(self) -> None:
        """End all of them, whatever they are at; threads that wait for one come free."""
        with self.lock:
            self.closed = True
            self._end_all()
        self.threads.shutdown(cancel_futures=True)

    def batch(self, jobs: list[Job]) -> Batch:
        """These jobs, read and decoded; called in threads."""
        files = [_read(job) for job in jobs]
        batch = self._sent([b"" if isinstance(file, str) else file for file in files])
        unread = {at: file for at, file in enumerate(files) if isinstance(file, str)}
        return batch._replace(reasons={**batch.reasons, **unread})

    def _sent(self, raws: list[bytes]) -> Batch:
        worker, reason = self.free.get(), ""
        try:
            for _ in range(2):  # a worker may have been killed for another's sake
                try:
                    return worker.batch(raws)
                except Died as death:
                    reason = f"what decoded it died of it: {death}"
                    worker = self._another(worker, death)
        finally:
            self.free.put(worker)
        whole = _blank(len(raws))
        for at, raw in enumerate(raws):
            one = self._sent([raw]) if len(raws) > 1 else _blank(1)._replace(reasons={0: reason})
            whole.pixels[at], whole.known[at] = one.pixels[0], one.known[0]
            if one.reasons:
                whole.reasons[at] = one.reasons[0]
        return whole

    def _another(self, dead: Worker, death: Died) -> Worker:
        with self.lock:
            self.deaths += 1
            if not self.closed and self.deaths <= DEATHS:
                with suppress(OSError, Died):
                    another = Worker()
                    self.workers[self.workers.index(dead)] = another
                    another.wait()
                    return another
        raise DataError(
            f"{self.deaths} of the helpers that decode pictures died, the last of {death}: give "
            "them more memory, or take away the pictures that are odd"
        )


class Died(Exception):
    """A worker ended before it had answered: how."""


class Worker:
    """Another interpreter, in which `serve` runs."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *sys.path], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which ends the workers
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def wait(self) -> None:
        """Until it is ready; raises Died."""
        if self.answers.read(len(READY)) != READY:
            raise Died(self.end())

    def batch(self, raws: list[bytes]) -> Batch:
        """These files decoded; raises Died."""
        try:
            sizes = np.array([len(raws), *map(len, raws)], LENGTHS)
            self.requests.write(b"".join([sizes.tobytes(), *raws]))
            self.requests.flush()
            return _received(self.answers, len(raws))
        except (OSError, ValueError):  # the pipe is cut or closed, or its end came early
            raise Died(self.end()) from None

    def end(self) -> str:
        """Kill it if it still runs; how it ended."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.requests, self.answers):
            with suppress(OSError):  # something was left to be written
                pipe.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """A worker's life: files in, pixels out, until nothing more comes."""
    answers.write(READY)
    answers.flush()
    while head := requests.read(LENGTHS.itemsize):
        count = int(np.frombuffer(head, LENGTHS)[0])
        sizes = np.frombuffer(requests.read(count * LENGTHS.itemsize), LENGTHS)
        batch = _batch([requests.read(size) for size in sizes.tolist()])
        reasons = json.dumps(batch.reasons).encode()
        head = np.array([len(reasons)], LENGTHS).tobytes()
        answers.write(b"".join([head, reasons, batch.known.tobytes(), batch.pixels.tobytes()]))
        answers.flush()


def _received(answers: IO[bytes], count: int) -> Batch:
    """What `serve` answers to so many files; ValueError where it ends early."""
    length = int(np.frombuffer(answers.read(LENGTHS.itemsize), LENGTHS, 1)[0])
    reasons = {int(at): str(why) for at, why in json.loads(answers.read(length)).items()}
    known = np.frombuffer(answers.read(count * 4 * FIELDS), np.uint32, count * FIELDS)
    pixels = np.frombuffer(answers.read(count * PIXELS), np.uint8, count * PIXELS)
    return Batch(pixels.reshape(count, 3, SIDE, SIDE), known.reshape(count, FIELDS), reasons)
