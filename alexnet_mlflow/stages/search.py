"""Coarse random search, narrowed with its reason, then fine search: every trial a nested run.

All trials begin with the same weights and see the same batches: they differ by their two rates
alone. A trial that diverges ends at once and cannot win. Best is best on validation, by accuracy
and then by loss, of any epoch of any trial.
"""

from __future__ import annotations

import copy
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alexnet_mlflow import plots
from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.config import SearchConfig, resolve
from alexnet_mlflow.data import Splits, load
from alexnet_mlflow.model import AlexNet, build
from alexnet_mlflow.progress import say, shown
from alexnet_mlflow.space import Outcome, Point, Range, Space, draws, narrow
from alexnet_mlflow.stages import (
    StageResult,
    beside,
    better,
    close,
    divergence,
    opened,
    tags_of,
    train_config,
)
from alexnet_mlflow.track import Tracker, logged
from alexnet_mlflow.train import EpochResult, fit, pick_device

COLUMNS = (
    "phase", "number", "lr", "weight_decay", "outcome", "epochs", "diverged_at_step",
    "best_val_accuracy", "best_val_loss", "best_epoch", "seconds", "run_id",
)


@dataclass(frozen=True)
class Trial:
    """What came of one point."""

    phase: str
    number: int
    point: Point
    last: EpochResult
    best: EpochResult | None  # None where it diverged: it has no accuracy, whatever came before
    seconds: float
    run_id: str | None

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.point, self.best.val_accuracy if self.best else None)

    @property
    def row(self) -> dict[str, object]:
        best = self.best
        values = (
            self.phase, self.number, self.point.lr, self.point.weight_decay,
            "completed" if best else "diverged", self.last.epoch, self.last.diverged_at_step,
            best and best.val_accuracy, best and best.val_loss, best and best.epoch,
            round(self.seconds, 3), self.run_id,
        )
        return dict(zip(COLUMNS, values, strict=True))


def run(config: SearchConfig, tracker: Tracker) -> StageResult:
    """Search; the verdict is `fail` where no trial does better than chance."""
    config, device = resolve(config), pick_device(config.device)
    data = load(config)
    space = Space(
        Range(config.lr_low, config.lr_high),
        Range(config.weight_decay_low, config.weight_decay_high),
    )
    chance = max(data.counts["val"].values()) / len(data.val)
    with opened(config, tracker, data) as here:
        here.metrics(beside(data, data.val)[0])
        start = build(len(data.classes), config.seed)

        def tried(phase: str, points: Sequence[Point]) -> list[Trial]:
            return [
                _trial(config, here, data, start, device, phase, number, len(points), point)
                for number, point in enumerate(points, 1)
            ]

        coarse = tried("coarse", draws(space, config.trials, config.seed))
        narrowed = narrow(space, [trial.outcome for trial in coarse], chance)
        fine: list[Trial] = []
        if narrowed is not None:
            say(narrowed.reason)
            here.text(narrowed.reason + "\n", "narrowing.txt")
            fine = tried("fine", draws(narrowed.space, config.fine_trials, config.seed + 1))
        spaces = [space] if narrowed is None else [space, narrowed.space]
        _show(here, data, config, coarse, fine, spaces)
        reason = narrowed.reason if narrowed else f"No trial did better than chance ({chance:.1%})."
        return _closed(here, [*coarse, *fine], narrowed is not None, reason)


def _trial(
    config: SearchConfig,
    parent: Tracker,
    data: Splits,
    start: AlexNet,
    device: torch.device,
    phase: str,
    number: int,
    count: int,
    point: Point,
) -> Trial:
    """Train a copy of `start` at one point, as a nested run."""
    assert config.epochs is not None
    settings = train_config(config, lr=point.lr, weight_decay=point.weight_decay)
    tags = {**tags_of(config, data), "stage": "trial", "phase": phase}
    with parent.child(f"{phase} {number}/{count} lr {point.lr:.3g}", tags) as here:
        here.params(vars(settings))
        best, seconds = None, 0.0
        results = fit(copy.deepcopy(start), data, settings, device)
        for result in logged(here, shown(results, config.epochs, f"{phase} {number}/{count}")):
            last = result.bare()
            best = last if better(last, best) else best
            seconds += last.epoch_seconds
        if last.diverged:
            best = None
            here.metrics(divergence(last))
        if best:
            here.metrics({"best_val_accuracy": best.val_accuracy, "best_epoch": best.epoch})
        here.tags({"outcome": "completed" if best else "diverged"})
        return Trial(phase, number, point, last, best, seconds, here.run_id)


def winner_of(trials: Sequence[Trial]) -> Trial | None:
    """The best trial on validation; None where all diverged."""
    winner = None
    for trial in trials:
        if trial.best and better(trial.best, winner.best if winner else None):
            winner = trial
    return winner


def _show(
    here: Tracker,
    data: Splits,
    config: SearchConfig,
    coarse: list[Trial],
    fine: list[Trial],
    spaces: list[Space],
) -> None:
    """trials.csv and the plot of both rates."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(trial.row for trial in (*coarse, *fine))
    here.text(table.getvalue(), "trials.csv")
    outcomes = [trial.outcome for trial in coarse], [trial.outcome for trial in fine]
    title = f"search, {data.title}, {config.optimizer}, {config.epochs} epochs a trial"
    here.figure(plots.search(*outcomes, spaces, title), "plots/search.png")


def _closed(here: Tracker, trials: list[Trial], learnt: bool, reason: str) -> StageResult:
    """Log what was found and close the run."""
    winner = winner_of(trials)
    figures: dict[str, object] = {
        "trials": len(trials),
        "diverged": sum(trial.best is None for trial in trials),
        "epochs_spent": sum(trial.last.epoch for trial in trials),
    }
    here.metrics({name: float(str(value)) for name, value in figures.items()})
    if winner and winner.best and learnt:
        found = {"best_lr": winner.point.lr, "best_weight_decay": winner.point.weight_decay}
        here.params(found)
        best = {"best_val_accuracy": winner.best.val_accuracy, "best_epoch": winner.best.epoch}
        here.metrics(best)
        here.tags({"best_trial": winner.run_id})
        figures |= {**best, **found}
        sentences: tuple[str, ...] = (
            f"Best: {winner.best.val_accuracy:.2%} on validation at lr {winner.point.lr:.4g}, "
            f"weight decay {winner.point.weight_decay:.3g} ({winner.phase} trial "
            f"{winner.number}, epoch {winner.best.epoch}).",
        )
    else:
        sentences = (reason, "Give more --trials, another range, or look at the data.")
    verdict: Verdict = "pass" if learnt else "fail"
    close(here, verdict)
    assert all(math.isfinite(value) for value in figures.values() if isinstance(value, float))
    return StageResult("search", here.run_id, verdict, sentences, figures)
