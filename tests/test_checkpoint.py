"""A checkpoint is read whole or refused, and reading one runs no code."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import signal
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_mlflow import checkpoint, signals
from alexnet_mlflow.options import BadInput

State = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return checkpoint.path_of("0a1b", tmp_path)


def state(value: float = 1.5) -> State:
    """What a training leaves: tensors, numbers, texts, dicts and lists."""
    return {
        "epoch": 3,
        "model": {"weight": torch.full((40, 50), value), "steps": torch.tensor(7)},
        "optimizer": {"state": {0: {"momentum": torch.arange(5.0)}}, "groups": [{"lr": 0.1}]},
        "random": {"cpu": torch.get_rng_state()},
        "history": [{"epoch": 1, "val_loss": 0.25}],
        "config": {"optimizer": "sgd", "lr": None, "skip_corrupt": False},
    }


def seal(path: Path) -> None:
    """End the file as `save` does, so that it is not refused for being damaged."""
    content = path.read_bytes()
    path.write_bytes(content + b"sha256 " + hashlib.sha256(content).hexdigest().encode())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_what_is_read_is_what_was_written(path: Path) -> None:
    written = state()
    checkpoint.save(path, written)
    assert same(checkpoint.load(path), written)


def test_strides_are_kept(path: Path) -> None:
    weight = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    checkpoint.save(path, {"weight": weight})
    assert checkpoint.load(path)["weight"].stride() == weight.stride()


def test_the_newer_replaces_the_older_and_one_generation_stays(path: Path) -> None:
    for number in range(4):
        checkpoint.save(path, state(float(number)))
    assert same(checkpoint.load(path), state(3.0))
    assert {file.name for file in path.parent.iterdir()} == {"last.pt", "previous.pt"}
    assert same(checkpoint.load(path.with_name("previous.pt")), state(2.0))


def test_a_state_that_cannot_be_written_leaves_the_old_one(path: Path) -> None:
    checkpoint.save(path, state(1.0))
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        checkpoint.save(path, {**state(2.0), "lock": threading.Lock()})
    assert same(checkpoint.load(path), state(1.0))
    checkpoint.save(path, state(3.0))
    assert same(checkpoint.load(path), state(3.0))


def test_a_place_that_cannot_be_written_leaves_the_old_one(path: Path) -> None:
    checkpoint.save(path, state(1.0))
    path.with_suffix(".tmp").mkdir()
    with pytest.raises(OSError):
        checkpoint.save(path, state(2.0))
    assert same(checkpoint.load(path), state(1.0))


def test_half_a_new_file_beside_the_old_one_is_not_read(path: Path) -> None:
    checkpoint.save(path, state(1.0))
    path.with_suffix(".tmp").write_bytes(path.read_bytes()[:100])
    assert same(checkpoint.load(path), state(1.0))


def test_a_truncated_file_is_refused(path: Path) -> None:
    checkpoint.save(path, state())
    whole = path.read_bytes()
    for length in [0, 1, 2, 30, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="cannot be read") as refusal:
            checkpoint.load(path)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_one_wrong_bit_is_refused(path: Path) -> None:
    checkpoint.save(path, state())
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 41), *range(len(whole) - 71, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match="cannot be read .its checksum is another"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02.", b"h\x00.", b"PK\x03\x04junk", pickle.dumps({"a": 1})]
)
def test_what_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for reason in ("its checksum is another", "(?!.*checksum)"):
        with pytest.raises(BadInput, match=rf"cannot be read \(({reason})"):
            checkpoint.load(path)
        seal(path)


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint.load(path)


def test_a_missing_one_is_told(path: Path) -> None:
    with pytest.raises(BadInput, match="there is no checkpoint .* start"):
        checkpoint.load(path)


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.canary,)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(
    path: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    path.parent.mkdir()
    torch.save({"epoch": 1, "model": Planted(canary)}, path)
    seal(path)
    with pytest.raises(BadInput, match="cannot be read") as refusal:
        checkpoint.load(path)
    assert not canary.exists()
    assert "weights_only" not in str(refusal.value)  # torch's advice would run the code
    with zipfile.ZipFile(path) as archive:  # it would have, had it been unpickled
        name = next(item for item in archive.namelist() if item.endswith("data.pkl"))
        pickle.loads(archive.read(name))
    assert canary.exists()


def test_an_old_format_that_would_run_code_is_refused_and_runs_none(
    path: Path, tmp_path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Planted(tmp_path / "canary"), protocol=2))
    seal(path)
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint.load(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a b", "a.b", "a\n", "a\0b", "~"]
)
def test_a_run_id_cannot_leave_the_folder(run_id: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="letters and digits"):
        checkpoint.path_of(run_id, tmp_path)


def test_each_run_has_its_place(tmp_path: Path) -> None:
    assert checkpoint.path_of("a1", tmp_path) != checkpoint.path_of("a2", tmp_path)
    assert checkpoint.path_of("a1", tmp_path).is_relative_to(tmp_path / "a1")


def test_the_newest_comes_first(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nowhere") == []
    for name, written_at in (("aa", 300), ("bb", 100), ("cc", 200)):
        path = checkpoint.path_of(name, tmp_path)
        checkpoint.save(path, {})
        os.utime(path, (written_at, written_at))
    (tmp_path / "empty").mkdir()
    assert checkpoint.newest(tmp_path) == ["aa", "cc", "bb"]


def test_a_copy_that_was_set_aside_is_no_runs(tmp_path: Path) -> None:
    for name in ("abc", "abc.bak", "abc copy"):
        checkpoint.save(tmp_path / name / checkpoint.FILE, {})
    assert checkpoint.newest(tmp_path) == ["abc"]


ROW = {"epoch": 1, "loss": 0.5}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ""),
        ({"training": None}, ""),
        ({"history": []}, ""),
        ({"training": 5}, "no state"),
        ({"history": 5}, "no list"),
        ({"history": None}, "no list"),
        ({"history": [5]}, "epoch 1 of its history has other figures"),
        ({"history": [ROW, {"epoch": 2}]}, "epoch 2 of its history has other figures"),
        ({"history": [{**ROW, "more": 1}]}, "other figures"),
        ({"history": [{**ROW, "loss": "0.5"}]}, "no numbers"),
        ({"history": [{**ROW, "loss": torch.ones(2)}]}, "no numbers"),
        ({"history": [{**ROW, "epoch": True}]}, "no numbers"),
        ({"history": [ROW, ROW]}, "epoch 2 of its history is another"),
        ({"history": [{**ROW, "epoch": 1.0}]}, "epoch 1 of its history is another"),
        ({"history": [{**ROW, "epoch": 2}]}, "epoch 1 of its history is another"),
    ],
)
def test_what_another_version_has_written(changed: State, told: str) -> None:
    found = checkpoint.oddity({"training": {}, "history": [ROW], **changed}, {"loss"})
    assert found == told if not told else told in found


def test_one_at_a_time_has_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with checkpoint.claimed("a1"), checkpoint.claimed("b2"), checkpoint.claimed(None):
        with pytest.raises(BadInput, match="another process trains run a1"):
            checkpoint.claimed("a1").__enter__()
        checkpoint.remove(checkpoint.path_of("a1"))
    with checkpoint.claimed("a1"):
        pass


def test_a_finished_run_leaves_nothing(path: Path, tmp_path: Path) -> None:
    other = checkpoint.path_of("other", tmp_path)
    for place in (path, other):
        checkpoint.save(place, state())
    checkpoint.remove(path)
    checkpoint.remove(path)
    assert checkpoint.newest(tmp_path) == ["other"]
    assert not path.parent.exists()


class SignalsWhenSaved(dict):  # type: ignore[type-arg]
    """A state that sends SIGTERM to the process while torch writes it."""

    def __reduce__(self) -> tuple[object, ...]:
        signal.raise_signal(signal.SIGTERM)
        return dict, ()


def test_a_signal_waits_until_the_checkpoint_is_written(tmp_path: Path) -> None:
    def stop(number: int, frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(SystemExit):
            checkpoint.save(tmp_path / "run" / "last.pt", {"first": SignalsWhenSaved(), "epoch": 7})
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["last.pt"]
    with zipfile.ZipFile(tmp_path / "run" / "last.pt") as written:
        assert written.testzip() is None, "the write was cut off"


# Faults at every step of a write


class Faulty:
    """The system's calls that a write makes; the one of number `at` does not return.

    It raises `error`: the disk is full, or the process ends (which no `except Exception` sees).
    """

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.made = at, error, 0

    def call(self, real: Any, *arguments: Any, **named: Any) -> Any:
        self.made += 1
        if self.made == self.at:
            raise self.error
        return real(*arguments, **named)

    def open(self, name: Any, mode: str) -> Any:
        file, write = self.call(open, name, mode), self.call

        class File:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: Any) -> int:
                return int(write(file.write, data))

            def flush(self) -> None:
                write(file.flush)

            def fileno(self) -> int:
                return int(file.fileno())

        return File()


def calls(patch: pytest.MonkeyPatch, at: int, error: BaseException) -> Faulty:
    faulty = Faulty(at, error)
    patch.setattr(checkpoint, "open", faulty.open, raising=False)
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)
        patch.setattr(os, name, lambda *given, real=real: faulty.call(real, *given))
    return faulty


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_whatever_fails_while_it_is_written_the_old_or_the_new_state_is_there(
    path: Path, error: BaseException
) -> None:
    """At every write, flush, fsync, link and rename; then the next write succeeds."""
    checkpoint.save(path, state(0.0))
    with pytest.MonkeyPatch.context() as patch:
        faulty = calls(patch, 0, error)
        checkpoint.save(path, state(1.0))
    assert faulty.made > 20
    old = new = 0
    for at in range(1, faulty.made + 1):
        checkpoint.save(path, state(1.0))
        with pytest.MonkeyPatch.context() as patch:
            calls(patch, at, error)
            with suppress(type(error), RuntimeError):  # torch's writer has an error of its own
                checkpoint.save(path, state(2.0))
        found = checkpoint.load(path)
        assert same(found, state(1.0)) or same(found, state(2.0)), at
        old, new = old + same(found, state(1.0)), new + same(found, state(2.0))
        assert checkpoint.newest(path.parents[1]) == ["0a1b"]
    assert old and new


def test_it_is_on_the_disk_before_it_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, state(1.0))
    seen, fsync, link, replace = list[str](), os.fsync, os.link, os.replace

    def synced(handle: int) -> None:
        seen.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", lambda *two: (seen.append("link"), link(*two)))
    monkeypatch.setattr(os, "replace", lambda *two: (seen.append("replace"), replace(*two)))
    checkpoint.save(path, state(2.0))
    folders = [f"fsync {folder.name}" for folder in path.parents[:2]]
    assert seen == ["fsync last.tmp", "link", "replace", *folders]


@pytest.mark.parametrize("held", [5, torch.zeros(2), [1]])
def test_what_is_no_state_is_refused(path: Path, held: object) -> None:
    path.parent.mkdir(parents=True)
    torch.save(held, path)
    seal(path)
    with pytest.raises(BadInput, match="it holds no state of a training"):
        checkpoint.load(path)


def test_the_one_before_is_read_where_the_last_one_is_damaged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(path, state(1.0))
    checkpoint.save(path, state(2.0))
    path.write_bytes(path.read_bytes()[:-100])
    assert same(checkpoint.load(path), state(1.0))
    assert "the one before it is taken" in caplog.text
    path.with_name(checkpoint.BEFORE).write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint.load(path)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken")])
def test_what_was_read_instead_of_a_damaged_one_is_kept(path: Path, error: OSError) -> None:
    """At whatever the next write fails, the state that it went on from or the new one is there."""
    with pytest.MonkeyPatch.context() as patch:
        faulty = calls(patch, 0, error)
        checkpoint.save(path, state(1.0))
    for at in range(1, faulty.made + 5):  # with one before there are some more
        checkpoint.save(path, state(1.0))
        checkpoint.save(path, state(2.0))
        path.write_bytes(path.read_bytes()[:-100])
        assert same(checkpoint.load(path, mend=True), state(1.0))
        with pytest.MonkeyPatch.context() as patch:
            calls(patch, at, error)
            with suppress(OSError, RuntimeError):
                checkpoint.save(path, state(3.0))
        found = checkpoint.load(path)
        assert same(found, state(1.0)) or same(found, state(3.0)), at


def test_the_time_between_two_is_what_the_issue_allows() -> None:
    assert 0 < checkpoint.SECONDS_BETWEEN <= 10


# Writing beside the training


def back() -> None:
    """Python's own handlers again."""
    signals.listen()  # it forgets what came
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_writer_keeps_what_it_was_given_though_training_goes_on(path: Path) -> None:
    writer, live = checkpoint.Writer(path), state(1.0)
    assert writer.offer(lambda: live)
    live["model"]["weight"].fill_(9.0)  # the next step
    writer.wait()
    assert same(checkpoint.load(path), state(1.0))


