"""What a search has found: its table, figures, checks and sentences, from the finished trials.

Pure of the search itself: it reads what the record holds and writes it to the search's run.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_mlflow import checks, plots
from alexnet_mlflow.checks import Check
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.space import Narrowed, Outcome
from alexnet_mlflow.study import Filled, Slot, importances

COLUMNS = (
    "phase", "number", "lr", "weight_decay", "outcome", "epochs", "diverged_at_step",
    "best_val_accuracy", "best_val_loss", "best_epoch", "seconds", "run_id",
)


@dataclass(frozen=True)
class Trial:
    """A slot of the search and what came of it."""

    slot: Slot
    filled: Filled

    @property
    def accuracy(self) -> float | None:
        """The best on validation, a fraction; None where it diverged."""
        return self.filled.result["best_val_accuracy"]  # type: ignore[no-any-return]

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.filled.point, self.accuracy, self.filled.outcome == "pruned")

    @property
    def row(self) -> dict[str, object]:
        """The trial as a line of trials.csv."""
        result, point = self.filled.result, self.filled.point
        own: dict[str, object] = {
            "phase": self.slot.phase, "number": self.slot.number, "lr": point.lr,
            "weight_decay": point.weight_decay, "outcome": self.filled.outcome,
            "run_id": self.filled.run_id,
        }
        return {name: own[name] if name in own else result[name] for name in COLUMNS}


@dataclass(frozen=True)
class Findings:
    """A finished search."""

    trials: Sequence[Trial]
    winner: Trial | None  # None where no trial did better than chance
    narrowed: Narrowed | None
    chance: float
    before: Sequence[Check]  # of the gate

    def of(self, *phases: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.slot.phase in phases]

    def count(self, outcome: str) -> int:
        return sum(trial.filled.outcome == outcome for trial in self.trials)

    @property
    def reason(self) -> str:
        """Why the fine range is what it is."""
        if self.narrowed:
            return self.narrowed.reason
        return f"No trial did better than chance ({self.chance:.1%})."


def judged(found: Findings) -> list[Check]:
    """The checks of the gate and those of the search."""
    tried = found.of("coarse", "fine")
    made = [*found.before]
    diverged = sum(trial.accuracy is None for trial in tried)
    made.append(checks.diverged_share(diverged, len(tried)))
    if found.winner is None or found.winner.accuracy is None:
        return made
    spaces = [trial.slot.space for trial in tried]
    for name in ("lr", "weight_decay"):
        low = min(getattr(space, name).low for space in spaces)
        high = max(getattr(space, name).high for space in spaces)
        best = getattr(found.winner.filled.point, name)
        made.append(checks.optimum_inside(best, low, high, name))
    others = [trial for trial in tried if trial is not found.winner]
    repeats = [trial.accuracy or 0.0 for trial in found.of("repeat")]  # diverged: noise too
    if repeats:
        made.append(checks.lead_above_noise(found.winner.accuracy, best_of(others), repeats))
    return made


def best_of(trials: Sequence[Trial]) -> float | None:
    """The highest accuracy on validation; None where all diverged."""
    return max((trial.accuracy for trial in trials if trial.accuracy is not None), default=None)


def told(
    found: Findings, made: Sequence[Check], here: Tracker, title: str
) -> dict[str, Any]:
    """Log the search: table, figures, checks, parameters and metrics. Returns the main figures."""
    here.text(table(found), "trials.csv")
    here.text("\n".join(sentences(found, made)) + "\n", "findings.txt")
    here.json([dataclasses.asdict(check) for check in made], "checks.json")
    _show(found, here, title)
    figures: dict[str, Any] = {
        "trials": len(found.trials),
        "diverged": found.count("diverged"),
        "pruned": found.count("pruned"),
        "epochs_spent": sum(trial.filled.result["epochs"] for trial in found.trials),
        "training_seconds": sum(trial.filled.result["seconds"] for trial in found.trials),
    }
    measured = {f"check_{check.name}": check.measured for check in made}
    here.metrics({name: value for name, value in measured.items() if value is not None})
    if found.winner:
        point, result = found.winner.filled.point, found.winner.filled.result
        rates = {"best_lr": point.lr, "best_weight_decay": point.weight_decay}
        here.params(rates)
        here.tags({"best_trial": found.winner.filled.run_id})
        figures |= {name: result[name] for name in ("best_val_accuracy", "best_epoch")}
    here.metrics({name: float(value) for name, value in figures.items()})
    if found.winner:
        figures |= rates
    assert all(math.isfinite(value) for value in figures.values())
    return figures


def table(found: Findings) -> str:
    """trials.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(trial.row for trial in found.trials)
    return text.getvalue()


def _show(found: Findings, here: Tracker, title: str) -> None:
    coarse, fine = ([trial.outcome for trial in found.of(phase)] for phase in ("coarse", "fine"))
    spaces = [found.of("coarse")[0].slot.space]
    if found.narrowed:
        here.text(found.reason + "\n", "narrowing.txt")
        here.figure(
            plots.narrowing(spaces[0], found.narrowed, coarse, title), "plots/narrowing.png"
        )
        spaces.append(found.narrowed.space)
    here.figure(plots.search(coarse, fine, spaces, title), "plots/search.png")
    curves = [
        (trial.filled.outcome, [accuracy for accuracy, _ in trial.filled.curve])
        for trial in found.of("coarse", "fine")
    ]
    here.figure(plots.trial_curves(curves, title), "plots/trials.png")
    if shares := importances([*coarse, *fine], found.chance):
        here.figure(plots.importances(shares, title), "plots/importances.png")
        here.metrics({f"importance_{name}": share for name, share in shares.items()})


def sentences(found: Findings, made: Sequence[Check]) -> tuple[str, ...]:
    """What was found, for people."""
    tried = found.of("coarse", "fine")
    told = [
        f"{len(tried)} trials: {found.count('diverged')} diverged, {found.count('pruned')} were "
        f"cut, {sum(trial.filled.result['epochs'] for trial in found.trials)} epochs in all.",
        found.reason,
    ]
    if winner := found.winner:
        point, result = winner.filled.point, winner.filled.result
        told.append(
            f"Best: {result['best_val_accuracy']:.2%} on validation at lr {point.lr:.4g}, "
            f"weight decay {point.weight_decay:.3g} ({winner.slot.phase} trial "
            f"{winner.slot.number}, epoch {result['best_epoch']})."
        )
    else:
        told.append("Give more --trials, another range, or look at the data.")
    return (*told, *(check.sentence for check in made if check.verdict != "pass"))
