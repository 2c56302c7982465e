"""A line an epoch where nobody watches, a bar on a terminal, and nothing on standard output."""

from __future__ import annotations

import os
import pty
import sys
import termios
from collections.abc import Iterator

import pytest

from alexnet_mlflow import progress
from alexnet_mlflow.progress import Copying, Trials, say, shown
from alexnet_mlflow.train import EpochResult
from tests.terminal import written


def result(epoch: int, diverged_at_step: int | None = None) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        train_loss=2.0,
        train_accuracy=0.25,
        val_loss=1.5,
        val_accuracy=0.5,
        learning_rate=0.00123,
        epoch_seconds=4.2,
        images_per_second=100.0,
        diverged_at_step=diverged_at_step,
        state=dict,
    )


def test_the_same_results_pass_in_order() -> None:
    results = [result(epoch) for epoch in (1, 2, 3)]
    assert list(shown(results, 3, "final")) == results


def test_a_line_an_epoch_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    list(shown([result(1), result(2, diverged_at_step=77)], 5, "final sgd"))
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    figures = "4.2 s  train 2.0000 25.00%  val 1.5000 50.00%  lr 0.00123"
    assert first == f"final sgd  epoch 1/5  {figures}"
    assert second == "final sgd  epoch 2/5  diverged at step 77  lr 0.00123"


def test_it_takes_an_epoch_only_when_asked() -> None:
    taken = []

    def results() -> Iterator[EpochResult]:
        for epoch in (1, 2, 3):
            taken.append(epoch)
            yield result(epoch)

    watched = shown(results(), 3, "final")
    next(watched)
    assert taken == [1]


def test_say_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_on_a_terminal_a_bar_counts_from_the_resumed_epoch(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        list(shown([result(4), result(5)], 5, "final"))
    text = written(ours)
    assert "5/5" in text
    assert "1/5" not in text
    assert "epoch 5/5" not in text  # no lines besides the bar
    assert capfd.readouterr().out == ""


def test_a_line_a_trial_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with Trials(4) as trials:
        trials.at(0, 0, 0, None)
        trials.epoch("coarse 1", result(1), 5)
        trials.ended("coarse 1", "diverged", result(1, diverged_at_step=7))
        trials.at(1, 0, 1, 0.875)
        trials.ended("coarse 2", "completed", result(5))
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == "" and first.startswith("coarse 1  diverged after epoch 1")
    assert "none has learnt yet" in first
    assert second.startswith("coarse 2  completed after epoch 5")
    assert second.endswith("(best 87.50%, 0 cut, 1 diverged)")


def test_one_bar_of_trials_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Trials(10) as trials:
            trials.at(4, 1, 2, 0.5)  # of an earlier session
            trials.epoch("coarse 5", result(2), 5)
            trials.at(6, 1, 3, 0.625)
            trials._bar.refresh()
    seen = written(ours)
    assert "coarse 5 2/5" in seen and "6/10" in seen and "best 62.50%, 1 cut, 3 diverged" in seen


def test_copying_tells_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Copying(2, "run") as bar:
        bar.one("a")
    assert capsys.readouterr().err == "", "nothing that is over at once is told"
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Copying(2, "run") as bar, Copying(0, "model") as other:
        bar.one("a")
        bar.one("b")
        other.one("c")
    told = "0 of 2 runs; now a\n1 of 2 runs; now b\n0 models; now c\n"
    assert capsys.readouterr() == ("", told)