def test_a_writer_leaves_time_between_two(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = checkpoint.Writer(path)
    assert writer.offer(lambda: state(1.0))
    writer.wait()
    assert not writer.offer(lambda: state(2.0))
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0)
    assert writer.offer(lambda: state(3.0))
    writer.wait()
    assert same(checkpoint.load(path), state(3.0))
    assert not checkpoint.Writer(None).offer(lambda: state())


def test_a_writer_may_begin_with_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = checkpoint.Writer(path, at_once=False)
    assert not writer.offer(lambda: state(1.0)) and not path.exists()
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0)
    assert writer.offer(lambda: state(1.0))
    writer.wait()


def test_a_writer_that_could_not_write_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next offer, or at the end; the state before is there."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0)
    checkpoint.save(path, state(1.0))
    path.with_suffix(".tmp").mkdir()
    writer = checkpoint.Writer(path)
    writer.offer(lambda: state(2.0))
    with pytest.raises(IsADirectoryError):
        writer.wait()
    writer.wait()  # told once
    assert same(checkpoint.load(path), state(1.0))


@pytest.mark.parametrize("seconds", [0.5, 60.0])
def test_a_signal_finds_the_last_finished_state(path: Path, seconds: float) -> None:
    """Of a short epoch it waits for the end; of a long one a copy is kept."""
    signals.listen()
    live = state(0.0)
    weight = live["model"]["weight"]
    try:
        with pytest.raises(SystemExit), checkpoint.Writer(path, at_once=False) as writer:
            for epoch in (1.0, 2.0, 3.0):
                weight.fill_(epoch - 0.5)  # in the midst of an epoch
                if epoch == 3.0:
                    signal.raise_signal(signal.SIGTERM)
                weight.fill_(epoch)
                assert not writer.offer(lambda: live, seconds)
                writer.rest()
    finally:
        back()
    assert same(checkpoint.load(path), state(3.0 if seconds < 1 else 2.0))


