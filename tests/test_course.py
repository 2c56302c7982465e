"""One optimizer's way: what stops it, and the one that goes on in a process beside this one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from alexnet_mlflow import abreast, course, pipeline, process
from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.config import BabysitConfig, SearchConfig, SpaceConfig
from alexnet_mlflow.course import Course
from alexnet_mlflow.runs import NullTracker
from alexnet_mlflow.stages import StageResult
from tests.narrow import environment
from tests.processes import children

SECONDS = 5  # what a process that is stopped may take
LEAVE_SECONDS = 10


def stage_result(stage: str, verdict: Verdict = "pass", **figures: object) -> StageResult:
    return StageResult(stage, stage, verdict, (f"What {stage} found.",), figures)


def test_what_only_warns_does_not_stop() -> None:
    course = Course("sgd", force=False)
    assert course.goes_on(stage_result("sanity", "warn"))
    assert course.refusals == [] and not course.forced


@pytest.mark.parametrize(
    ("force", "able", "goes"),
    [(False, True, False), (True, True, True), (True, False, False), (False, False, False)],
)
def test_a_fail_stops_unless_forced_and_able(force: bool, able: bool, goes: bool) -> None:
    course = Course("sgd", force)
    assert course.goes_on(stage_result("search", "fail"), able) == goes == course.forced
    [told] = course.refusals
    assert told.startswith("sgd: search said no") and told.endswith(": What search found.")
    assert ("--force goes on" in told) == goes


def test_every_option_of_the_search_is_handed_over() -> None:
    """By name: each field of SpaceConfig, other than its default, reaches the search."""
    others = {
        "dataset": "digits", "data_dir": "d", "device": "cpu", "optimizer": "adam",
        "recipe": "strong", "precision": "bf16",
        "sampler": "qmc", "prune": "epoch", "engine": "ray", "storage": "sqlite:///s.db",
        "ray_address": "ray://there:10001",
    }
    values: dict[str, object] = {}
    for item in dataclasses.fields(SpaceConfig):
        if item.name in others:
            values[item.name] = others[item.name]
        elif isinstance(item.default, bool):
            values[item.name] = not item.default
        else:
            values[item.name] = 3 if item.default is None else item.default * 0.5 or 3
            if "int" in str(item.type):
                values[item.name] = int(item.default or 3) + 1
    config = BabysitConfig(**values)  # type: ignore[arg-type]
    made = course._derived(SearchConfig, config, epochs=7)
    assert {name: getattr(made, name) for name in values} == values
    assert made.epochs == 7
    for item in dataclasses.fields(SpaceConfig):
        assert values[item.name] != item.default, item.name


# Beside


def gone() -> Course:
    made = Course("adam", force=False, seconds=12.5, refusals=["adam: search said no: why"])
    made.results += [
        stage_result("sanity", "warn", first_loss=0.1 + 0.2, lr=None),
        StageResult("evaluate", "e1", "pass", (), {"test_accuracy": 1 / 3}, "models:/m-1"),
    ]
    return made


def test_a_course_is_the_same_on_the_other_side() -> None:
    assert course.read(json.loads(json.dumps(course.written(gone()), allow_nan=False))) == gone()


@pytest.mark.parametrize(
    ("changes", "run_id", "threads", "room"),
    [({}, "a1", 2, True), ({}, "a1", 1, False), ({}, None, 2, False),
     ({"side_by_side": False}, "a1", 2, False), ({"workers": 2}, "a1", 2, False),
     ({"engine": "ray"}, "a1", 2, False)],
)
def test_where_there_is_room_for_two(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], run_id: str | None, threads: int,
    room: bool,
) -> None:
    """Cores, no search that takes them all, and a run below which both can be."""
    monkeypatch.setattr(abreast, "places", lambda device: threads)
    here = NullTracker()
    here.run_id = run_id
    config = BabysitConfig(optimizer="both", device="cpu", **changes)  # type: ignore[arg-type]
    assert course.at_once(config, here) == room


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown, a line each."""
    lines: list[str] = []
    monkeypatch.setattr(course, "say", lines.append)
    monkeypatch.setattr(course, "LOOK_SECONDS", 0.01)
    return lines


def waited(text: str) -> Course:
    with abreast.running([[sys.executable, "-c", text]], "cpu", {}) as [other]:
        return course._waited(other, "adam")


TALKS = r"""
import os, sys, time
def say(text):
    os.write(2, text)
    time.sleep(0.1)
say(b"one\ntw"); say(b"o\nth\xc3"); say(b"\xa4\nlast")
print("a word"); print(LINE)
"""


def test_what_it_says_is_shown_in_whole_lines(said: list[str]) -> None:
    line = json.dumps({"course": course.written(gone())})
    found = waited(TALKS.replace("LINE", repr(line)))
    assert found == gone() and said == ["one", "two", "thä", "last"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import sys; print('Error: the disk is full', file=sys.stderr); sys.exit(2)", 2),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("raise SystemExit(1)", 1),
        ("print('no line of JSON')", 0),
        ("print('[1]')", 0),
        ("print('{}')", 0),
        ("""print('{"course": {"no": 1}}')""", 0),
    ],
)
def test_a_process_without_a_result_is_told(said: list[str], text: str, code: int) -> None:
    assert waited(text) is None
    assert said[-1] == (
        f"The process of adam ended with exit code {code} and no result: adam is trained here."
    )
    assert said[:-1] == (["Error: the disk is full"] if code == 2 else [])


