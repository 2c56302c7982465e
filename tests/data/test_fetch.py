"""Downloads from real servers on loopback: whatever a mirror does, a file is whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from alexnet_mlflow.data import cifar10, fetch
from alexnet_mlflow.data.fetch import LOCAL, Pace, Remote, get
from alexnet_mlflow.data.split import DataError
from tests.data.mirrors import Mirror
from tests.terminal import written

SIZE = 300_001
CONTENT = random.Random(0).randbytes(SIZE)
LIE = random.Random(1).randbytes(SIZE)  # as long as the file, but not it
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PART = f".file.bin.{SHA256[:12]}.part"
PACE = Pace(least_rate=1.0, patience=20.0)  # no test takes as long: a mirror is left for its deeds
QUICK = Pace(least_rate=100e3, patience=1.0)  # where they are to do with time


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "down" / "loads"


@pytest.fixture
def good() -> Iterator[Mirror]:
    with Mirror(CONTENT) as mirror:
        yield mirror


def remote(*mirrors: Mirror | str) -> Remote:
    urls = (mirror.url if isinstance(mirror, Mirror) else mirror for mirror in mirrors)
    return Remote("file.bin", SIZE, SHA256, tuple(urls))


def fetched(folder: Path, *mirrors: Mirror | str, pace: Pace = PACE) -> str:
    """The URL that served the file, which is then checked."""
    sources = get([(remote(*mirrors),)], folder, pace=pace)
    assert list(sources) == ["file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert not (folder / PART).exists()
    return sources["file.bin"]


def refused(folder: Path, *mirrors: Mirror | str, pace: Pace = PACE) -> str:
    """The sentence that tells why there is no file."""
    with pytest.raises(DataError) as caught:
        get([(remote(*mirrors),)], folder, pace=pace)
    assert not (folder / "file.bin").exists()
    text = str(caught.value)
    assert "\n" not in text and not text.endswith(".")
    return text


def leave_part(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PART).write_bytes(content)
    return folder / PART


# What comes out


def test_the_file_its_source_and_nothing_else(folder: Path, good: Mirror) -> None:
    assert fetched(folder, good) == good.url
    assert good.asked == [None] and good.sent == SIZE and good.encodings == ["identity"]
    assert {path.name for path in folder.iterdir()} <= {"file.bin", "sources.json", fetch.LOCK}
    entry = json.loads((folder / "sources.json").read_text())["file.bin"]
    age = datetime.now(UTC) - datetime.fromisoformat(entry.pop("fetched_at"))
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert entry == {"url": good.url, "sha256": SHA256, "bytes": SIZE}


def test_a_file_that_is_there_is_not_fetched_again(folder: Path, good: Mirror) -> None:
    fetched(folder, good)
    assert fetched(folder, good) == good.url
    (folder / "sources.json").unlink()
    assert fetched(folder, good) == LOCAL
    assert good.asked == [None]


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"file.bin": 1}', '{"file.bin": {"sha256": "0", "url": "u"}}']
)
def test_a_record_of_something_else_is_no_source(folder: Path, good: Mirror, record: str) -> None:
    folder.mkdir(parents=True)
    (folder / "file.bin").write_bytes(CONTENT)
    (folder / "sources.json").write_text(record)
    assert fetched(folder, good) == LOCAL
    (folder / "file.bin").unlink()
    assert fetched(folder, good) == good.url
    assert json.loads((folder / "sources.json").read_text())["file.bin"]["url"] == good.url


def test_the_record_keeps_other_files(folder: Path, good: Mirror) -> None:
    folder.mkdir(parents=True)
    (folder / "sources.json").write_text('{"other": {"url": "u"}}')
    fetched(folder, good)
    record = json.loads((folder / "sources.json").read_text())
    assert set(record) == {"other", "file.bin"} and record["other"] == {"url": "u"}


@pytest.mark.parametrize("content", [LIE, CONTENT[:-1], CONTENT + b"x", b""])
def test_another_file_under_the_name_is_left_alone(
    folder: Path, good: Mirror, content: bytes
) -> None:
    folder.mkdir(parents=True)
    (folder / "file.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"file\.bin' must have 300001 bytes .* move it away"):
        get([(remote(good),)], folder, pace=PACE)
    assert (folder / "file.bin").read_bytes() == content and good.asked == []


# Mirrors that are left


def test_a_dripping_mirror_is_left_and_what_it_gave_is_kept(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, rate=20e3) as slow:
        began = time.monotonic()
        assert fetched(folder, slow, good, pace=QUICK) == good.url
    assert 1.0 <= time.monotonic() - began < 2  # the whole of it takes fifteen
    (asked,) = good.asked
    start = int(re.fullmatch(r"bytes=(\d+)-", asked or "")[1])  # type: ignore[index]
    assert 2000 < start < 40_000 and good.sent == SIZE - start


def test_a_mirror_that_becomes_slow_is_left(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, rate=20e3, rate_from=200_000) as fading:
        assert fetched(folder, fading, good, pace=QUICK) == good.url
    assert 200_000 <= SIZE - good.sent < 240_000


def test_a_mirror_that_stalls_is_left(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, stall_after=50_000) as stalling:
        assert fetched(folder, stalling, good, pace=QUICK) == good.url
    assert stalling.asked == [None] and stalling.sent == 50_000
    assert good.asked == ["bytes=50000-"] and good.sent == SIZE - 50_000


def test_a_mirror_that_never_answers_is_left(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, status=0) as mute:
        assert fetched(folder, mute, good, pace=QUICK) == good.url
        text = refused(folder / "other", mute, pace=QUICK)
    assert f"{mute.host} was silent for {QUICK.patience:g} s" in text


def test_a_mirror_that_cuts_the_connection_may_go_on_once(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, cut_after=50_000) as cutting:
        assert fetched(folder, cutting, good) == good.url
    assert cutting.asked == [None, "bytes=50000-"] and good.asked == ["bytes=100000-"]
    with Mirror(CONTENT, cut_after=50_000, cuts=1) as once:
        assert fetched(folder / "other", once) == once.url
    assert once.asked == [None, "bytes=50000-"] and once.sent == SIZE


def test_a_mirror_that_cuts_at_once_is_not_asked_again(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, cut_after=0) as cutting:
        assert fetched(folder, cutting, good) == good.url
    assert cutting.asked == [None] and good.asked == [None]


def test_an_unannounced_end_is_a_cut(folder: Path) -> None:
    with Mirror(CONTENT[:1000], headers={"Content-Length": ""}) as short:
        assert f"{short.host} cut the connection" in refused(folder, short)
    assert short.asked[:2] == [None, "bytes=1000-"]


def test_wrong_bytes_are_dropped(folder: Path, good: Mirror) -> None:
    with Mirror(LIE) as lying:
        assert fetched(folder, lying, good) == good.url
        assert lying.asked == [None] and good.asked == [None]
        assert f"{lying.host} has another file of the same length" in refused(folder / "b", lying)
        assert lying.asked == [None, None], "asked again, though it has another file"
    assert not (folder / "b" / PART).exists()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x"])
def test_a_wrong_length_is_seen_before_the_body(
    folder: Path, good: Mirror, content: bytes
) -> None:
    part = leave_part(folder, CONTENT[:1000])
    with Mirror(content, ranges="ignored") as whole, Mirror(content) as ranged:
        text = refused(folder, whole, ranged)
        for mirror in (whole, ranged):
            assert f"{mirror.host} has {len(content)} bytes, not {SIZE}" in text
            assert mirror.asked == ["bytes=1000-"]
    assert part.read_bytes() == CONTENT[:1000]
    assert fetched(folder, good) == good.url and good.asked == ["bytes=1000-"]


def test_never_more_than_the_file_is_written(folder: Path) -> None:
    with Mirror(CONTENT + LIE, headers={"Content-Length": ""}) as endless:
        assert fetched(folder, endless) == endless.url


@pytest.mark.parametrize("status", [204, 304, 403, 404, 429, 500, 503])
def test_a_mirror_with_another_status_is_left(folder: Path, good: Mirror, status: int) -> None:
    with Mirror(CONTENT, status=status) as failing:
        assert fetched(folder, failing, good) == good.url
        assert f"{failing.host} answers HTTP {status}" in refused(folder / "other", failing)


def test_a_mirror_that_is_gone_is_left(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT) as gone:
        pass
    assert fetched(folder, gone, good) == good.url
    assert f"{gone.host} gives no answer (Connection refused)" in refused(folder / "other", gone)


def test_no_tls_is_told(
    folder: Path, good: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = good.url.replace("http:", "https:")
    assert "gives no answer ([SSL" in refused(folder, secure)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    assert "gives no answer (Could not find a suitable TLS CA" in refused(folder, secure)


def test_the_reason_is_not_what_the_caller_is_about(folder: Path) -> None:
    try:
        raise DataError("something else")
    except DataError:
        assert "(Connection refused)" in refused(folder, "http://127.0.0.1:1/file.bin")


@pytest.mark.parametrize("given", ["", "bytes 0-300000/300001", "bytes 1000-300000", "pages 1-2/3"])
def test_a_range_that_was_not_asked_for_is_not_taken(
    folder: Path, good: Mirror, given: str
) -> None:
    part = leave_part(folder, CONTENT[:2000])
    with Mirror(CONTENT, headers={"Content-Range": given}) as confused:
        text = refused(folder, confused)
        assert f"{confused.host} was asked for the bytes from 2000 on and gives" in text
    assert part.read_bytes() == CONTENT[:2000]


# Redirects


def test_a_redirect_is_followed_and_its_body_is_not_read(folder: Path, good: Mirror) -> None:
    with Mirror(b"", status=302, location=good.url) as door:
        assert fetched(folder, door) == door.url
    assert good.asked == [None]


@pytest.mark.parametrize("target", ["file://{path}", "ftp://127.0.0.1/file.bin", "//[", "data:,x"])
def test_a_redirect_to_another_scheme_is_not_followed(
    folder: Path, tmp_path: Path, target: str
) -> None:
    bait = tmp_path / "bait"
    bait.write_bytes(CONTENT)
    with Mirror(b"", status=302, location=target.format(path=bait)) as door:
        assert f"{door.host} gives no answer (" in refused(folder, door)
    assert "gives no answer" in refused(folder, f"file://{bait}")


def test_redirects_in_a_circle_end(folder: Path) -> None:
    with Mirror(b"", status=302) as door:
        door.location = door.url
        assert "redirects" in refused(folder, door)


# Going on


@pytest.mark.parametrize("begun", [1, SIZE // 2, SIZE - 1])
def test_a_part_is_continued(folder: Path, good: Mirror, begun: int) -> None:
    leave_part(folder, CONTENT[:begun])
    assert fetched(folder, good) == good.url
    assert good.asked == [f"bytes={begun}-"] and good.sent == SIZE - begun


def test_a_mirror_without_ranges_starts_over(folder: Path) -> None:
    leave_part(folder, LIE[:1000])
    with Mirror(CONTENT, ranges="ignored") as simple:
        assert fetched(folder, simple) == simple.url
    assert simple.asked == ["bytes=1000-"], "the hash was of more than it gave"


def test_a_liar_without_ranges_is_not_tried_again(folder: Path) -> None:
    leave_part(folder, CONTENT[:1000])
    with Mirror(LIE, ranges="ignored") as lying:
        refused(folder, lying)
    assert lying.asked == ["bytes=1000-"], "all of it was its own already"


def test_a_mirror_without_ranges_does_not_shrink_the_part(folder: Path, good: Mirror) -> None:
    leave_part(folder, CONTENT[:100_000])
    with Mirror(CONTENT, ranges="ignored", stall_after=10_000) as stalling:
        assert fetched(folder, stalling, good, pace=QUICK) == good.url
    assert good.asked == ["bytes=100000-"]


def test_after_416_the_mirror_is_asked_for_all(folder: Path) -> None:
    leave_part(folder, CONTENT[:1000])
    with Mirror(CONTENT, ranges="refused") as strict:
        assert fetched(folder, strict) == strict.url
    assert strict.asked == ["bytes=1000-", None]


def test_a_whole_part_needs_no_mirror(folder: Path, good: Mirror) -> None:
    leave_part(folder, CONTENT)
    assert fetched(folder, good) == LOCAL and good.asked == []


@pytest.mark.parametrize("part", [LIE, CONTENT + b"x", LIE[:1000]])
def test_a_part_of_something_else_is_dropped(folder: Path, good: Mirror, part: bytes) -> None:
    leave_part(folder, part)
    assert fetched(folder, good) == good.url and good.asked[-1] is None


def test_with_bytes_of_a_liar_the_other_mirror_gets_to_try_alone(
    folder: Path, good: Mirror
) -> None:
    with Mirror(LIE, stall_after=50_000) as lying:
        assert fetched(folder, lying, good, pace=QUICK) == good.url
    assert good.asked == ["bytes=50000-", None]


def test_a_liar_that_completes_the_part_is_tried_alone_and_left(
    folder: Path, good: Mirror
) -> None:
    with Mirror(CONTENT, stall_after=50_000) as stalling, Mirror(LIE) as lying:
        assert fetched(folder, stalling, lying, good, pace=QUICK) == good.url
    assert lying.asked == ["bytes=50000-", None] and good.asked == [None]


def test_bytes_are_kept_as_they_are_sent(folder: Path) -> None:
    with Mirror(CONTENT, headers={"Content-Encoding": "gzip"}) as apache:
        assert fetched(folder, apache) == apache.url


# Slow lines, several offers, none at all


def test_the_fastest_of_slow_mirrors_is_used_to_the_end(folder: Path, tmp_path: Path) -> None:
    pace = Pace(least_rate=10e6, patience=1.0)
    with (
        Mirror(CONTENT, rate=20e3) as slowest,
        Mirror(CONTENT, rate=150e3) as faster,
        Mirror(CONTENT, stall_after=1000) as stalling,
        Mirror(CONTENT, status=404) as absent,
    ):
        assert fetched(folder, slowest, stalling, absent, faster, pace=pace) == faster.url
        counts = [len(mirror.asked) for mirror in (slowest, stalling, absent, faster)]
        assert counts == [1, 1, 1, 2]


def test_in_the_second_round_silence_still_counts(folder: Path) -> None:
    pace = Pace(least_rate=10e6, patience=1.0)
    with (
        Mirror(CONTENT, rate=100e3, stall_after=120_000) as stalling,
        Mirror(CONTENT, rate=40e3) as slower,
    ):
        assert fetched(folder, stalling, slower, pace=pace) == slower.url
        assert (len(stalling.asked), len(slower.asked)) == (2, 2)


def test_the_next_offer_is_taken_whole(folder: Path, good: Mirror) -> None:
    with Mirror(CONTENT, stall_after=1000) as stalling, Mirror(CONTENT, status=404) as absent:
        first = (remote(absent, stalling), Remote("more", SIZE, SHA256, (good.url,)))
        second = (Remote("archive", SIZE, SHA256, (absent.url, good.url)),)
        assert get([first, second], folder, pace=QUICK) == {"archive": good.url}
    assert (folder / PART).read_bytes() == CONTENT[:1000]
    assert (folder / "archive").read_bytes() == CONTENT and not (folder / "more").exists()
    assert good.asked == [None]


def test_an_offer_of_two_files_is_taken_whole(folder: Path, good: Mirror) -> None:
    offer = (remote(good), Remote("more", SIZE, SHA256, (good.url,)))
    assert get([offer], folder, pace=PACE) == {"file.bin": good.url, "more": good.url}
    assert set(json.loads((folder / "sources.json").read_text())) == {"file.bin", "more"}
    (folder / "more").unlink()
    get([offer], folder, pace=PACE)
    assert good.asked == [None, None, None]


def test_a_complete_second_offer_is_enough(folder: Path, good: Mirror) -> None:
    fetched(folder, good)
    first = (Remote("preferred", SIZE, SHA256, (good.url,)),)
    assert get([first, (remote(good),)], folder, pace=PACE) == {"file.bin": good.url}
    assert good.asked == [None]


def test_who_waited_takes_what_the_other_got(folder: Path, good: Mirror) -> None:
    offers = [(Remote("preferred", SIZE, SHA256, (good.url,)),), (remote(good),)]
    found: list[dict[str, str]] = []
    folder.mkdir(parents=True)
    with FileLock(folder / fetch.LOCK):
        waiting = threading.Thread(target=lambda: found.append(get(offers, folder, pace=PACE)))
        waiting.start()
        time.sleep(0.1)
        (folder / "file.bin").write_bytes(CONTENT)
    waiting.join()
    assert found == [{"file.bin": LOCAL}] and good.asked == []


def test_a_part_that_vanishes_while_it_is_looked_at(folder: Path, good: Mirror) -> None:
    fetched(folder, good)
    over = threading.Event()

    def flicker() -> None:  # as where another process gives parts their names
        while not over.is_set():
            leave_part(folder, b"x").unlink()

    other = threading.Thread(target=flicker)
    other.start()
    try:
        for _ in range(300):
            assert get([(remote(good),)], folder, pace=PACE) == {"file.bin": good.url}
    finally:
        over.set()
        other.join()


def test_on_a_slow_line_the_offer_that_is_nearly_there_is_completed(folder: Path) -> None:
    pace = Pace(least_rate=10e6, patience=1.0)
    leave_part(folder, CONTENT[:270_000])
    with Mirror(CONTENT, rate=20e3) as slow:
        archive = (Remote("archive", SIZE, SHA256, (slow.url,)),)
        assert get([archive, (remote(slow),)], folder, pace=pace) == {"file.bin": slow.url}


def test_every_mirror_is_named_with_its_fault(folder: Path) -> None:
    with (
        Mirror(CONTENT, stall_after=5) as stalling,
        Mirror(CONTENT, status=404) as absent,
        Mirror(LIE) as lying,
        Mirror(CONTENT[1:]) as short,
    ):
        mirrors = (stalling, absent, lying, short)
        text = refused(folder, *mirrors, pace=QUICK)
        assert text.startswith("a mirror must give file.bin, but all were left (")
        assert [text.index(mirror.host) for mirror in mirrors] == sorted(
            text.index(mirror.host) for mirror in mirrors
        )
        assert "try again later, what has come is kept, or put the files in" in text
        assert str(folder) in text


# The folder


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be(tmp_path: Path, good: Mirror, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot take the download .* or name another folder"):
        get([(remote(good),)], tmp_path / "file" / below, pace=PACE)
    assert good.asked == []


def test_a_full_disk(folder: Path, good: Mirror) -> None:
    folder.mkdir(parents=True)
    (folder / PART).symlink_to("/dev/full")
    assert f"{str(folder)!r} is on a full disk: make room" in refused(folder, good)
    assert (folder / PART).is_symlink()


def test_where_writing_ends_the_part_is_kept(folder: Path, good: Mirror) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        text = refused(folder, good)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot take the download (File too large)" in text
    assert (folder / PART).read_bytes() == CONTENT[:100_000]
    assert fetched(folder, good) == good.url and good.asked == [None, "bytes=100000-"]


# Other processes and signals

ASK = f"""
import signal, sys
from pathlib import Path
from alexnet_mlflow.data.fetch import Pace, Remote, get

