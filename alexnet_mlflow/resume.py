"""What an interrupted final training is gone on with: its progress, in a checkpoint, and which one.

The first one, of a training that has not begun, is there before its first step; the others are
written before their epoch is logged: what was not logged is logged on resuming.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from alexnet_mlflow import alive, checkpoint, distributed
from alexnet_mlflow.config import NOT_PARAMETERS, FinalConfig, parameters
from alexnet_mlflow.data import Splits
from alexnet_mlflow.options import BadInput, option_name, shortened
from alexnet_mlflow.runs import PROCESS, FoundRun, Tracker
from alexnet_mlflow.train import EPOCH_METRICS, EpochResult, State, better, kept_weights

WHOLE = {"training", "history", "best_epoch", "best_weights", "config", "data_digest"}
TRAINING = {"epoch", "step", "model", "optimizer", "generator", "random"}
KINDS: dict[str, set[type]] = {  # of FinalConfig's fields; a bool is an int to isinstance
    "str": {str}, "int": {int}, "float": {int, float}, "bool": {bool},
    "int | None": {int, type(None)}, "float | None": {int, float, type(None)},
}

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """What a final training has so far: all of it goes into the checkpoint."""

    history: list[EpochResult] = field(default_factory=list)
    best: EpochResult | None = None
    best_weights: State = field(default_factory=dict)

    def add(self, result: EpochResult) -> None:
        """One more epoch; a copy of its weights is kept if it is the best so far."""
        self.history.append(result)
        if better(result, self.best):
            self.best, self.best_weights = result, copy.deepcopy(kept_weights(result.state()))


def checkpointed(
    results: Iterator[EpochResult],
    progress: Progress,
    config: FinalConfig,
    data: Splits,
    writer: checkpoint.Writer,
) -> Iterator[EpochResult]:
    """The same results; each joins the progress and, where it is time for one, a checkpoint."""
    alone = distributed.place().size == 1  # several processes would not stop after the same epoch
    for result in results:
        progress.add(result)
        if not result.diverged:
            waits = alone and result.epoch != config.epochs
            state = partial(state_of, progress, config, data)
            writer.offer(state, result.epoch_seconds if waits else math.inf)
        yield result
        writer.rest()


def state_of(progress: Progress, config: FinalConfig, data: Splits) -> State:
    """Everything a resumed run needs, as tensors, numbers, texts, dicts and lists.

    Before the first epoch `training` is None, and `best_epoch` 0.
    """
    return {
        "training": progress.history[-1].state() if progress.history else None,
        "history": [{"epoch": item.epoch, **item.figures} for item in progress.history],
        "best_epoch": progress.best.epoch if progress.best else 0,
        "best_weights": progress.best_weights,
        "config": dataclasses.asdict(config),
        "data_digest": data.digest,
        "processes": distributed.place().size,
    }


def progress_of(state: State | None) -> Progress:
    """The progress as the checkpoint has it; none for a fresh start."""
    if state is None or not state["history"]:
        return Progress()
    history = [
        EpochResult(**row, diverged_at_step=None, state=dict) for row in state["history"]
    ]
    best = next(item for item in history if item.epoch == state["best_epoch"])
    return Progress(history, best, state["best_weights"])


def to_resume(
    config: FinalConfig, tracker: Tracker, data: Splits
) -> tuple[State | None, str | None]:
    """The checkpoint and the run that --resume names; None, None for a fresh start."""
    if config.resume == "no":
        return None, None
    if config.resume != "last":
        state = _read(config.resume)
        if difference := _difference(config, state, data):
            raise BadInput(f"--resume={config.resume}: that run has {difference}")
        if (found := tracker.found(config.resume)) is None:
            raise BadInput(f"--resume={config.resume}: the tracking store has no such run")
        if _trains(found):
            raise BadInput(
                f"--resume={config.resume}: the process that trains that run is still there: wait "
                "until it has ended, or end it"
            )
        return state, config.resume
    begun: tuple[State, str] | None = None
    unread = 0
    for name in checkpoint.newest():
        try:
            state = _read(name)
        except BadInput as error:
            logger.warning("%s; it is passed over", str(error).rpartition(": ")[0])
            unread += 1
            continue
        found = None if _difference(config, state, data) else tracker.found(name)
        if found is None or _trains(found):
            continue
        if state["history"]:
            return state, name
        begun = begun or (state, name)  # where none has an epoch
    if begun:
        return begun
    more = f" ({unread} of its checkpoints cannot be read)" if unread else ""
    raise BadInput(
        f"--resume: ./{checkpoint.FOLDER} holds no interrupted final run of {data.name} with "
        f"{config.optimizer} and these settings{more}: start it without --resume"
    )


def _read(name: str) -> State:
    """The checkpoint of a run. BadInput where none is whole, or another version has written it."""
    path = checkpoint.path_of(name)
    state = checkpoint.load(path)
    if _of_final(state) and (odd := _oddity(state)):
        raise BadInput(
            f"the checkpoint {path} was written by another version ({odd}): give --resume another "
            "id, or start anew"
        )
    return state


def _of_final(state: State) -> bool:
    return isinstance(state.get("config"), dict) and WHOLE <= state.keys()


def _oddity(state: State) -> str:
    """What a final's checkpoint has that this version does not write; empty where nothing."""
    kinds = {item.name: KINDS[str(item.type)] for item in dataclasses.fields(FinalConfig)}
    for name, value in state["config"].items():
        if type(value) not in kinds.get(name, set()):
            return f"its config has a {type(value).__name__} as {shortened(name)!r}"
    try:
        FinalConfig(**state["config"])
    except BadInput as error:
        return f"its config: {str(error).partition(': ')[0]}"
    return checkpoint.oddity(state, EPOCH_METRICS) or _loose_end(state)


def _loose_end(state: State) -> str:
    """What does not belong to the epochs of its history."""
    training, best, epochs = state["training"], state["best_epoch"], len(state["history"])
    if training is not None and not TRAINING <= training.keys():
        return "its training lacks a part"
    at = training["epoch"] if training else 0
    if type(at) is not int or at != epochs:
        return "its training is not at the end of its history"
    if type(best) is not int or best not in range(min(epochs, 1), epochs + 1):
        return "its best epoch is none of its history"
    if not isinstance(state["best_weights"], dict):
        return "its best weights are none"
    return "" if type(state.get("processes", 1)) is int else "its processes are no number"


def _trains(run: FoundRun) -> bool:
    """Does another process of this machine have this run open?"""
    process = run.tags.get(PROCESS, "")
    return process != alive.myself() and alive.ended(process) is False


def _difference(config: FinalConfig, state: State, data: Splits) -> str:
    """What the interrupted run has otherwise than is asked for now; empty where nothing."""
    if not _of_final(state):
        return "another stage: it is a trial of a search, which goes on with the search"
    if state["data_digest"] != data.digest:
        return "other pictures, or divided otherwise: give the data options it was started with"
    trained_by, now = state.get("processes", 1), distributed.place().size
    if trained_by != now:
        return f"been trained by {trained_by} processes, not {now}"
    for name, value in parameters(config).items():
        before = state["config"].get(name, value)
        if before != value:
            return f"{option_name(name)}={before}, not {value}"
    return ""


def as_interrupted(config: FinalConfig, state: State) -> FinalConfig:
    """The interrupted run's config on today's machine."""
    here = {name: getattr(config, name) for name in NOT_PARAMETERS & vars(config).keys()}
    return FinalConfig(**{**state["config"], **here})
