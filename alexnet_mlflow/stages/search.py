"""Coarse search, narrowed with its reason, then fine search: every trial a nested run.

All trials begin with the same weights and see the same batches: they differ by their two rates
alone. A trial that diverges ends at once and cannot win; the others of a phase wait for one another
and the best go on (prune.py). Best is best on validation, by accuracy and then by loss, of any
epoch of any trial. It is trained again with other seeds: a lead smaller than that noise is none.

What is tried, and what came of it, stands in an Optuna study (study.py). Every process runs the
same loop: make the list of slots from what is known, claim one, train, tell. The process that
leads holds the parent run; one that comes later, with the same options or --study, joins. After
kill -9 the same command goes on: the list is the same, for it depends on the seed and on finished
trials alone.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch

from alexnet_mlflow import checkpoint, checks, engines, findings, gate
from alexnet_mlflow.checks import Check
from alexnet_mlflow.config import SearchConfig, parameters, resolve
from alexnet_mlflow.data import Splits, load
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.model import AlexNet, build
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import Trials, say
from alexnet_mlflow.prune import rounds, rungs
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.space import Narrowed, Outcome, Range, Space, draws, narrow
from alexnet_mlflow.stages import (
    StageResult,
    beside,
    check_batch,
    close,
    opened,
    tags_of,
    train_config,
)
from alexnet_mlflow.storage import told, url_of
from alexnet_mlflow.study import Claim, Filled, Slot, Study, name_of, pause
from alexnet_mlflow.train import Shared, fit
from alexnet_mlflow.trial import Training

OTHER_SEEDS = 1000  # the repeats of a search do not share a seed with the final trainings
STATES = 20  # kept at most while trials wait; 0.25 GB each, and the others train again from epoch 1


@dataclass(frozen=True)
class Task:
    """What a worker needs for every trial."""

    config: SearchConfig
    data: Splits
    device: torch.device
    start: AlexNet  # the weights with which every trial begins
    study: Study
    parent: Tracker
    chance: float
    shared: Shared = field(default_factory=Shared)  # one captured step for all trials


@dataclass(frozen=True)
class Plan:
    """The slots that can be filled by now, and how the fine ones came about."""

    slots: list[Slot]
    narrowed: Narrowed | None
    complete: bool  # no more slots will come
    hopeful: Sequence[str] = ()  # the trials whose states are kept, while they wait


def run(config: SearchConfig, tracker: Tracker) -> StageResult:
    """Search; the verdict is `fail` where no trial does better than chance or a check says no."""
    config, device = _resolved(config), pick_device(config.device, config.deterministic)
    data = load(config)
    check_batch(config, data)
    url = url_of(config.storage)
    engines.ready(config, url)
    with told(url), _study_of(config, tracker, data) as study:
        task = Task(
            config, data, device, build(len(data.classes), config.seed), study, tracker,
            chance=max(data.counts["val"].values()) / len(data.val),
        )
        leads = not engines.is_worker() and study.lead()
        return _lead(task) if leads else _join(task)


def _resolved(config: SearchConfig) -> SearchConfig:
    return resolve(dataclasses.replace(config, prune="off") if config.exhaustive else config)


def identity(config: SearchConfig, data: Splits) -> dict[str, object]:
    """What makes two searches the same one."""
    left_out = {"exhaustive", "force", "study", "skip_corrupt"}
    kept = {name: value for name, value in parameters(config).items() if name not in left_out}
    return {**kept, "dataset": data.name, "data_digest": data.digest}


def _study_of(config: SearchConfig, tracker: Tracker, data: Splits) -> Study:
    """The study of that name; without a name, the one of these options that is not finished."""
    url, wanted = url_of(config.storage), identity(config, data)
    base = config.study or name_of(data.name, config.optimizer, wanted)
    for number in count(1):
        study = Study(url, base if number == 1 else f"{base}-{number}", wanted)
        parent = study.attribute("parent_run")
        lost = parent is not None and tracker.found(parent) is None and tracker.stores
        if config.study and lost:
            study.leave()
            raise BadInput(
                f"--study={config.study} belongs to run {parent}, which this tracking store does "
                "not have: set MLFLOW_TRACKING_URI to its store, or give another name"
            )
        if config.study and study.attribute("closed"):
            study.leave()
            raise BadInput(
                f"--study={config.study} is finished (run {parent}): give another name"
            )
        if not lost and not study.attribute("closed"):
            return study
        study.leave()
    raise AssertionError


def _lead(task: Task) -> StageResult:
    """Hold the parent run: check first, then search with all workers, then report."""
    config, study = task.config, task.study
    before, token = study.attribute("parent_run"), study.attribute("token")
    if before is None and (left := task.parent.newest(study_token=token)):
        before = left.run_id  # killed before it could be noted
    if before:
        say(f"This search goes on: study {study.name}, run {before}.")
    tags = {"study": study.name, "study_token": token}
    with opened(config, task.parent, task.data, before, tags) as here:
        study.note("parent_run", here.run_id)
        if study.attribute("checked") is None:
            here.metrics(beside(task.data, task.data.val)[0])
            found = gate.passed(config, task.data, task.device, here)
            if checks.overall(found) == "fail" and not config.force:
                close(here, "fail", "failed")
                study.forget()
                said = tuple(check.sentence for check in found if check.verdict == "fail")
                return StageResult("search", here.run_id, "fail", (*said, gate.WAY_OUT))
            say(gate.forecast(config, task.data, task.device, here))
            study.note("checked", [dataclasses.asdict(check) for check in found])
        task = dataclasses.replace(task, parent=here)
        with engines.workers(config, study.name, url_of(config.storage)) as failures:
            _work(task, trains=config.engine == "local", failures=failures)
        result = _closed(task)
    study.note("closed", True)
    return result


def _join(task: Task) -> StageResult:
    """Try points for a search that another process leads."""
    study = task.study
    say(f"Joins the search {study.name}.")
    while not _checked(study):
        if _may_lead(study):
            return _lead(task)
        pause()
    parent = study.attribute("parent_run")
    below = task.parent.below(parent) if parent else task.parent
    _work(dataclasses.replace(task, parent=below), trains=True, failures=lambda: "")
    while not engines.is_worker() and not study.attribute("closed"):
        if _may_lead(study):
            return _lead(task)
        pause()
    return StageResult("search", parent, "pass", (f"The search {study.name} has ended.",))


def _checked(study: Study) -> bool:
    """Has the leader's gate passed? BadInput where it said no, or where a worker's leader went."""
    try:
        passed = study.attribute("checked") is not None
    except KeyError:
        raise BadInput(
            f"the search {study.name} was given up where it is led: look at the checks there"
        ) from None
    if not passed and engines.leader_gone():
        raise BadInput(f"the leader of the search {study.name} has ended: run it again")
    return passed


def _may_lead(study: Study) -> bool:
    return not engines.is_worker() and study.leaderless() and study.lead()


def _work(task: Task, trains: bool, failures: engines.Failures) -> None:
    """Claim and train until every slot is filled, by whomever."""
    config = task.config
    most = config.trials + config.fine_trials + config.repeats
    with Trials(most) as shown:
        while not engines.leader_gone():
            filled = task.study.filled()
            plan = _plan(task, filled)
            shown.at(*_counts(filled))
            _forget_states(plan, filled)
            if plan.complete:
                return
            claim = task.study.claim(plan.slots, config.sampler) if trains else None
            if claim:
                _trial(task, claim, shown)
                continue
            if why := failures():
                raise BadInput(f"the workers have failed ({why}): run it with --engine=local")
            pause()


def _plan(task: Task, filled: dict[str, Filled]) -> Plan:
    """All slots that are known by now: coarse, then fine, then the winner's repeats."""
    config = task.config
    space = Space(
        Range(config.lr_low, config.lr_high),
        Range(config.weight_decay_low, config.weight_decay_high),
    )
    slots, hopeful = _rounds(config, _slots(config, "coarse", space, config.trials), filled)
    if not _all_reached(slots, filled):
        return Plan(slots, None, complete=False, hopeful=hopeful)
    narrowed = narrow(space, [outcome_of(filled[slot.name]) for slot in slots], task.chance)
    if narrowed is None:
        return Plan(slots, None, complete=True)
    fine = _slots(config, "fine", narrowed.space, config.fine_trials)
    fine, hopeful = _rounds(config, fine, filled)
    slots += fine
    if not _all_reached(fine, filled):
        return Plan(slots, narrowed, complete=False, hopeful=hopeful)
    if best := winner_of({slot.name: filled[slot.name] for slot in slots}):
        [won] = [slot for slot in slots if slot.name == best]
        slots += [
            Slot("repeat", number, won.space, filled[best].point,
                 config.seed + OTHER_SEEDS + number, until=_epochs(config))
            for number in range(1, config.repeats + 1)
        ]
    return Plan(slots, narrowed, _all_reached(slots, filled))