def stop(number, _):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
file = Remote("file.bin", {SIZE}, "{SHA256}", (sys.argv[2],))
print(get([(file,)], Path(sys.argv[1]), pace=Pace(0, 20))["file.bin"])
"""


@contextlib.contextmanager
def asking(folder: Path, mirror: Mirror) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", ASK, str(folder), mirror.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["KILL", "TERM", "INT"],
)
def test_a_stopped_process_leaves_its_part(
    folder: Path, good: Mirror, number: int, code: int
) -> None:
    with Mirror(CONTENT, rate=200e3) as slow, asking(folder, slow) as process:
        while not (folder / PART).exists() or (folder / PART).stat().st_size < 30_000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert process.returncode == code and "Traceback" not in err
    kept = (folder / PART).read_bytes()
    assert 30_000 <= len(kept) < SIZE and CONTENT.startswith(kept)
    began = time.monotonic()
    assert fetched(folder, good) == good.url
    assert time.monotonic() - began < 1, "the lock was still held"
    assert good.asked == [f"bytes={len(kept)}-"] and good.sent == SIZE - len(kept)


def test_two_processes_that_ask_at_once_download_once(folder: Path) -> None:
    gate = threading.Event()
    with Mirror(CONTENT, gate=gate) as mirror, asking(folder, mirror) as first:
        assert mirror.begun.wait(20)
        with asking(folder, mirror) as second:
            assert second.stderr and "waiting" in second.stderr.readline()
            gate.set()
            outs = [process.communicate(timeout=20) for process in (first, second)]
    assert [out for out, _ in outs] == [f"{mirror.url}\n"] * 2, outs
    assert mirror.asked == [None] and mirror.sent == SIZE


# What a person sees


def test_what_happens_is_told_on_standard_error(
    folder: Path, good: Mirror, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LINE_SECONDS", 0.1)
    with Mirror(CONTENT, rate=20e3) as slow:
        fetched(folder, slow, good, pace=QUICK)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and "\r" not in err
    assert lines[0] == f"file.bin: asking {slow.host}"
    assert re.fullmatch(r"file\.bin: 0\.0 of 0\.3 MB, 0\.0\d MB/s, \d\d:\d\d left", lines[1])
    assert re.fullmatch(rf"file\.bin: leaving {slow.host}: it gives \S+ kB/s, not 100", lines[-3])
    assert lines[-2] == f"file.bin: asking {good.host}"
    assert lines[-1] == f"file.bin: whole and verified, from {good.url}"


def test_on_a_terminal_there_is_a_bar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    with os.fdopen(slave, "w") as terminal, Mirror(CONTENT, rate=600e3) as mirror:
        monkeypatch.setattr(sys, "stderr", terminal)
        fetched(folder, mirror)
        monkeypatch.undo()
    bar = r"file\.bin: +\d+%\|.*k/300k \[\d\d:\d\d<\d\d:\d\d, [\d.]+kB/s\]"
    assert re.search(bar, written(master))


# CIFAR-10


def test_cifar10_is_offered_as_parquet_then_as_the_archive() -> None:
    parquet, archive = fetch.CIFAR10
    assert tuple(file.name for file in parquet) == cifar10.PARQUET
    assert [(file.name, file.sha256) for file in archive] == [
        (cifar10.ARCHIVE, cifar10.ARCHIVE_SHA256)
    ]
    assert sum(file.size for file in parquet) == 143_646_105 and archive[0].size == 170_498_071
    urls = [url for offer in fetch.CIFAR10 for file in offer for url in file.urls]
    assert len(set(urls)) == len(urls) == 6
    for file in (*parquet, *archive):
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        for url in file.urls:
            assert re.fullmatch(rf"https://[a-z0-9.-]+/(.+/)?{file.name}(\?download=1)?", url)
    assert all(re.search("/resolve/[0-9a-f]{40}/", file.urls[0]) for file in parquet)
    assert archive[0].urls[-1] == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
