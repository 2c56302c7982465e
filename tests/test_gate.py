"""What stands before a search: the recorded checks, the quick ones, the forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_mlflow import gate, probes
from alexnet_mlflow.checks import Check
from alexnet_mlflow.config import SearchConfig, resolve
from alexnet_mlflow.data import Splits, load
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.track import connect

CPU = torch.device("cpu")
BAD = Check("bad", "fail", 0.0, 1.0, 0.0, "That is bad.")


@pytest.fixture
def data(pictures: Path) -> Splits:
    return load(SearchConfig(dataset=str(pictures)))


def config(pictures: Path, **changes: bool) -> SearchConfig:
    return resolve(SearchConfig(dataset=str(pictures), batch_size=8, epochs=2, **changes))


def record(tracker: Tracker, data: Splits, stage: str, **changes: str) -> None:
    tags = {
        "stage": stage, "verdict": "pass", "dataset": data.name, "optimizer": "sgd",
        "recipe": "report", "data_digest": data.digest, **changes,
    }
    with tracker.child(stage, tags):
        pass


@pytest.mark.parametrize(
    "changes",
    [None, {"optimizer": "adam"}, {"data_digest": "0"}, {"recipe": "other"}, {"verdict": "fail"}],
)
def test_only_checks_of_the_same_thing_count(
    changes: dict[str, str] | None, store: Path, pictures: Path, data: Splits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "quick", lambda *_: [BAD])
    tracker = connect()
    record(tracker, data, "sanity")
    record(tracker, data, "overfit", **(changes or {}))
    with tracker.child("search", {}) as here:
        found = gate.passed(config(pictures), data, CPU, here)
        run = tracker.found(str(here.run_id))
    assert run is not None
    assert found == ([] if changes is None else [BAD])
    assert run.tags["gate"] == ("recorded" if changes is None else "quick")


@pytest.mark.parametrize("force", [False, True])
def test_force_is_tagged(
    force: bool, store: Path, pictures: Path, data: Splits, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probes, "quick", lambda *_: [BAD])
    tracker = connect()
    with tracker.child("search", {}) as here:
        gate.passed(config(pictures, force=force), data, CPU, here)
        run = tracker.found(str(here.run_id))
    assert run is not None and run.tags.get("forced") == ("true" if force else None)
    assert "That is bad." in capsys.readouterr().err or not force


def test_the_forecast_grows_with_the_search(
    store: Path, pictures: Path, data: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "step_seconds", lambda *_: 2.0)
    with connect().child("search", {}) as here:
        told = gate.forecast(config(pictures), data, CPU, here)
    steps = len(data.train) / 8 + len(data.val) / 24
    assert "32 trials of up to 2 epochs" in told and "--limit" in told
    epochs = 20 + 6 + 10 + 3 + 2 * 2  # after one epoch a third goes on; two repeats of the best
    assert f"{epochs} in all" in told and gate.shortly(epochs * steps * 2.0) in told


def test_a_step_takes_time(pictures: Path, data: Splits) -> None:
    assert 1e-4 < gate.step_seconds(config(pictures), data, CPU) < 30


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.04, "2.0 s"), (45.4, "45 s"), (300, "5 min"), (7200, "2.0 h")]
)
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert gate.shortly(seconds) == text
