"""The record of a search: who fills which slot, after kills too, on sqlite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy
from optuna.trial import TrialState

from alexnet_mlflow import alive
from alexnet_mlflow import storage as module
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.space import Outcome, Point, Range, Space, draws
from alexnet_mlflow.storage import quietly, url_of
from alexnet_mlflow.study import Claim, Slot, Study, importances, name_of
from tests import killed, postgres

SPACE = Space(Range(1e-5, 1e5), Range(1e-6, 1e-3))
SAME = {"seed": 0, "trials": 4}
PATIENCE_SECONDS = 60  # for a loaded machine

T = TypeVar("T")


def slots(count: int = 4) -> list[Slot]:
    return [
        Slot("coarse", number, SPACE, point, 0)
        for number, point in enumerate(draws(SPACE, count, 0), 1)
    ]


def result(claim: Claim) -> dict[str, object]:
    return {"point": {"lr": claim.point.lr, "weight_decay": claim.point.weight_decay}}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if postgres.MISSING:
        pytest.skip(postgres.REASON)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return url_of("") if request.param == "sqlite" else request.getfixturevalue("server")


def awaited(ask: Callable[[], T | None]) -> T:
    """What is answered as soon as something is."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := ask()) is None:
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.1)
    return found


def opened(name: str = "it", url: str | None = None) -> Study:
    return Study(url or url_of(""), name, SAME)


def test_slots_are_claimed_in_order_each_once_at_its_point() -> None:
    with opened() as one, opened() as other:
        first, second = one.claim(slots()), other.claim(slots())
        assert first and second
        assert [first.slot.name, second.slot.name] == ["coarse 1", "coarse 2"]
        assert first.point == slots()[0].point, "the point went through the database"
        assert first.finish("completed", 0.75, result(first))
        third = one.claim(slots(3))
        assert third and third.slot.number == 3
        assert other.claim(slots(3)) is None, "all are taken"
        assert second.finish("diverged", 0.0, result(second))
        third.report([(0.5, 0.7)])
        filled = one.filled()
        assert filled["coarse 1"].finished and filled["coarse 2"].outcome == "diverged"
        assert filled["coarse 3"].outcome == "running" and filled["coarse 3"].curve == [(0.5, 0.7)]
        assert third.finish("pruned", 0.5, result(third))


def test_a_trial_that_waits_goes_on_once(url: str) -> None:
    short, long = (
        [dataclasses.replace(slot, until=until) for slot in slots(2)] for until in (1, 3)
    )
    with opened("waits", url) as one, opened("waits", url) as other:
        claims = [one.claim(short), other.claim(short)]
        for claim in claims:
            assert claim
            claim.started("run of " + claim.slot.name)
            claim.report([(0.5, 0.7)])
        assert one.claim([long[0]]) is None, "it goes on before it waits"
        for claim in claims:
            assert claim and claim.finish("pruned", 0.5, result(claim))
        filled = one.filled()
        assert all(filled[slot.name].reached(slot) for slot in short)
        assert not any(filled[slot.name].reached(slot) for slot in long)
        assert one.claim(short) is None
        again = one.claim([long[1]])
        assert again and again.run_id == "run of coarse 2" and again.point == long[1].point
        assert other.claim([long[1]]) is None, "two go on with one trial"
        again.abandon()
        third = other.claim([long[1]])
        assert third and third.run_id == "run of coarse 2"
        third.report([(0.6, 0.6)] * 3)
        third.finish("completed", 0.6, result(third))
        filled = one.filled()
        assert [one.outcome for one in filled.values()] == ["pruned", "completed"]
        assert [len(one.curve) for one in filled.values()] == [1, 3]


def test_an_epoch_is_one_write_and_a_trial_that_waits_is_ranked_by_its_last(url: str) -> None:
    with opened("writes", url) as study:
        claim = study.claim(slots())
        assert claim
        written = list[str]()
        sqlalchemy.event.listen(
            study.storage.engine, "before_cursor_execute",
            lambda *given: written.append(given[2]) if given[2][:6] != "SELECT" else None,
        )
        claim.report([(0.5, 0.7), (0.75, 0.6)])
        assert len(written) == 1, written
        assert claim.finish("pruned", 0.5, result(claim))
        [trial] = study.optuna.trials
        assert trial.value == 0.75


def test_a_trial_that_was_enqueued_and_never_asked_for_is_taken_first() -> None:
    """Its worker was killed between the two: no other slot's trial is given up for it."""
    with opened() as study:
        study._enqueue(slots()[3])
        claim = study.claim(slots())
        assert claim and claim.slot.number == 4
        following = study.claim(slots())
        assert following and following.slot.number == 1
        states = [trial.state.name for trial in study.optuna.trials]
        assert states == ["RUNNING", "RUNNING"]


def test_tpe_s_point_survives_an_attempt_that_was_killed_at_once() -> None:
    with opened() as study:
        fine = Slot("fine", 1, SPACE, None, 7, until=1)
        claim = study.claim([fine], "tpe")
        assert claim and claim.finish("pruned", 0.5, result(claim))
        further = dataclasses.replace(fine, until=3)
        study._enqueue(further)
        with quietly():
            bare = study.optuna.ask()  # killed before it named its rates
        study.optuna.tell(bare, state=TrialState.FAIL)
        study.optuna.enqueue_trial({}, user_attrs={"slot": fine.name, "until": 3})
        with quietly():
            empty = study.optuna.ask()
        study.optuna.tell(empty, state=TrialState.FAIL)
        again = study.claim([further], "tpe")
        assert again and again.point == claim.point


