"""A search's record in an Optuna storage: which points are tried, by whom, and what came of them.

The only file that knows Optuna. A search is a list of slots ("coarse 1", ...) that the caller
makes from its seed; a worker claims the first slot that nobody has, as one Optuna trial. A trial
whose worker is gone is marked FAIL and its slot is claimed again. One that waits at a rung
(prune.py) is PRUNED, and goes on as another trial of its slot: what is to go furthest counts. Two
workers that claim one slot at once are kept apart by a lock (on sqlite and PostgreSQL); elsewhere
the trial with the lower number counts, the other is given up.

Optuna's pruners are not used: they judge a trial as soon as it reports, by whoever is there, and
count what an abandoned attempt has reported, so that a resumed search would decide otherwise.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from alexnet_mlflow import storage
from alexnet_mlflow.alive import gone, living
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.space import Outcome, Point, Space
from alexnet_mlflow.storage import alone, opening, quietly, storage_of

RATES = 2  # parameters of a trial
ROUNDING = 1e-9  # 10**log10(x) may lie this share outside a range
OUTCOMES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED,
            "diverged": TrialState.COMPLETE}
LOST = -1.0  # the value of a diverged trial: below every accuracy, so that TPE ranks it last

Curve = list[tuple[float, float]]  # validation accuracy and loss of every epoch from the first


@dataclass(frozen=True)
class Slot:
    """A place in the search that one trial fills."""

    phase: str
    number: int  # from 1, within the phase
    space: Space
    point: Point | None  # None: the sampler proposes it when the slot is claimed
    seed: int
    until: int = 0  # the epoch at which its trial stops, to wait there or at its end

    @property
    def name(self) -> str:
        return f"{self.phase} {self.number}"


@dataclass(frozen=True)
class Filled:
    """What stands in the record of one slot."""

    point: Point
    outcome: str  # completed, pruned, diverged; running while it runs
    curve: Curve
    result: dict[str, Any]  # what the worker said on finishing
    run_id: str | None
    until: int = 0  # how far the slot's trial was to go

    @property
    def finished(self) -> bool:
        """Has it ended, or does it wait?"""
        return self.outcome != "running"

    def reached(self, slot: Slot) -> bool:
        """Is done what the slot asks for by now?"""
        return self.finished and self.until >= slot.until


class Claim:
    """A slot that this process fills; it is alive until `finish`."""

    def __init__(self, study: Study, trial: optuna.Trial, slot: Slot, run_id: str | None) -> None:
        self.slot, self.run_id = slot, run_id
        self.again = run_id is not None or bool(trial.user_attrs.get("again"))
        low_lr, high_lr = slot.space.lr.low, slot.space.lr.high
        low, high = slot.space.weight_decay.low, slot.space.weight_decay.high
        wide = 1 + ROUNDING
        lr = trial.suggest_float("lr", low_lr / wide, high_lr * wide, log=True)
        decay = trial.suggest_float("weight_decay", low / wide, high * wide, log=True)
        self.point = slot.point or Point(lr, decay)
        self._trial = trial
        self._study = study
        self._curve: Curve = []  # as it was last reported
        self._done = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._done.wait(storage.HEARTBEAT_SECONDS):
            with suppress(Exception):  # a database away for a moment; the grace is longer
                self._study.storage.record_heartbeat(self._trial._trial_id)

    def started(self, run_id: str | None) -> None:
        """The run that shows this trial; another attempt goes on in it."""
        with suppress(UpdateFinishedTrialError):  # taken over; `report` will say it
            self._trial.set_user_attr("run_id", run_id)

    def report(self, curve: Curve) -> bool:
        """What has been measured so far, for the record and for others' pruning.

        False where another worker has taken the slot over: this one was silent for too long.
        """
        try:
            self._trial.set_user_attr("curve", curve)
        except UpdateFinishedTrialError:
            self._done.set()
            return False
        self._curve = curve
        return True

    def finish(self, outcome: str, value: float, result: Mapping[str, Any]) -> bool:
        """The trial is over. False where another worker has taken the slot over meanwhile."""
        self._done.set()
        try:
            self._trial.set_user_attr("result", dict(result))
            self._trial.set_user_attr("outcome", outcome)
            state = OUTCOMES[outcome]
            if self._curve:  # TPE ranks a trial that waits by it; each epoch it would be a write
                self._trial.report(self._curve[-1][0], len(self._curve))
            told = {"completed": value, "pruned": None, "diverged": LOST}[outcome]
            self._study.optuna.tell(self._trial, told, state=state)
        except (UpdateFinishedTrialError, ValueError):
            return False
        return True

    def abandon(self) -> None:
        """Stop without a result: the slot is claimed again, at once, by whoever comes first."""
        self._done.set()
        with suppress(Exception):
            self._study.optuna.tell(self._trial, state=TrialState.FAIL)


class Study:
    """A search by name; made where there is none. BadInput where it is another search."""

    def __init__(self, url: str, name: str, identity: Mapping[str, object]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name = name
        self._url = url
        self._here = ExitStack()
        self._left = threading.Event()
        self._beat: tuple[Any, float] = (None, time.monotonic())  # the leader's, and since when
        self.worker = self._here.enter_context(living())
        try:
            with opening(url):
                known = self._opened(identity)
            if difference := _difference(known, identity):
                raise BadInput(
                    f"--study={name} is another search: {difference}; give another name"
                )
        except BaseException:
            self.leave()
            raise

    def _opened(self, identity: Mapping[str, object]) -> Mapping[str, object]:
        """Make the study or take the one that is there; returns what makes it this search."""
        with alone(self._url, None):  # one process at a time makes the tables
            self.storage = storage_of(self._url)
        self._here.callback(self.storage.engine.dispose)
        self._here.callback(self.storage.remove_session)
        self._here.callback(self._left.set)
        with self._alone():
            self.optuna = optuna.create_study(
                storage=self.storage, study_name=self.name, direction="maximize",
                load_if_exists=True,
            )
            known: Mapping[str, object] | None = self.optuna.user_attrs.get("identity")
            if known is None:
                self.optuna.set_user_attr("identity", dict(identity))
                self.optuna.set_user_attr("token", uuid.uuid4().hex)
        return known or identity

    def leave(self) -> None:
        """Let go of what only a living worker holds, and of the database."""
        self._here.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other worker of this storage is in such a block, where the database can say so."""
        with alone(self._url, self.storage):
            yield

    def attribute(self, name: str) -> Any:
        """Something that all workers know; None where it was never said."""
        return self.optuna.user_attrs.get(name)

    def note(self, name: str, value: Any) -> None:
        """Say something to all workers."""
        self.optuna.set_user_attr(name, value)

    def lead(self) -> bool:
        """Does this process lead the search? It does where nobody does who is still there."""
        with self._alone():
            leader = self.attribute("leader")
            if leader == self.worker:
                return True
            if leader is not None and not self.leaderless():
                return False
            self.note("leader", self.worker)
        threading.Thread(target=self._keep_leading, daemon=True).start()
        return True

    def _keep_leading(self) -> None:
        """Let other machines see that the leader is there."""
        beats = 0
        while not self._left.wait(storage.HEARTBEAT_SECONDS):
            beats += 1
            with suppress(Exception):  # a database away for a moment; the grace is longer
                self.note("leader_beat", [self.worker["lock"], beats])

    def leaderless(self) -> bool:
        """Is the process that led the search gone? On another machine: is it silent for long?

        Ask again and again: silence is measured between the calls, by this process's clock.
        """
        leader, beat = self.attribute("leader"), self.attribute("leader_beat")
        if leader is None or gone(leader):
            return True
        if beat != self._beat[0]:
            self._beat = beat, time.monotonic()
        return time.monotonic() - self._beat[1] > storage.GRACE_SECONDS

    def forget(self) -> None:
        """Delete the search: a gate before it said no."""
        optuna.delete_study(study_name=self.name, storage=self.storage)

    def filled(self) -> dict[str, Filled]:
        """The record of every slot that has a trial, by the slot's name.

        The curve is the longest of the slot: one that goes on without its state starts anew.
        """
        return {
            name: _filled(trials[0], max((_curve(trial) for trial in trials), key=len))
            for name, trials in self._live().items()
        }

    def _live(self) -> dict[str, list[FrozenTrial]]:
        """Each slot's trials without FAIL; the one that counts is the first: it goes furthest."""
        live: dict[str, list[FrozenTrial]] = {}
        for trial in self.optuna.get_trials(deepcopy=False):
            name = trial.user_attrs.get("slot")
            if name is not None and trial.state is not TrialState.FAIL:
                live.setdefault(name, []).append(trial)
        for trials in live.values():
            trials.sort(key=lambda trial: (-_until(trial), trial.number))
        return live

    def claim(self, slots: Sequence[Slot], sampler: str = "random") -> Claim | None:
        """The first of these slots that is to be filled and that nobody has; None if there is none.

        Nobody has it: no worker does, its worker is gone, or its trial waits and is to go on.
        """
        with self._alone():
            self._abandon_dead()
            live = {name: trials[0] for name, trials in self._live().items()}
            # Its worker died between enqueueing and asking; Optuna hands it out first.
            left = [slot for slot in slots
                    if slot.name in live and live[slot.name].state is TrialState.WAITING]
            for slot in [*left, *(slot for slot in slots if slot not in left)]:
                held = live.get(slot.name)
                waits = held is not None and _until(held) < slot.until and held.state.is_finished()
                if held is None or waits:
                    self._enqueue(slot)
                elif slot not in left:
                    continue
                if claim := self._taken(slot, sampler):
                    return claim
        return None

    def _enqueue(self, slot: Slot) -> None:
        """One more trial for the slot, at the point of the attempt before where there was one."""
        before = [trial for trial in self.optuna.get_trials(deepcopy=False)
                  if trial.user_attrs.get("slot") == slot.name]
        attributes: dict[str, Any] = {
            "slot": slot.name, "phase": slot.phase, "worker": self.worker, "until": slot.until,
        }
        params = slot.point and asdict(slot.point)
        if before:
            attributes["again"] = True
            attributes["run_id"] = before[-1].user_attrs.get("run_id")
            whole = (trial.params for trial in reversed(before) if len(trial.params) == RATES)
            params = params or next(whole, {})  # an attempt killed at once has none of its own
        self.optuna.enqueue_trial(params or {}, user_attrs=attributes)

    def _taken(self, slot: Slot, sampler: str) -> Claim | None:
        """Turn the waiting trial of this slot into one that runs here."""
        self.optuna.sampler = _sampler(sampler, slot.seed)
        with quietly():
            trial = self.optuna.ask()
        counts = [held[0].number for held in self._live().values()]
        if trial.user_attrs.get("slot") != slot.name or trial.number not in counts:
            self.optuna.tell(trial, state=TrialState.FAIL)  # somebody was faster
            return None
        trial.set_user_attr("worker", self.worker)
        self.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr("beats", True)
        return Claim(self, trial, slot, trial.user_attrs.get("run_id"))

    def _abandon_dead(self) -> None:
        """Mark trials FAIL whose worker is gone: its lock is free, or its heart stands still."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker and worker != self.worker and (gone(worker) or _never_beat(trial)):
                self.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        with quietly():
            fail_stale_trials(self.optuna)


def name_of(dataset: str, optimizer: str, identity: Mapping[str, object]) -> str:
    """The name of the search with this identity: the same options give the same name."""
    digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
    return f"{dataset}-{optimizer}-{digest[:8]}"


def importances(outcomes: Sequence[Outcome], chance: float) -> dict[str, float]:
    """What share of the differences in accuracy each rate explains (fANOVA); empty if too few.

    Hutter, Hoos, Leyton-Brown 2014. A diverged trial counts as chance, so that it is not left out.
    """
    values = [chance if item.val_accuracy is None else item.val_accuracy for item in outcomes]
    if len(values) < 4 or max(values) - min(values) == 0:
        return {}
    points = [asdict(item.point) for item in outcomes]
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(
            min(point[name] for point in points), max(point[name] for point in points), log=True
        )
        for name in points[0]
    }
    study = optuna.create_study(direction="maximize")
    for point, value in zip(points, values, strict=True):
        study.add_trial(optuna.create_trial(params=point, distributions=ranges, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Who proposes a point that has none: seeded by the slot, so that a second try is the same."""
    if name == "tpe":
        with quietly():
            return optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed % 2**32)


