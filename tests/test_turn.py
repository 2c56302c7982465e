"""One after the other: nobody beside another, the dead are cleared away, the silent given up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from alexnet_mlflow import turn
from alexnet_mlflow.alive import living
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.turn import PREFIX, alone


class Paper:
    """A board in memory."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {"other": "a tag of somebody's"}

    def read(self) -> Mapping[str, str]:
        return dict(self.texts)

    def write(self, key: str, text: str) -> None:
        time.sleep(0.001)  # others get to read in between
        self.texts[key] = text

    def erase(self, key: str) -> None:
        self.texts.pop(key, None)


class Folder:
    """A board of files, for several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def read(self) -> Mapping[str, str]:
        return {file.name: file.read_text() for file in self.folder.glob(f"{PREFIX}*")}

    def write(self, key: str, text: str) -> None:
        (self.folder / f"_{key}").write_text(text)
        (self.folder / f"_{key}").rename(self.folder / key)

    def erase(self, key: str) -> None:
        (self.folder / key).unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(turn, "POLL_SECONDS", 0.002)


def test_nobody_is_in_it_beside_another() -> None:
    board, inside, most = Paper(), [0], [0]
    entered: list[int] = []

    def visit(number: int) -> None:
        for _ in range(5):
            with alone(board, "it"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                entered.append(number)
                inside[0] -= 1

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] and len(entered) == 40
    assert board.texts == {"other": "a tag of somebody's"}, "a ticket is left behind"


def test_an_error_leaves_no_ticket() -> None:
    board = Paper()
    with pytest.raises(KeyError), alone(board, "it"):
        raise KeyError
    assert list(board.texts) == ["other"]


def test_a_killed_process_is_passed_at_once(tmp_path: Path) -> None:
    """kill -9 in the middle of its turn; its ticket stays, but nobody waits for it."""
    root = str(Path(__file__).parents[1])
    script = (
        f"import os, signal, sys; sys.path.insert(0, {root!r})\nfrom pathlib import Path\n"
        "from alexnet_mlflow.turn import alone\nfrom tests.test_turn import Folder\n"
        "with alone(Folder(Path('board')), 'it'):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    board = Folder(tmp_path / "board")
    assert len(board.read()) == 1
    started = time.monotonic()
    with alone(board, "it"):
        assert len(board.read()) == 1, "the dead one's ticket stays"
    assert time.monotonic() - started < 5


def elsewhere(number: int = 0) -> str:
    return json.dumps({"number": number, "host": "elsewhere", "lock": "/x", "folder": "0:0"})


@pytest.mark.parametrize(
    "text",
    [elsewhere(0), elsewhere(7), "nonsense", "[]", "{}", '{"number": 1e999}', "[" * 100_000],
)
def test_one_that_stands_still_elsewhere_is_given_up(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "SILENT_SECONDS", 0.3)
    board = Paper()
    board.texts[f"{PREFIX}a"] = text
    started = time.monotonic()
    with alone(board, "it") as held:
        assert time.monotonic() - started > 0.3
        assert held(board.read()) and f"{PREFIX}a" not in board.texts


def test_a_planted_ticket_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry's tags are anybody's of the team."""
    monkeypatch.setattr(turn, "SILENT_SECONDS", 0.1)
    path, status, board = tmp_path / "precious.db", tmp_path.stat(), Paper()
    path.touch()
    for lock in (str(path), str(tmp_path), None, 5):
        board.texts[f"{PREFIX}a"] = json.dumps({
            "number": 1, "host": socket.gethostname(), "lock": lock,
            "folder": f"{status.st_dev}:{status.st_ino}",
        })
        with alone(board, "it"):
            assert f"{PREFIX}a" not in board.texts
    assert path.exists()


def test_the_living_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever: after ten minutes the command ends with a sentence."""
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 0.3)
    board = Paper()
    with living() as worker:
        board.texts[f"{PREFIX}a"] = json.dumps({"number": 1, **worker})
        with pytest.raises(BadInput, match="others have been changing it .* delete its tag"):
            with alone(board, "it"):
                raise AssertionError("it went past")
    assert list(board.texts) == ["other", f"{PREFIX}a"]


def test_one_that_was_given_up_is_told_so() -> None:
    board = Paper()
    with alone(board, "it") as held:
        [key] = [key for key in board.texts if key.startswith(PREFIX)]
        board.erase(key)
        assert not held(board.read())


def drawn(board: Paper, *known: str) -> str:
    """The key of another ticket, as soon as it has its number."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for key, text in board.read().items():
            if key.startswith(PREFIX) and key not in known and json.loads(text)["number"]:
                return key
        time.sleep(0.01)
    raise AssertionError("nobody has drawn a ticket")


def test_one_that_was_given_up_while_it_waited_draws_another() -> None:
    board, entered = Paper(), threading.Event()

    def visit() -> None:
        with alone(board, "it"):
            entered.set()

    with living() as worker:
        board.texts[f"{PREFIX}a"] = json.dumps({"number": 1, **worker})
        thread = threading.Thread(target=visit)
        thread.start()
        first = drawn(board, f"{PREFIX}a")
        board.erase(first)
        second = drawn(board, f"{PREFIX}a", first)
        assert second != first and not entered.is_set()
        board.erase(f"{PREFIX}a")
        thread.join(10)
    assert entered.is_set()