def test_a_worker_elsewhere_that_died_before_its_first_heartbeat_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened() as study:
        study._enqueue(slots(1)[0])
        with quietly():
            lost = study.optuna.ask()
        lost.set_user_attr("worker", {"host": "elsewhere", "lock": "/x/y.lock"})
        assert study.claim(slots(1)) is None
        monkeypatch.setattr(module, "GRACE_SECONDS", 1)
        assert awaited(lambda: study.claim(slots(1))).again


def _works(url: str) -> None:
    """Another process: it fills slots as long as there are any."""
    with Study(url, "many", SAME) as study:
        while claim := study.claim(slots(24)):
            claim.started(None)
            claim.report([(0.5, 0.7)])
            assert claim.finish("completed", 0.5, result(claim))
            with open("filled", "a") as file:
                file.write(f"{claim.slot.name}\n")


def test_several_processes_share_the_slots(url: str) -> None:
    running = [killed.started(_works, url) for _ in range(3)]
    assert all([killed.ended(worker) for worker in running])
    filled = Path("filled").read_text().splitlines()
    assert sorted(filled) == sorted(slot.name for slot in slots(24)), "one was lost or done twice"


def _dies(url: str) -> None:
    study = Study(url, "killed", SAME)
    claim = study.claim(slots())
    assert claim
    claim.started("run1")
    claim.report([(0.5, 0.7)])
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_s_slot_is_taken_over_at_once(url: str) -> None:
    assert not killed.ended(killed.started(_dies, url))
    with opened("killed", url) as study:
        claim = study.claim(slots())
        assert claim and claim.slot.number == 1 and claim.run_id == "run1" and claim.again
        assert claim.finish("completed", 0.5, result(claim))
        assert len(study.filled()) == 1
    left = [item for item in alive.LOCKS.iterdir() if item.suffix == ".lock"]
    assert left == [], "the dead worker's lock stays"


def test_a_silent_worker_elsewhere_is_given_up_after_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 3)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 1)
    with opened() as study:
        lost = study.claim(slots(1))
        assert lost
        lost._trial.set_user_attr("worker", {"host": "elsewhere", "lock": "/x/y.lock"})
        time.sleep(4)
        with opened() as other:
            assert other.claim(slots(1)) is None, "its heart beats"
            lost._done.set()
            taken = awaited(lambda: other.claim(slots(1)))
            assert taken.again
            assert not lost.report([(0.9, 0.1)]), "it goes on in a slot that is another's"
            assert not lost.finish("completed", 0.9, result(lost)), "both have filled one slot"
            assert taken.finish("completed", 0.5, result(taken))
            assert len(other.filled()) == 1


def test_tpe_proposes_the_same_to_a_second_attempt_and_learns() -> None:
    points = []
    for name in ("one", "two"):
        with opened(name) as study:
            for slot in slots(12):
                claim = study.claim([slot])
                assert claim
                value = -abs(math.log10(claim.point.lr) + 2)
                claim.finish("completed", value, result(claim))
            fine = Slot("fine", 1, SPACE, None, 7)
            claim = study.claim([fine], "tpe")
            assert claim
            if name == "two":
                claim.abandon()
                claim = study.claim([fine], "tpe")
                assert claim and claim.again
            points.append(claim.point)
            claim.finish("completed", 0.5, result(claim))
    assert points[0] == points[1]
    assert abs(math.log10(points[0].lr) + 2) < 3, "it has learnt nothing of ten decades"


def test_who_leads() -> None:
    with opened() as one:
        assert one.lead() and one.lead()
        with opened() as other:
            assert not other.lead() and not other.leaderless()
    with opened() as other:
        assert other.leaderless() and other.lead()


def test_a_leader_elsewhere_is_gone_when_its_heart_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 3)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.2)
    with opened() as one:
        one.worker = {"host": "elsewhere", "lock": "/x/y.lock", "folder": "0:0"}
        assert one.lead()
        with opened() as other:
            for _ in range(8):  # longer than the grace
                beat = one.attribute("leader_beat")
                time.sleep(0.5)
                awaited(lambda beat=beat: one.attribute("leader_beat") != beat or None)
                assert not other.leaderless() and not other.lead()
            one._left.set()
            assert awaited(lambda: other.leaderless() or None) and other.lead()


def test_a_diverged_trial_ranks_last_whatever_came_before() -> None:
    with opened() as study:
        for slot, outcome in zip(slots(3), ("completed", "diverged", "pruned"), strict=True):
            claim = study.claim([slot])
            assert claim
            claim.report([(0.95 if outcome == "diverged" else 0.6, 0.1)])
            claim.finish(outcome, 0.6, result(claim))
        values = [trial.value for trial in study.optuna.trials]
        assert values[1] == min(value for value in values if value is not None) < 0
        assert study.optuna.best_trial.number == 0


def test_another_search_of_that_name() -> None:
    opened().leave()
    with pytest.raises(BadInput, match="--study=it is another search: it has seed 0, not 1;"):
        Study(url_of(""), "it", {**SAME, "seed": 1})


def test_names_follow_what_makes_a_search() -> None:
    assert name_of("faces", "sgd", {"a": 1, "b": 2}) == name_of("faces", "sgd", {"b": 2, "a": 1})
    assert name_of("faces", "sgd", {"a": 1}) != name_of("faces", "sgd", {"a": 2})


def test_importances_name_the_rate_that_matters() -> None:
    outcomes = [
        Outcome(point, None if point.lr > 1e3 else 0.9 - 0.1 * abs(math.log10(point.lr) + 2))
        for point in draws(SPACE, 40, 3)
    ]
    shares = importances(outcomes, 0.1)
    assert shares["lr"] > 0.8 and sum(shares.values()) == pytest.approx(1)
    assert importances(outcomes[:3], 0.1) == {}
    assert importances([Outcome(Point(1e-3, 1e-4), 0.5)] * 9, 0.1) == {}
