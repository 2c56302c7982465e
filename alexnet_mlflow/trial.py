"""One trial of a search as it goes: its history, its checkpoint, and whether it is worth going on.

The loop that trains is the caller's; this stands between two of its epochs. What is on a
checkpoint has been logged, so that no metric is lost; what was logged is not logged again.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from alexnet_mlflow import checkpoint
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.progress import Trials
from alexnet_mlflow.prune import hopeless
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.study import Claim, Curve, Study
from alexnet_mlflow.train import EpochResult, better, divergence

SECONDS_BETWEEN_CHECKPOINTS = 20.0  # a state is 0.25 GB: written each epoch it would cost a tenth


class Training:
    """One trial as it goes: its history, its checkpoint, and whether it is worth going on."""

    def __init__(
        self, config: SearchConfig, study: Study, chance: float, claim: Claim, here: Tracker,
        shown: Trials, resumed: bool,
    ) -> None:
        self.config, self.study, self.chance = config, study, chance
        self.claim, self.here, self.shown = claim, here, shown
        self.path = checkpoint.path_of(here.run_id) if here.run_id else None
        saved = checkpoint.load(self.path) if resumed and self.path and self.path.exists() else None
        self.state = saved["training"] if saved else None
        self.history = [
            EpochResult(**row, diverged_at_step=None, state=dict)
            for row in (saved["history"] if saved else [])
        ]
        self.logged = here.steps("train_loss") if resumed else set()
        self.saved_at = time.monotonic()
        self.outcome = "completed"
        self.lost = False  # another worker has the slot

    @property
    def curve(self) -> Curve:
        return [(item.val_accuracy, item.val_loss) for item in self.history if not item.diverged]

    def passed(self, result: EpochResult) -> bool:
        """Log, save and judge an epoch; True where the trial is over."""
        config = self.config
        self.history.append(result.bare())
        if result.epoch not in self.logged:
            self.here.metrics(result.figures, result.epoch)
        self.shown.epoch(self.claim.slot.name, result, config.epochs or 0)
        if result.diverged:
            self.outcome = "diverged"
            return True
        self.lost = not self.claim.report(self.curve)
        if self.lost:
            return True
        assert config.epochs is not None
        if result.epoch < config.epochs and self._hopeless(config.epochs):
            self.outcome = "pruned"
            return True
        self._save(result)
        return False

    def _hopeless(self, epochs: int) -> bool:
        config, slot = self.config, self.claim.slot
        if config.prune == "off" or slot.phase == "repeat":
            return False
        others = [
            one.curve for name, one in self.study.filled().items()
            if name != slot.name and one.outcome != "diverged" and not name.startswith("repeat")
        ]
        return hopeless(config.prune, self.curve, others, epochs, self.chance)

    def _save(self, result: EpochResult) -> None:
        late = time.monotonic() - self.saved_at >= SECONDS_BETWEEN_CHECKPOINTS
        if self.path and late and result.epoch < (self.config.epochs or 0):
            rows = [{"epoch": item.epoch, **item.figures} for item in self.history]
            checkpoint.save(self.path, {"training": result.state(), "history": rows})
            self.saved_at = time.monotonic()

    def found(self) -> dict[str, Any]:
        """The result, as the record keeps it; its main figures stand on the trial's run."""
        best = None
        for item in self.history:
            best = item if better(item, best) else best
        last, point = self.history[-1], self.claim.point
        if self.outcome == "diverged":
            best = None  # it has no accuracy, whatever came before
            self.here.metrics(divergence(last))
        if best:
            self.here.metrics({"best_val_accuracy": best.val_accuracy, "best_epoch": best.epoch})
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
