"""One run as the stages see it, and what is read back of one; nothing here is kept.

`NullTracker` does nothing, so that no caller asks whether tracking is on; track.py has the one
that writes to MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_mlflow.data import Described

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

SYNCED_FROM = "synced_from"  # tag of a copy that `sync` made: the original's id
PROCESS = "process"  # tag of every run: the process that has it open (alive.py)


@dataclass(frozen=True)
class FoundRun:
    """A run as it is read back."""

    run_id: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


@dataclass(frozen=True)
class LoggedModel:
    """A model that was logged: `uri` loads it, `model_id` links metrics to it."""

    uri: str
    model_id: str


class NullTracker:
    """One run as the stages see it, with tracking switched off: nothing is written or found.

    MlflowTracker does the same things for real, and is one of these.
    """

    run_id: str | None = None
    stores = False  # is anything kept?

    @contextmanager
    def child(
        self, name: str, tags: Mapping[str, object], run_id: str | None = None
    ) -> Iterator[Tracker]:
        """A run below this one; `run_id` reopens one that was interrupted."""
        yield self

    def below(self, run_id: str) -> Tracker:
        """A run that another process has open: children can be made below it."""
        return self

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; what the runner has logged already is left alone."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags."""

    def mark(self, run_id: str, values: Mapping[str, object]) -> None:
        """Set tags on another run."""

    def metrics(
        self, values: Mapping[str, float], step: int = 0,
        model: LoggedModel | None = None, data: tuple[str, str] | None = None,
    ) -> None:
        """One call. `model` and `data` (name, digest) link the figures to what they describe."""

    def figure(self, figure: Figure, path: str) -> None:
        """Keep a matplotlib figure as an artifact."""

    def json(self, value: object, path: str) -> None:
        """Keep a value as JSON; ValueError for nan or inf."""

    def text(self, value: str, path: str) -> None:
        """Keep a text file."""

    def file(self, file: Path, folder: str = "") -> None:
        """Keep a copy of a file."""

    def dataset(self, data: Described, context: str) -> None:
        """Log the data set as an input of the run; context: training, testing."""

    def model(
        self, model: nn.Module, example: Tensor, classes: Sequence[str]
    ) -> LoggedModel | None:
        """Log a module that lies on the CPU, in evaluation mode, as torch.export's pt2 (no pickle).

        example: (N >= 2, 3, 32, 32) float32, 0..1; with one picture the batch would be fixed at 1.
        classes: the names of what it answers, in order; the served model answers under them.
        """
        return None

    def leave(self) -> None:
        """Another process goes on with this run: it will not end here."""

    def fail(self) -> None:
        """The run will end as FAILED, though nothing was raised: a gate said no."""

    def steps(self, metric: str) -> set[int]:
        """The steps at which this run has the metric already."""
        return set()

    def latest(self, **tags: str) -> FoundRun | None:
        """The newest FINISHED run of this experiment with all these tags."""
        return None

    def fetched(self, run_id: str, path: str, folder: Path) -> Path | None:
        """An artifact of a run, copied into the folder; None where there is none."""
        return None

    def found(self, run_id: str) -> FoundRun | None:
        """A run by its id, or the copy that `sync` made of it; None where there is none."""
        return None

    def newest(self, **tags: str) -> FoundRun | None:
        """The newest run of this experiment with all these tags, whatever became of it."""
        return None

    def count(self, **tags: str) -> int:
        """How many runs of this experiment have all these tags, deleted ones among them."""
        return 0

    def child_with(self, **tags: str) -> FoundRun | None:
        """The oldest child of this run with all these tags, whatever became of it."""
        return None


Tracker = NullTracker


def text_of(value: object) -> str:
    """A parameter's value as it is logged."""
    return repr(value) if isinstance(value, float) else str(value)


def same_value(logged: str, text: str) -> bool:
    """The same text, or the same number written otherwise (1e-3 and 0.001)."""
    try:
        return float(logged) == float(text)
    except ValueError:
        return logged.lower() == text.lower()
