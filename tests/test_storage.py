"""Where a search's record lies: addresses, locks of the living, and what a refusal says."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from alexnet_mlflow import alive
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.storage import alone, url_of
from alexnet_mlflow.study import Study


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:geheim@127.0.0.1:1/none", "nonsense", "sqlite:////dev/null/all.db",
        "oracle://me:geheim@127.0.0.1/x", "postgresql://me:geheim@127.0.0.1:abc/x",
        "postgresql://127.0.0.1:1/x?user=me&password=geheim", "sqlite:////dev/shm/no/such/x.db",
        "mysql://me:geheim@127.0.0.1:1/x", "://",
    ],
)
def test_a_storage_that_does_not_answer(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        Study(url, "it", {})
    told = str(caught.value)
    assert "does not answer" in told and "\n" not in told and "geheim" not in told
    assert len(told) < 400
    assert not list(alive.LOCKS.iterdir()), "a lock of nobody stays"


def test_the_storage_s_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of("") == f"sqlite:///{Path.cwd()}/optuna.db"
    monkeypatch.setenv("ALEXNET_STORAGE", "postgresql://x/y")
    assert url_of("") == "postgresql://x/y" and url_of("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_mlflow_s_own_database_is_refused_and_untouched(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(BadInput, match="a database of its own"):
        Study(url_of("sqlite:///mlflow.db"), "it", {})
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_alone_keeps_others_out() -> None:
    inside: list[str] = []

    def other() -> None:
        with alone(url_of(""), None):
            inside.append("other")

    with alone(url_of(""), None):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.3)
        inside.append("first")
    thread.join(10)
    assert inside == ["first", "other"]