def _never_beat(trial: FrozenTrial) -> bool:
    """Did its worker die between taking it and its first heartbeat? Optuna overlooks such."""
    age = datetime.now() - (trial.datetime_start or datetime.now())
    return "beats" not in trial.user_attrs and age.total_seconds() > storage.GRACE_SECONDS


def _until(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("until", 0))


def _curve(trial: FrozenTrial) -> Curve:
    return [(float(accuracy), float(loss)) for accuracy, loss in trial.user_attrs.get("curve", [])]


def _filled(trial: FrozenTrial, curve: Curve) -> Filled:
    known, finished = trial.user_attrs, trial.state.is_finished()
    params = {"lr": 0.0, "weight_decay": 0.0, **trial.params}
    point = Point(**known["result"]["point"]) if finished else Point(**params)
    return Filled(
        point=point, outcome=known["outcome"] if finished else "running", curve=curve,
        result=known.get("result", {}), run_id=known.get("run_id"), until=_until(trial),
    )


def _difference(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first thing in which two searches differ, in words; empty where nothing."""
    for name, value in wanted.items():
        if known.get(name) != value:
            return f"it has {name} {known.get(name)}, not {value}"
    return ""


def pause() -> None:
    """Wait for others: what they do shows in the storage alone."""
    time.sleep(0.5)