def test_what_is_kept_is_written_on_a_signal_alone(path: Path) -> None:
    with checkpoint.Writer(path, at_once=False) as writer:
        writer.offer(lambda: state(1.0))
    assert not path.exists()
    signals.listen()
    try:
        with pytest.raises(SystemExit), checkpoint.Writer(path, at_once=False) as writer:
            writer.offer(lambda: state(1.0))
            writer.rest()
            signal.raise_signal(signal.SIGINT)
    finally:
        back()
    assert same(checkpoint.load(path), state(1.0))


def test_a_signal_while_the_last_write_is_waited_for_keeps_what_came_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def slow(*given: Any) -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread gets it, which waits
        time.sleep(0.3)
        save(*given)

    signals.listen()
    try:
        with pytest.raises(SystemExit), checkpoint.Writer(path) as writer:
            monkeypatch.setattr(checkpoint, "save", slow)
            writer.offer(lambda: state(1.0))
            monkeypatch.setattr(checkpoint, "save", save)
            writer.keep(lambda: state(2.0))
    finally:
        back()
    assert same(checkpoint.load(path), state(2.0))


def test_a_signal_leaves_with_its_code_though_the_disk_is_full(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    path.with_suffix(".tmp").mkdir()
    with pytest.raises(SystemExit), checkpoint.Writer(path, at_once=False) as writer:
        writer.offer(lambda: state(1.0))
        raise SystemExit(143)
    assert "the last checkpoint could not be written" in caplog.text