@pytest.mark.parametrize("found", [gone(), None])
def test_what_came_to_nothing_beside_is_done_here(
    monkeypatch: pytest.MonkeyPatch, found: Course | None
) -> None:
    """SGD's course is kept, whatever became of Adam's process."""
    @contextmanager
    def meanwhile(config: BabysitConfig, here: NullTracker) -> Iterator[Callable[[], object]]:
        yield lambda: found

    trained: list[str] = []

    def followed(config: BabysitConfig, seeds: object, here: NullTracker) -> Course:
        trained.append(config.optimizer)
        return Course(config.optimizer, force=False)

    monkeypatch.setattr(pipeline, "at_once", lambda *_: True)
    monkeypatch.setattr(pipeline, "meanwhile", meanwhile)
    monkeypatch.setattr(pipeline, "followed", followed)
    configs = [BabysitConfig(optimizer=name) for name in ("sgd", "adam")]
    courses = pipeline._courses(configs, (1,), NullTracker())
    assert [one.optimizer for one in courses] == ["sgd", "adam"]
    assert trained == (["sgd"] if found else ["sgd", "adam"])


def test_the_password_of_a_storage_is_in_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[list[list[str]], dict[str, str]]] = []
    real = abreast.running

    def running(commands: list[list[str]], device: str, changes: dict[str, str]) -> object:
        begun.append((commands, changes))
        return real([[sys.executable, "-c", ""]], device, changes)

    monkeypatch.setattr(abreast, "running", running)
    here = NullTracker()
    here.run_id = "a1"
    config = BabysitConfig(optimizer="adam", storage="postgresql://me:geheim@there/x")
    with course.meanwhile(config, here):
        pass
    [([words], changes)] = begun
    assert not any("geheim" in word for word in words) and "--optimizer=adam" in words
    assert changes == {
        "ALEXNET_COURSE": "a1", "ALEXNET_STORAGE": "postgresql://me:geheim@there/x"
    }


# The two together: stopped, killed


def runs_of(stage: str) -> list[Run]:
    return list(MlflowClient().search_runs(["0"], f"tags.stage = '{stage}'"))


# What the search trains takes long and does not diverge.
SLOW = ("--search-epochs=1000", "--lr-low=1e-5", "--lr-high=1e-4", "--prune=off", "--force")


@contextmanager
def both(store: Path, pictures: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program with both optimizers, as long as the block lasts."""
    words = [sys.executable, "-m", "tests.narrow", "babysit", f"--dataset={pictures}",
             "--optimizer=both", "--batch-size=8", "--device=cpu", *options]
    begun = subprocess.Popen(
        words, env={**environment(store), "OMP_NUM_THREADS": "2"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        yield begun
    finally:
        begun.kill()
        begun.wait()


def await_epochs(begun: subprocess.Popen[bytes], stage: str, epochs: int) -> None:
    """Until both optimizers have ended so many epochs of it."""
    end = time.monotonic() + 240
    client = MlflowClient()
    while sum(
        len(client.get_metric_history(run.info.run_id, "train_loss")) >= epochs
        for run in runs_of(stage)
    ) < 2:
        assert begun.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def await_end(pid: int) -> None:
    end = time.monotonic() + LEAVE_SECONDS
    try:
        while process.started(pid):
            assert time.monotonic() < end, "it trains on, for nobody"
            time.sleep(0.05)
    finally:
        if process.started(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_signal_stops_both(store: Path, pictures: Path) -> None:
    """In long trainings, of which each has a state to write."""
    with both(store, pictures, *SLOW) as begun:
        await_epochs(begun, "trial", 2)
        [child] = children(begun.pid)
        came = time.monotonic()
        begun.send_signal(signal.SIGTERM)
        assert begun.wait(LEAVE_SECONDS) == 143
        assert time.monotonic() - came < SECONDS
        await_end(child)
    for stage, runs in (("trial", 2), ("search", 2), ("babysit", 1)):
        assert [run.info.status for run in runs_of(stage)] == ["KILLED"] * runs
    assert not MlflowClient().search_runs(["0"], "attributes.status = 'RUNNING'")


@pytest.mark.parametrize(("stage", "epochs"), [("sanity", 0), ("trial", 2)])
def test_it_ends_with_the_process_that_it_trains_beside(
    store: Path, pictures: Path, stage: str, epochs: int
) -> None:
    """A search that it leads is not finished then: the same command goes on with it."""
    with both(store, pictures, *SLOW) as begun:
        await_epochs(begun, stage, epochs)
        [child] = children(begun.pid)
        begun.kill()
        begun.wait()
        await_end(child)
    ended = {run.info.status for run in runs_of(stage) if run.data.tags["optimizer"] == "adam"}
    assert ended == {"KILLED"}
    if stage == "trial":
        [search] = [run for run in runs_of("search") if run.data.tags["optimizer"] == "adam"]
        assert search.info.status == "KILLED"


def test_what_a_killed_process_owes_is_trained_here(store: Path, pictures: Path) -> None:
    """On few pictures, so that a stage soon says no or all is soon over."""
    few = ("--limit=8", "--batch-size=4", "--trials=1", "--fine-trials=0", "--repeats=0",
           "--search-epochs=1", "--epochs=1", "--seeds=1")
    with both(store, pictures, *few) as begun:
        await_epochs(begun, "sanity", 0)
        [child] = children(begun.pid)
        os.kill(child, signal.SIGKILL)
        assert begun.wait(240) in (0, 1)
    [parent] = runs_of("babysit")
    adams = [run for run in runs_of("sanity") if run.data.tags["optimizer"] == "adam"]
    here = {run.data.tags["process"] == parent.data.tags["process"]: run for run in adams}
    assert len(runs_of("sanity")) == 3 and len(adams) == 2
    assert here[False].info.status == "RUNNING"  # the killed one's, for `doctor`
    assert here[True].info.status in ("FINISHED", "FAILED")
    assert here[True].data.tags["mlflow.parentRunId"] == parent.info.run_id