def _counts(filled: dict[str, Filled]) -> tuple[int, int, int, float | None]:
    """Finished, cut, diverged, and the best accuracy: what a person wants to see."""
    ended = [one for one in filled.values() if one.finished]
    best = winner_of(filled)
    return (
        len(ended),
        sum(one.outcome == "pruned" for one in ended),
        sum(one.outcome == "diverged" for one in ended),
        filled[best].result["best_val_accuracy"] if best else None,
    )


def _slots(config: SearchConfig, phase: str, space: Space, size: int) -> list[Slot]:
    """A phase's slots. TPE proposes the fine points itself; the rest is drawn from the seed."""
    seed = config.seed + (phase == "fine")
    if phase == "fine" and config.sampler == "tpe":
        return [Slot(phase, number, space, None, seed + number) for number in range(1, size + 1)]
    sampler = "qmc" if config.sampler == "qmc" else "random"
    points = draws(space, size, seed, sampler)
    return [Slot(phase, number, space, point, seed) for number, point in enumerate(points, 1)]


def _rounds(
    config: SearchConfig, slots: Sequence[Slot], filled: dict[str, Filled]
) -> tuple[list[Slot], list[str]]:
    """A phase's slots with the epochs each is to reach by now, and whose states are kept."""
    begun = {slot.name: filled.get(slot.name) for slot in slots}
    epochs = _epochs(config)
    found = rounds(
        {name: one.curve if one else [] for name, one in begun.items()},
        {name for name, one in begun.items() if one and one.outcome == "diverged"},
        rungs(config.prune, epochs), epochs,
    )
    goals = [dataclasses.replace(slot, until=found.goals[slot.name]) for slot in slots]
    return goals, found.hopeful[:STATES]


