"""A process that a program called `mlflow run` has started ends with it, and with nothing else."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import runner, signals

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")

STAGE = """
import time
from alexnet_mlflow import runner, signals
signals.listen()
runner.LOOK_SECONDS = 0.1
watched = runner.watch()
try:
    print(watched, flush=True)
    time.sleep(60)
finally:
    print("closed", flush=True)
"""
# A shell stands between, as it may below MLflow's; above is the one that a person has used.
PROGRAM = """
import subprocess, sys
subprocess.run(["bash", "-c", "\\"$0\\" -c \\"$1\\"; true", sys.executable, sys.argv[-1]])
"""


WAITING = """
import time
from alexnet_mlflow import cli
from alexnet_mlflow.track import connect
def read(*_):
    connect()
    print("reading", flush=True)
    time.sleep(60)
cli._run_stage = read
cli.script()
"""


@pytest.fixture
def mlflow(tmp_path: Path) -> Path:
    """A program of that name, which starts what it is given."""
    path = tmp_path / "mlflow"
    path.write_text(PROGRAM)
    return path


def begun(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "MLFLOW_RUN_ID": "a1"},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_runner(mlflow: Path, number: signal.Signals) -> None:
    with begun(sys.executable, mlflow, "run", ".", STAGE) as program:
        assert program.stdout is not None and program.stdout.readline() == "True\n"
        program.send_signal(number)
        assert program.wait(5) == -number
        assert program.stdout.read() == "closed\n"


def test_a_stop_that_has_begun_is_not_doubled(mlflow: Path) -> None:
    """A signal to the whole group ends the runner too; a second one would cut off what is kept."""
    slow = STAGE.replace("finally:\n", "finally:\n    time.sleep(1)\n")
    with begun(sys.executable, mlflow, "run", ".", slow) as program:
        assert program.stdout is not None and program.stdout.readline() == "True\n"
        os.killpg(program.pid, signal.SIGTERM)
        assert program.stdout.read() == "closed\n"


def test_it_outlives_the_shell_above_its_runner(mlflow: Path) -> None:
    line = f'"{sys.executable}" "{mlflow}" run . "$0" & sleep 60'
    with begun("bash", "-c", line, STAGE) as shell:
        assert shell.stdout is not None and shell.stdout.readline() == "True\n"
        shell.kill()
        shell.wait(5)
        said, _, _ = select.select([shell.stdout], [], [], 1.0)
        assert not said, "it was stopped"
        os.killpg(shell.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "words",
    [
        ("bash", "-c", f"{sys.executable} -c \"$0\"; true", STAGE),  # no runner
        (sys.executable, "MLFLOW", "server", STAGE),  # MLflow, but not its runner
    ],
)
def test_other_programs_are_no_runners(mlflow: Path, words: tuple[str, ...]) -> None:
    words = tuple(str(mlflow) if word == "MLFLOW" else word for word in words)
    with begun(*words) as program:
        assert program.stdout is not None and program.stdout.readline() == "False\n"
        os.killpg(program.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("mlflow run . -e final", True),
        ("/venv/bin/python /venv/bin/mlflow run .", True),
        ("python -m mlflow run .", True),
        ("mlflow server", False),
        ("vim mlflow", False),
        ("bash -c mlflow_run", False),
        ("", False),
    ],
)
def test_what_a_runner_is_called(line: str, runs: bool) -> None:
    assert runner._runs(line.split(" ")) == runs


def test_without_a_run_of_mlflows_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert not runner.watch()


def test_a_process_knows_when_its_leader_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(signals.STARTER, raising=False)
    assert not runner.starter_gone(), "nobody leads a process that a person started"
    monkeypatch.setenv(signals.STARTER, str(os.getppid()))
    assert not runner.starter_gone()
    monkeypatch.setenv(signals.STARTER, "1234567")
    assert runner.starter_gone()


def test_only_who_was_started_beside_another_trains_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(runner.COURSE, "a1")
    monkeypatch.delenv(signals.STARTER, raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert runner.beside() is None and not runner.watch()
    monkeypatch.setenv(signals.STARTER, str(os.getppid()))
    assert runner.beside() == "a1"


def test_a_run_that_no_stage_has_taken_up_is_closed(store: Path) -> None:
    """Stopped while it reads pictures; its runner may be gone."""
    client = MlflowClient()
    for tags, status, after in (({}, "RUNNING", "KILLED"), ({}, "FINISHED", "FINISHED"),
                                ({"stage": "search"}, "RUNNING", "RUNNING")):
        run = client.create_run("0", tags=tags)
        client.update_run(run.info.run_id, status)
        environment = {**os.environ, "MLFLOW_RUN_ID": run.info.run_id,
                       "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
        words = [sys.executable, "-c", WAITING, "sanity"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None and process.stdout.readline() == "reading\n"
            came = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143 and time.monotonic() - came < 5
        assert client.get_run(run.info.run_id).info.status == after
