"""`doctor` at the command line: lines, the last line of JSON, exit codes, --fix."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import checks
from alexnet_mlflow.cli import main
from alexnet_mlflow.health import Finding, stores
from tests.health.test_orphans import killed


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what the test makes is looked at; the round trip has tests of its own."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALEXNET_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(stores, "round_trip", lambda: Finding("model", "pass", "left out here."))


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], Any]:
    code = main(["doctor", *words])
    *lines, last = capsys.readouterr().out.splitlines()
    return code, lines, json.loads(last)


def test_all_is_well(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, last = doctor(capsys)
    assert code == 0 and last["stage"] == "doctor" and last["verdict"] != "fail"
    names = [found["name"] for found in last["findings"]]
    for name in ("store", "registry", "runs", "disk (store)", "disk (artifacts)",
                 "disk (checkpoints)", "disk (cache)", "leftovers", "cache", "gpu", "engine",
                 "model"):
        assert name in names
    assert len(lines) == len(names) and all(line.startswith(("ok ", "warn ")) for line in lines)
    assert all(line.endswith(".") for line in lines)
    code, lines, again = doctor(capsys, "--json")
    assert lines == []
    one, other = (re.sub(r"[\d.]+ GiB free", "", json.dumps(each)) for each in (last, again))
    assert one == other  # others use the disk too


def test_orphans_are_named_then_closed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed()
    code, lines, last = doctor(capsys)
    assert code == 1 and last["verdict"] == "fail" and last["closed"] == []
    assert sum(line.startswith("fail  runs: ") and "--fix" in line for line in lines) == 2
    assert {one.info.status for one in MlflowClient().search_runs(["0"])} == {"RUNNING"}
    code, lines, last = doctor(capsys, "--fix")
    assert code == 0 and len(last["closed"]) == 2
    assert {one.info.status for one in MlflowClient().search_runs(["0"])} == {"FAILED"}
    code, lines, last = doctor(capsys, "--fix")
    assert code == 0 and last["closed"] == last["left_open"] == []


def test_a_store_that_somebody_locks_is_told(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed()
    with closing(sqlite3.connect(store / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert main(["doctor", "--fix"]) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("Error: somebody else has locked")
        assert told.err.count("\n") == 1
    assert main(["doctor", "--fix"]) == 0


def test_a_store_that_says_no_is_exit_code_1(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "mlflow.db").write_bytes(b"nothing of the kind" * 100)
    code, lines, last = doctor(capsys)
    assert code == 1 and lines[0].startswith("fail  store: ")
    assert "registry" not in [found["name"] for found in last["findings"]]


@pytest.mark.parametrize("hours", ["-1", "nan", "inf", "soon"])
def test_a_wrong_option_is_exit_code_2(
    store: Path, capsys: pytest.CaptureFixture[str], hours: str
) -> None:
    assert main(["doctor", f"--older-than={hours}"]) == 2
    assert "--older-than" in capsys.readouterr().err


def test_its_words_are_the_verdicts() -> None:
    assert [Finding("x", one, "y.").line for one in ("pass", "warn", "fail")] == [
        "ok    x: y.", "warn  x: y.", "fail  x: y."
    ]
    assert set(checks.Verdict.__args__) == {"pass", "warn", "fail"}
