"""A proxy of the tests' own in front of a server: well, down, hanging, broken, or losing answers.

Any other status can be asked for too.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.tracking_server import free_port

MODES = ("down", "hang", "500", "lost")


class Flaky:
    """How the proxy behaves, to be set at any time. `only`: requests whose path holds this."""

    def __init__(self, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self.mode, self.only, self.times = "well", "", 10**9
        self.asked: list[str] = []  # the paths of requests that went wrong
        self.well = threading.Event()

    def goes(self, mode: str, only: str = "", times: int = 10**9) -> None:
        """From now on, for so many requests."""
        self.mode, self.only, self.times = mode, only, times
        self.asked.clear()
        self.well.set() if mode == "well" else self.well.clear()

    def mode_of(self, path: str) -> str:
        if self.mode == "well" or self.only not in path or self.times <= 0:
            return "well"
        self.times -= 1
        self.asked.append(path)
        return self.mode

    def wait_for(self, requests: int, seconds: float = 20) -> None:
        """Until so many requests went wrong."""
        until = time.monotonic() + seconds
        while len(self.asked) < requests:
            assert time.monotonic() < until, f"{len(self.asked)} requests only"
            time.sleep(0.02)


@contextmanager
def flaky(upstream: str) -> Iterator[Flaky]:
    """A proxy in front of the server, as long as the block lasts."""
    found = Flaky(free_port())
    host = upstream.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def answer(self) -> None:
            mode = found.mode_of(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if mode == "hang":
                found.well.wait(60)
            if mode in ("down", "hang"):
                self.close_connection = True
                return
            if mode.isdigit():
                self.send_error(int(mode))
                return
            status, headers, text = self.passed_on(body)
            if mode == "lost":
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upward = http.client.HTTPConnection(host, timeout=60)
            headers = {**self.headers, "Host": host, "Connection": "close"}
            headers.pop("Transfer-Encoding", None)
            upward.request(self.command, self.path, body, headers)
            answer = upward.getresponse()
            text = answer.read()
            upward.close()
            return answer.status, answer.getheaders(), text

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            pass

    port = int(found.uri.rpartition(":")[2])
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.goes("well")
        server.shutdown()
        server.server_close()
