"""What the system refuses, wrapped in whatever: one sentence. All else stays an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from alexnet_mlflow import cli
from alexnet_mlflow.refusals import told


def wrapped(inner: BaseException, linked: bool = True) -> BaseException:
    try:
        try:
            raise inner
        except BaseException as error:
            raise RuntimeError("of a library") from (error if linked else None)
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("number", "part"),
    [(errno.ENOSPC, "full disk"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"),
     (errno.EACCES, "permission denied"), (errno.EPERM, "not permitted")],
)
def test_what_the_system_refuses(number: int, part: str) -> None:
    error = OSError(number, os.strerror(number), "/some/file")
    for one in (error, wrapped(error), wrapped(error, linked=False), wrapped(wrapped(error))):
        sentence = told(one)
        assert sentence and sentence.startswith("/some/file ") and part in sentence
        assert sentence.endswith("give the same command again")
    assert "a file that" in str(told(OSError(number, "x")))


@pytest.mark.parametrize(
    ("words", "part"),
    [("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]", "full disk"),
     ("attempt to write a readonly database", "read-only"),
     ("unable to open database file", "cannot be opened"),
     ("[enforce fail] . PytorchStreamWriter failed writing file", "torch"),
     ("[pair.cc:545] gloo/transport/tcp Connection reset by peer", "another process"),
     ("The run 0a1b must be in the 'active' state. Current state is deleted.", "mlflow runs"),
     ("The experiment 7 must be in the 'active' state. Current state is deleted.",
      "mlflow experiments"),
     ("ERROR: could not extend file \"base/1\": No space left on device", "full disk")],
)
def test_what_only_words_tell(words: str, part: str) -> None:
    sentence = told(wrapped(RuntimeError(words)))
    assert sentence and part in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError("x"), FileNotFoundError(errno.ENOENT, "x"), KeyError("disk")]
)
def test_all_else_stays_an_error(error: Exception) -> None:
    assert told(error) is None and told(wrapped(error)) is None


def test_an_error_that_is_its_own_context_ends() -> None:
    one, other = ValueError("a"), ValueError("b")
    one.__context__, other.__context__ = other, one
    assert told(one) is None


def test_at_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(cli, "_told", full)
    assert cli.main(["data", "check", "digits", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.endswith("give the same command again\n")

    def broken(*_: object, **__: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(cli, "_told", broken)
    with pytest.raises(ValueError, match="ours"):
        cli.main(["data", "check", "digits", f"--out={tmp_path}"])
