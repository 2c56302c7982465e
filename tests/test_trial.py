"""A trial between two epochs: what is logged once, cut, saved, or left to another worker."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint, signals
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import Trials
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.space import Range, Space, draws
from alexnet_mlflow.storage import url_of
from alexnet_mlflow.study import Claim, Slot, Study
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult
from alexnet_mlflow.trial import Training

SPACE = Space(Range(1e-5, 1e-1), Range(1e-6, 1e-3))
SLOT = Slot("coarse", 1, SPACE, draws(SPACE, 1, 0)[0], 0, until=3)
CONFIG = SearchConfig(epochs=3, prune="off")


def epoch(number: int, accuracy: float = 0.5, diverged: int | None = None) -> EpochResult:
    return EpochResult(
        number, 0.7, 0.5, 0.6, accuracy, 0.01, 1.0, 100.0, diverged,
        lambda: {"epoch": number, "step": number},
    )


def training(claim: Claim, here: Tracker, resumed: bool = False) -> Training:
    return Training(CONFIG, claim, here, Trials(1), resumed)


def test_a_trial_goes_on_from_its_checkpoint_and_logs_each_epoch_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0)
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([SLOT])
        assert claim
        with connect().child("trial", {}) as here:
            first = training(claim, here)
            assert first.state is None
            for result in (epoch(1), epoch(2, 0.8)):
                assert not first.passed(result)
                first.writer.wait()
            here.metrics(epoch(3).figures, 3)  # logged, and killed before the checkpoint
            second = training(claim, here, resumed=True)
            assert second.state == {"epoch": 2, "step": 2} and len(second.history) == 2
            assert second.passed(epoch(3, 0.6)) and second.outcome == "completed"
            found = second.found()
        assert found["best_epoch"] == 2 and found["epochs"] == 3 and found["seconds"] == 3.0
        history = MlflowClient().get_metric_history(str(here.run_id), "train_loss")
        assert [point.step for point in history] == [1, 2, 3]
        assert study.filled()["coarse 1"].curve == [(0.5, 0.6), (0.8, 0.6), (0.6, 0.6)]


@pytest.mark.parametrize(
    "saved",
    [{}, {"training": None}, {"training": 5, "history": []}, {"training": None, "history": 5},
     {"training": None, "history": [{"epoch": 1}]}],
)
def test_a_checkpoint_of_another_version_is_refused(store: Path, saved: dict[str, Any]) -> None:
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([SLOT])
        assert claim
        with connect().child("trial", {}) as here:
            path = checkpoint.path_of(str(here.run_id))
            checkpoint.save(path, saved)
            with pytest.raises(BadInput, match="another version .*: remove checkpoints/"):
                training(claim, here, resumed=True)
            checkpoint.remove(path)
            assert training(claim, here, resumed=True).history == []


def test_a_trial_waits_at_its_rung_and_goes_on_from_there(store: Path) -> None:
    until = dataclasses.replace
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([until(SLOT, until=1)])
        assert claim
        with connect().child("trial", {}) as here:
            claim.started(here.run_id)
            first = training(claim, here)
            assert first.passed(epoch(1, 0.8)) and first.outcome == "pruned"
            first.save()
            killed = training(claim, here, resumed=True)  # between the state and the record
            assert killed.outcome == "pruned" and killed.found() == first.found()
            assert claim.finish(killed.outcome, 0.8, killed.found())
        again = study.claim([until(SLOT, until=3)])
        assert again and again.run_id == here.run_id
        assert study.filled()["coarse 1"].curve == [(0.8, 0.6)], "what it did is not forgotten"
        with connect().child("trial", {}, again.run_id) as here:
            second = training(again, here, resumed=True)
            assert second.state == {"epoch": 1, "step": 1} and second.outcome == "running"
            assert not second.passed(epoch(2)) and second.passed(epoch(3))
            assert second.outcome == "completed"
            found = second.found()
        assert found["best_epoch"] == 1 and found["epochs"] == 3
        told = MlflowClient().get_metric_history(str(here.run_id), "best_val_accuracy")
        assert [(point.step, point.value) for point in told] == [(1, 0.8), (3, 0.8)]


def test_at_a_rung_the_write_before_ends_first(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have one temporary name."""
    save, done = checkpoint.save, []

    def slow(path: Path, kept: dict[str, Any]) -> None:
        epochs = kept["training"]["epoch"]
        time.sleep(0.3 if epochs == 1 else 0.0)
        save(path, kept)
        done.append(epochs)

    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(checkpoint, "save", slow)
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([dataclasses.replace(SLOT, until=2)])
        assert claim
        with connect().child("trial", {}) as here:
            one = training(claim, here)
            with one.writer:
                assert not one.passed(epoch(1))
                assert one.passed(epoch(2)) and one.outcome == "pruned"
                one.save()
            assert done == [1, 2]


def test_a_signal_leaves_a_trials_last_epoch(store: Path) -> None:
    """It comes in the second one, which is short: that is logged and kept first."""
    before = [(number, signal.getsignal(number)) for number in signals.NUMBERS]
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([SLOT])
        assert claim
        with connect().child("trial", {}) as here:
            one = training(claim, here)
            signals.listen()
            try:
                with pytest.raises(SystemExit), one.writer:
                    assert not one.passed(epoch(1))
                    signal.raise_signal(signal.SIGTERM)
                    one.passed(epoch(2))
            finally:
                signals.listen()
                for number, handler in before:
                    signal.signal(number, handler)
            assert one.path and checkpoint.load(one.path)["training"]["epoch"] == 2
            assert here.steps("train_loss") == {1, 2}
            assert training(claim, here, resumed=True).state == {"epoch": 2, "step": 2}


def test_a_diverged_trial_has_no_accuracy(store: Path) -> None:
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([SLOT])
        assert claim
        with connect().child("trial", {}) as here:
            one = training(claim, here)
            assert not one.passed(epoch(1, 0.9))
            assert one.passed(epoch(2, 0.1, diverged=7)) and one.outcome == "diverged"
            found = one.found()
        assert found["best_val_accuracy"] is None and found["diverged_at_step"] == 7
        run = MlflowClient().get_run(str(here.run_id))
        assert run.data.tags["outcome"] == "diverged"
        assert "best_val_accuracy" not in run.data.metrics


@pytest.mark.parametrize("diverged", [None, 7])
def test_a_trial_that_was_taken_over_stops_and_logs_nothing(
    diverged: int | None, store: Path
) -> None:
    with Study(url_of(""), "it", {}) as study:
        claim = study.claim([SLOT])
        assert claim
        with connect().child("trial", {}) as here:
            one = training(claim, here)
            claim.abandon()  # as another worker would, after a minute's silence
            assert one.passed(epoch(1, diverged=diverged)) and one.lost
            assert here.run_id and not checkpoint.path_of(here.run_id).exists()
        run = MlflowClient().get_run(str(here.run_id))
        assert run.data.metrics == {}, "the run is another worker's by now"
