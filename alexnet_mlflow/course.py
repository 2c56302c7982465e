"""One optimizer's way through the protocol: its stages in order, until one says no.

Here, or in a process beside this one, which is the same command with one optimizer and
ALEXNET_COURSE; what came of it is the last line of its standard output. What it says meanwhile is
shown when this process has nothing more of its own to show, so that two courses do not mix.
Left out: what compares the courses, and promotes (pipeline.py).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from alexnet_mlflow import abreast
from alexnet_mlflow.config import (
    BabysitConfig,
    EvaluateConfig,
    FinalConfig,
    OverfitConfig,
    SanityConfig,
    SearchConfig,
)
from alexnet_mlflow.progress import say
from alexnet_mlflow.runner import COURSE
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.stages import StageResult, evaluate, final, overfit, sanity, search

AnyStage = TypeVar("AnyStage")
LOOK_SECONDS = 0.2  # from one look at what the other process says to the next


@dataclass
class Course:
    """One optimizer's way through the protocol."""

    optimizer: str
    force: bool
    results: list[StageResult] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    forced: bool = False  # it went on past a stage that said no
    seconds: float = 0.0

    def goes_on(self, result: StageResult, able: bool = True) -> bool:
        """Say and keep a stage's result; may the next follow? able: it would have what it needs."""
        self.results.append(told(result))
        if result.verdict != "fail":
            return True
        go = self.force and able
        self.forced = self.forced or go
        reason = " ".join(result.sentences)
        note = ", and --force goes on" if go else ""
        self.refusals.append(f"{self.optimizer}: {result.stage} said no{note}: {reason}")
        return go

    @property
    def finals(self) -> list[StageResult]:
        """The final trainings that came to an end and have a model, in the seeds' order."""
        return [one for one in self.results if one.stage == "final" and _has_model(one)]

    @property
    def best(self) -> StageResult:
        """The final that is best on validation, by accuracy and then by loss: it is evaluated."""
        return max(self.finals, key=_on_validation)

    @property
    def test(self) -> StageResult | None:
        """The evaluation; None where the protocol stopped before."""
        return self.results[-1] if self.results[-1].stage == "evaluate" else None

    @property
    def accuracies(self) -> list[float]:
        """Best validation accuracy of each final, as fractions."""
        return [float(one.figures["best_val_accuracy"]) for one in self.finals]


def followed(config: BabysitConfig, seeds: Sequence[int], here: Tracker) -> Course:
    """One optimizer's stages in order, until the last or the first that stops it."""
    course, started = Course(config.optimizer, config.force), time.perf_counter()
    if course.goes_on(sanity.run(_derived(SanityConfig, config), here)) and course.goes_on(
        overfit.run(_derived(OverfitConfig, config, epochs=None), here)
    ):
        found = search.run(_derived(SearchConfig, config, epochs=config.search_epochs), here)
        course.forced = course.forced or _was_forced(found, here)
        rates = {name: found.figures.get(f"best_{name}") for name in ("lr", "weight_decay")}
        if course.goes_on(found, able=None not in rates.values()) and _trained(
            course, _derived(FinalConfig, config, seeds=1, **rates), seeds, here
        ):
            wanted = _derived(EvaluateConfig, config, run=str(course.best.run_id))
            course.goes_on(evaluate.run(wanted, here))
    course.seconds = time.perf_counter() - started
    return course


def _trained(course: Course, config: FinalConfig, seeds: Sequence[int], here: Tracker) -> bool:
    """A final training a seed; is there one to evaluate?"""
    for number, seed in enumerate(seeds, 1):
        if len(seeds) > 1:
            say(f"[final] {course.optimizer}, {number} of {len(seeds)}: seed {seed}")
        result = final.run(dataclasses.replace(config, seed=seed), here)
        able = number < len(seeds) or _has_model(result) or bool(course.finals)
        if not course.goes_on(result, able):
            return False
    if len(seeds) > 1:
        best = f"{course.best.figures['best_val_accuracy']:.2%}"
        say(f"[final] {course.optimizer}: the best on validation, {best}, is evaluated.")
    return True


def _derived(kind: type[AnyStage], config: BabysitConfig, **changes: Any) -> AnyStage:
    """A stage's config with what it shares with the protocol's, and these values changed."""
    names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    shared = {name: value for name, value in vars(config).items() if name in names}
    return kind(**{**shared, **changes})


def told(result: StageResult) -> StageResult:
    """The same result, after saying what it found."""
    for sentence in result.sentences:
        say(f"[{result.stage}] {sentence}")
    return result


def _was_forced(found: StageResult, here: Tracker) -> bool:
    """Did the stage itself go on past a check that failed?"""
    run = here.found(found.run_id) if found.run_id else None
    return run is not None and "forced" in run.tags


def _has_model(one: StageResult) -> bool:
    """It did not diverge."""
    return "best_val_accuracy" in one.figures


def _on_validation(one: StageResult) -> tuple[float, float]:
    return one.figures["best_val_accuracy"], -one.figures["best_val_loss"]


def at_once(config: BabysitConfig, here: Tracker) -> bool:
    """Is there room for two courses side by side: a GPU each, or cores?"""
    alone = config.workers == 1 and config.engine == "local"
    return config.side_by_side and alone and bool(here.run_id) and abreast.places(config.device) > 1


@contextmanager
def meanwhile(config: BabysitConfig, here: Tracker) -> Iterator[Callable[[], Course | None]]:
    """The course of this optimizer in a process beside this one, for as long as the block lasts.

    What is given waits for its end; None, and a word, where the process has come to none.
    """
    changes = {COURSE: str(here.run_id)}
    if config.storage:
        changes["ALEXNET_STORAGE"] = config.storage  # its password is in no command line
    words = abreast.command(config, storage="")
    with abreast.running([words], config.device, changes) as [other]:
        yield lambda: _waited(other, config.optimizer)


def _waited(other: abreast.Other, optimizer: str) -> Course | None:
    """Say what the other process has said and says, until it has ended; what came of it."""
    shown, over = 0, False
    while not over:
        over = other.process.poll() is not None
        text = other.said(shown)
        whole = text if over else text[: text.rfind(b"\n") + 1]
        shown += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            say(line)
        if not over:
            time.sleep(LOOK_SECONDS)
    try:
        return read(json.loads(other.result)["course"])
    except (KeyError, TypeError, ValueError):
        say(f"The process of {optimizer} ended with exit code {other.process.returncode} and no "
            f"result: {optimizer} is trained here.")
        return None


def written(course: Course) -> dict[str, Any]:
    """A course as JSON can have it."""
    return dataclasses.asdict(course)


def read(kept: dict[str, Any]) -> Course:
    """The course of which `written` has made this."""
    results = [
        StageResult(**{**one, "sentences": tuple(one["sentences"])}) for one in kept["results"]
    ]
    return Course(**{**kept, "results": results})
