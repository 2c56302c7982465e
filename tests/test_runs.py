"""Tracking switched off, and that it is switched on whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_mlflow import track
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.model import build
from alexnet_mlflow.runs import NullTracker

pytestmark = pytest.mark.usefixtures("narrow")


def test_switched_off_it_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load(DataConfig(dataset="faces"))
    with NullTracker().child("x", {}) as run:
        run.params({"a": 1})
        run.metrics({"a": 1.0})
        run.dataset(data, "training")
        assert run.model(build(2, 0), torch.rand(2, 3, 32, 32), ["a", "b"]) is None
        assert run.latest(stage="x") is None and run.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_the_two_trackers_have_the_same_methods() -> None:
    """MlflowTracker leaves none of NullTracker's doing nothing."""
    names = {name for name in vars(NullTracker) if not name.startswith("_")} - {"run_id"}
    assert names <= vars(track.MlflowTracker).keys()
