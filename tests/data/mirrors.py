"""Mirrors to download from: real HTTP servers on loopback, each with a habit that a test is about.

A mirror notes the Range header of every request and how many bytes of body it sent.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE = 4096  # bytes a write


@dataclass
class Mirror:
    """Serves one file under any path, until its `with` block is left."""

    content: bytes
    ranges: str = "yes"  # "ignored": always the whole file; "refused": 416
    rate: float = 0.0  # bytes a second; 0 is as fast as it goes
    rate_from: int = 0  # the byte from which on the rate counts
    stall_after: int | None = None  # bytes of one answer, after which nothing more comes
    cut_after: int | None = None  # bytes of one answer, after which the connection ends
    cuts: int = 1000  # as many answers are cut, later ones are whole
    status: int = 200  # another one, and there is no file; 0: no answer at all
    location: str = ""  # for a redirect, whose body has no end
    headers: dict[str, str] = field(default_factory=dict)  # instead of its own; "" leaves one out
    gate: threading.Event | None = None  # after one piece this is waited for

    asked: list[str | None] = field(default_factory=list)  # Range of each request
    encodings: list[str | None] = field(default_factory=list)  # Accept-Encoding of each request
    sent: int = 0  # bytes of body
    begun: threading.Event = field(default_factory=threading.Event)  # something was sent
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Mirror:
        self.server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()  # waits for every answer

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/file.bin"


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, *_: Any) -> None:
        """Clients that go away in mid-answer are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, mirror: Mirror, *rest: Any) -> None:
        self.mirror = mirror
        super().__init__(*rest)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        mirror, wanted = self.mirror, self.headers["Range"]
        mirror.asked.append(wanted)
        mirror.encodings.append(self.headers["Accept-Encoding"])
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "") if mirror.ranges != "ignored" else None
        start, end = int(match[1]) if match else 0, len(mirror.content)
        if mirror.status != 200:
            self._turn_away()
        elif match and (start >= end or mirror.ranges == "refused"):
            self._begin(416, {"Content-Range": f"bytes */{end}", "Content-Length": "0"})
        else:
            ranged = {"Content-Range": f"bytes {start}-{end - 1}/{end}"} if match else {}
            length = {"Content-Length": str(end - start)}
            self._begin(206 if match else 200, {**length, **ranged, **mirror.headers})
            self._send(start)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _turn_away(self) -> None:
        mirror = self.mirror
        if not mirror.status:
            mirror.closing.wait()
            return
        self._begin(mirror.status, {"Location": mirror.location})
        while mirror.location and not mirror.closing.is_set():
            self.wfile.write(b"x" * PIECE)

    def _send(self, start: int) -> None:
        mirror = self.mirror
        for piece in self._pieces(start):
            mirror.sent += len(piece)
            self.wfile.write(piece)
            mirror.begun.set()
            if mirror.gate:
                mirror.gate.wait()

    def _pieces(self, start: int) -> Iterator[bytes]:
        """The file from here on, as far and as fast as this mirror gives it."""
        mirror, stop = self.mirror, len(self.mirror.content)
        if mirror.cut_after is not None and len(mirror.asked) <= mirror.cuts:
            stop = min(stop, start + mirror.cut_after)
        if mirror.stall_after is not None:
            stop = min(stop, start + mirror.stall_after)
        while start < stop:
            dripping = mirror.rate and start >= mirror.rate_from
            step = max(1, min(PIECE, int(mirror.rate / 100))) if dripping else PIECE
            yield mirror.content[start : min(start + step, stop)]
            start += step
            if dripping and mirror.closing.wait(step / mirror.rate):
                return
        if mirror.stall_after is not None:
            mirror.closing.wait()
