"""A search's table, checks and sentences from what the record holds."""

from __future__ import annotations

import csv
import io

from alexnet_mlflow import findings
from alexnet_mlflow.findings import Findings, Trial
from alexnet_mlflow.space import Point, Range, Space, narrow
from alexnet_mlflow.study import Filled, Slot

SPACE = Space(Range(1e-5, 1e5), Range(1e-6, 1e-3))


def trial(
    number: int, lr: float, accuracy: float | None, outcome: str = "completed",
    phase: str = "coarse",
) -> Trial:
    point = Point(lr, 1e-4)
    best = {name: value if accuracy is not None else None for name, value in (
        ("best_val_accuracy", accuracy), ("best_val_loss", 0.5), ("best_epoch", 2))}
    result = {"epochs": 3, "diverged_at_step": None if best["best_epoch"] else 7,
              "seconds": 1.5, **best}
    curve = [] if accuracy is None else [(accuracy, 0.5)] * 3
    return Trial(
        Slot(phase, number, SPACE, point, 0), Filled(point, outcome, curve, result, f"run{number}")
    )


def found(trials: list[Trial], winner: Trial | None) -> Findings:
    coarse = [one.outcome for one in trials if one.slot.phase == "coarse"]
    return Findings(trials, winner, narrow(SPACE, coarse, 0.5), 0.5, [])


TRIALS = [
    trial(1, 1e-3, 0.9), trial(2, 1e4, None, "diverged"), trial(3, 1e-4, 0.6, "pruned"),
    trial(1, 2e-3, 0.8, phase="fine"), trial(1, 1e-3, 0.7, phase="repeat"),
    trial(2, 1e-3, 0.95, phase="repeat"),
]


def test_every_trial_is_a_row() -> None:
    rows = list(csv.DictReader(io.StringIO(findings.table(found(TRIALS, TRIALS[0])))))
    assert [row["phase"] for row in rows] == ["coarse"] * 3 + ["fine"] + ["repeat"] * 2
    assert rows[1]["best_val_accuracy"] == "" and rows[1]["diverged_at_step"] == "7"
    assert rows[2]["outcome"] == "pruned" and float(rows[2]["best_val_accuracy"]) == 0.6
    assert [float(row["lr"]) for row in rows] == [one.filled.point.lr for one in TRIALS]


def test_the_checks_of_a_search() -> None:
    made = {check.name: check for check in findings.judged(found(TRIALS, TRIALS[0]))}
    assert made["lead_above_noise"].verdict == "warn", "other seeds change it by more"
    shares = next(check for name, check in made.items() if "diverged" in name)
    assert shares.measured == 0.25, "repeats are no trials of the search"
    assert sum("edge" in name or "optimum" in name for name in made) >= 1


def test_a_search_without_winner() -> None:
    lost = [trial(1, 1e4, None, "diverged"), trial(2, 1e-5, 0.5)]
    nothing = found(lost, None)
    told = findings.sentences(nothing, findings.judged(nothing))
    assert "No trial did better than chance (50.0%)." in told
    assert any("--trials" in sentence for sentence in told)


def test_the_sentences_name_the_best() -> None:
    both = found(TRIALS, TRIALS[0])
    told = " ".join(findings.sentences(both, findings.judged(both)))
    assert "90.00% on validation at lr 0.001" in told and "coarse trial 1" in told
    assert "1 diverged, 1 were cut" in told