def _epochs(config: SearchConfig) -> int:
    assert config.epochs is not None
    return config.epochs


def _all_reached(slots: Sequence[Slot], filled: dict[str, Filled]) -> bool:
    return all(slot.name in filled and filled[slot.name].reached(slot) for slot in slots)


def _forget_states(plan: Plan, filled: dict[str, Filled]) -> None:
    """Remove the states of trials that have ended and will not go on."""
    for name, one in filled.items():
        waits = one.outcome == "pruned" and name in plan.hopeful
        if one.finished and one.run_id and not waits:
            checkpoint.remove(checkpoint.path_of(one.run_id))


def outcome_of(filled: Filled) -> Outcome:
    """What narrowing knows of a trial."""
    diverged = filled.outcome == "diverged"
    accuracy = None if diverged else float(filled.result["best_val_accuracy"])
    return Outcome(filled.point, accuracy, filled.outcome == "pruned")


def winner_of(filled: dict[str, Filled]) -> str | None:
    """The slot that is best on validation, by accuracy and then by loss; None if all diverged."""
    best, name = (-1.0, 0.0), None
    for slot, one in filled.items():
        if one.outcome in ("completed", "pruned") and not slot.startswith("repeat"):
            reached = one.result["best_val_accuracy"], -one.result["best_val_loss"]
            if reached > best:
                best, name = reached, slot
    return name


def _trial(task: Task, claim: Claim, shown: Trials) -> None:
    """Train at one point as a nested run, or go on where an attempt before it has stopped."""
    slot, config = claim.slot, task.config
    repeats = slot.phase == "repeat"
    seed = slot.seed if repeats else config.seed
    settings = train_config(
        config, lr=claim.point.lr, weight_decay=claim.point.weight_decay, seed=seed
    )
    run_id = claim.run_id
    if claim.again and run_id is None and (left := task.parent.child_with(slot=slot.name)):
        run_id = left.run_id
    tags = {**tags_of(config, task.data), "stage": "trial", "phase": slot.phase,
            "slot": slot.name, "seed": seed}
    with task.parent.child(f"{slot.name} lr {claim.point.lr:.3g}", tags, run_id) as here:
        claim.started(here.run_id)
        here.params(vars(settings))
        net = build(len(task.data.classes), seed) if repeats else copy.deepcopy(task.start)
        training = Training(config, claim, here, shown, run_id is not None)
        try:
            with training.writer:  # before anybody else has the trial all is written
                if training.outcome == "running":
                    results = fit(
                        net, task.data, settings, task.device, training.state, task.shared
                    )
                    for result in results:
                        if training.passed(result):
                            break
                if training.outcome == "pruned" and _may_go_on(task, slot):
                    training.save()
        except BaseException:
            claim.abandon()
            raise
        if training.lost:
            here.leave()
        else:
            found = training.found()
    if training.lost or not claim.finish(
        training.outcome, found["best_val_accuracy"] or 0.0, found
    ):
        say(f"{slot.name} was taken over by another worker: this one was silent for too long.")
        return
    shown.ended(slot.name, training.outcome, training.history[-1])


def _may_go_on(task: Task, slot: Slot) -> bool:
    return slot.name in _plan(task, task.study.filled()).hopeful


def _closed(task: Task) -> StageResult:
    """What the record holds, judged and shown, on the parent run."""
    filled = task.study.filled()
    plan = _plan(task, filled)
    trials = [findings.Trial(slot, filled[slot.name]) for slot in plan.slots]
    best = winner_of(filled) if plan.narrowed else None
    found = findings.Findings(
        trials, next((one for one in trials if one.slot.name == best), None), plan.narrowed,
        task.chance, [Check(**check) for check in task.study.attribute("checked")],
    )
    judged = findings.judged(found)
    title = f"search, {task.data.title}, {task.config.optimizer}, {task.config.epochs} epochs"
    figures = findings.told(found, judged, task.parent, title)
    verdict = checks.overall(judged) if found.winner else "fail"
    if found.winner and verdict == "fail" and task.config.force:
        task.parent.tags({"forced": "true"})
        verdict = "warn"
    close(task.parent, verdict)
    return StageResult(
        "search", task.parent.run_id, verdict, findings.sentences(found, judged), figures
    )
