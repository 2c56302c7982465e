"""One trial of a search as it goes: its history, its checkpoint, and where it stops.

The loop that trains is the caller's; this stands between two of its epochs. What is on a
checkpoint has been logged, so that no metric is lost; what was logged is not logged again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from alexnet_mlflow import checkpoint
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import Trials
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.study import Claim, Curve
from alexnet_mlflow.train import EPOCH_METRICS, EpochResult, State, better, divergence


class Training:
    """One trial as it goes: its history, its checkpoint, and whether it stops here."""

    def __init__(
        self, config: SearchConfig, claim: Claim, here: Tracker, shown: Trials, resumed: bool
    ) -> None:
        self.claim, self.here, self.shown = claim, here, shown
        assert config.epochs is not None
        self.epochs = config.epochs
        self.path = checkpoint.path_of(here.run_id) if here.run_id else None
        saved = None
        if resumed and self.path and self.path.exists():
            saved = checkpoint.load(self.path, mend=True)
            if odd := checkpoint.oddity(saved, EPOCH_METRICS):
                raise BadInput(
                    f"the checkpoint {self.path} was written by another version ({odd}): remove "
                    f"{self.path.parent}, and the search trains this trial anew"
                )
        self.state = saved["training"] if saved else None
        self.history = [
            EpochResult(**row, diverged_at_step=None, state=dict)
            for row in (saved["history"] if saved else [])
        ]
        self.logged = here.steps("train_loss") if resumed else set()
        # Most trials have ended before there is anything worth 0.25 GB.
        self.writer = checkpoint.Writer(self.path, at_once=False)
        self.outcome = self._outcome()
        self.lost = bool(self.history) and not claim.report(self.curve)  # another has the slot

    @property
    def curve(self) -> Curve:
        return [(item.val_accuracy, item.val_loss) for item in self.history if not item.diverged]

    def _outcome(self) -> str:
        """What it is by now; `running` while it has epochs to go."""
        if not self.history or self.history[-1].epoch < self.claim.slot.until:
            return "running"
        return "completed" if self.history[-1].epoch >= self.epochs else "pruned"

    def passed(self, result: EpochResult) -> bool:
        """Log, report and save an epoch; True where the trial stops."""
        self.history.append(result.bare())
        self.lost = not self.claim.report(self.curve)  # before the run, which is another's if so
        if self.lost:
            return True
        if result.epoch not in self.logged:
            self.here.metrics(result.figures, result.epoch)
        self.shown.epoch(self.claim.slot.name, result, self.epochs)
        if result.diverged:
            self.outcome = "diverged"
            return True
        self.outcome = self._outcome()
        if self.outcome != "running":
            self.state = result.state() if self.outcome == "pruned" else None
            self.writer.keep(lambda: self._kept(result.state()))
            return True
        self.writer.offer(lambda: self._kept(result.state()), result.epoch_seconds)
        self.writer.rest()
        return False

    def save(self) -> None:
        """Write the state at which it stopped, for whoever goes on."""
        if self.path:
            self.writer.wait()  # both would write to one temporary name
            checkpoint.save(self.path, self._kept(self.state))

    def _kept(self, state: State | None) -> dict[str, Any]:
        rows = [{"epoch": item.epoch, **item.figures} for item in self.history]
        return {"training": state, "history": rows}

    def found(self) -> dict[str, Any]:
        """The result, as the record keeps it; its main figures stand on the trial's run."""
        best = None
        for item in self.history:
            best = item if better(item, best) else best
        last, point = self.history[-1], self.claim.point
        if self.outcome == "diverged":
            best = None  # it has no accuracy, whatever came before
            self.here.metrics(divergence(last))
        told = self.here.steps("best_epoch")
        if best and last.epoch not in told:  # once a stop
            figures = {"best_val_accuracy": best.val_accuracy, "best_epoch": best.epoch}
            self.here.metrics(figures, last.epoch)
        self.here.tags({"outcome": self.outcome})
        return {
            "point": dataclasses.asdict(point),
            "epochs": last.epoch,
            "diverged_at_step": last.diverged_at_step,
            "best_val_accuracy": best and best.val_accuracy,
            "best_val_loss": best and best.val_loss,
            "best_epoch": best and best.epoch,
            "seconds": round(sum(item.epoch_seconds for item in self.history), 3),
        }
